"""The compiled functions, and when they may be used."""

import ctypes
import logging
from ctypes import POINTER, c_double, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import torch

from native import build

logger = logging.getLogger(__name__)

HEAD_SIZES = 32  # heads are whole panels of so many values


class Line(ctypes.Structure):
    _fields_ = [
        ("tokens", c_int64),
        ("heads", c_int64),
        ("key_heads", c_int64),
        ("size", c_int64),
        ("shared", c_int64),
        ("segments", c_int64),
        ("starts", c_void_p),
        ("threads", c_int64),
        ("scale", c_double),
    ]


class Heads(ctypes.Structure):
    _fields_ = [
        ("tokens", c_int64),
        ("heads", c_int64),
        ("key_heads", c_int64),
        ("size", c_int64),
        ("query_weight", c_void_p),
        ("key_weight", c_void_p),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("epsilon", c_double),
        ("threads", c_int64),
    ]


def usable(tensor: torch.Tensor) -> Any | None:
    """The library, where it knows what to do with such a tensor: bfloat16 on a CPU."""
    if tensor.dtype != torch.bfloat16 or tensor.device.type != "cpu":
        return None
    return load()


def compiled() -> Any:
    """The library, where `usable` has said that it is there."""
    return load()


@cache
def load() -> Any | None:
    """The library; None, and a line in the log, where it cannot be built."""
    try:
        library = ctypes.CDLL(str(build.library_path(Path(__file__).parent)))
    except (build.CannotBuild, OSError) as error:
        logger.warning("no compiled kernels, torch's own operations are used: %s", error)
        return None
    rows, places = c_int64, c_void_p
    signatures = {
        "add_norm": [places] * 6 + [rows, rows, c_double, rows],
        "add_norm_back": [places] * 7 + [rows] * 3,
        "gated": [places] * 2 + [rows] * 3,
        "gated_back": [places] * 3 + [rows] * 3,
        "split_heads": [POINTER(Heads)] + [places] * 4,
        "join_heads_back": [POINTER(Heads)] + [places] * 6,
        "cross_entropies": [places] * 5 + [rows] * 3,
        "attend": [POINTER(Line)] + [places] * 5,
        "attend_back": [POINTER(Line)] + [places] * 9,
    }
    for name, arguments in signatures.items():
        function = getattr(library, name)
        function.argtypes = arguments
        function.restype = ctypes.c_int if name.startswith("attend") else None
    return library


def address(tensor: torch.Tensor | None) -> int | None:
    """Where a contiguous tensor's memory begins."""
    if tensor is None:
        return None
    assert tensor.is_contiguous(), "kernels read contiguous memory"  # noqa: S101
    return int(tensor.data_ptr())
