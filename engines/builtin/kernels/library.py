"""The compiled kernels' functions and structures, as C declares them."""

import ctypes
import logging
from ctypes import POINTER, c_double, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import torch

from native import build

logger = logging.getLogger(__name__)


class Matrix(ctypes.Structure):
    _fields_ = [
        ("panels", c_void_p),
        ("bias", c_void_p),
        ("outputs", c_int64),
        ("inputs", c_int64),
        ("bits", c_int64),
    ]


class Layer(ctypes.Structure):
    _fields_ = [
        ("input_norm", c_void_p),
        ("qk_norm", c_void_p),
        ("middle_norm", c_void_p),
        ("qkv", Matrix),
        ("output", Matrix),
        ("gate_up", Matrix),
        ("down", Matrix),
    ]


class Model(ctypes.Structure):
    _fields_ = [
        ("layer", POINTER(Layer)),
        ("head", Matrix),
        ("final_norm", c_void_p),
        ("embedding", c_void_p),
        ("cos", c_void_p),
        ("sin", c_void_p),
        ("layers", c_int64),
        ("hidden", c_int64),
        ("heads", c_int64),
        ("kv_heads", c_int64),
        ("head_size", c_int64),
        ("intermediate", c_int64),
        ("threads", c_int64),
        ("epsilon", c_double),
    ]


class Step(ctypes.Structure):
    _fields_ = [
        ("rows", c_int64),
        ("outputs", c_int64),
        ("tokens", c_void_p),
        ("positions", c_void_p),
        ("slots", c_void_p),
        ("output_rows", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("blocks", c_int64),
        ("block_tokens", c_int64),
        ("tables", c_void_p),
        ("table_width", c_int64),
        ("hidden", c_void_p),
        ("normed", c_void_p),
        ("qkv", c_void_p),
        ("attended", c_void_p),
        ("gate_up", c_void_p),
        ("activated", c_void_p),
        ("delta", c_void_p),
        ("logits", c_void_p),
        ("packed", c_void_p),
        ("runs", c_void_p),
        ("counters", c_void_p),
        ("scratch", c_void_p),
        ("scratch_stride", c_int64),
    ]


@cache
def load() -> Any | None:
    """The library; None, and a line in the log, where it cannot be built.

    It is linked to OpenMP's runtime by the name under which torch has already loaded one, so that
    both share one team of threads.
    """
    try:
        library = ctypes.CDLL(str(build.library_path(Path(__file__).parent)))
    except (build.CannotBuild, OSError) as error:
        logger.warning("no compiled kernels, torch's own are used: %s", error)
        return None
    if library.prepare():
        logger.warning("no compiled kernels: the system keeps the processor's units from us")
        return None
    library.run_stages.argtypes = [POINTER(Model), POINTER(Step), c_int64, c_int64]
    library.pack_matrix.argtypes = [POINTER(Matrix), c_void_p, c_int64]
    library.unpack_matrix.argtypes = [POINTER(Matrix), c_void_p, c_void_p]
    library.multiply.argtypes = [
        POINTER(Matrix), c_void_p, c_int64, c_void_p, c_void_p, c_void_p, c_int64,
    ]  # fmt: skip
    for name in ("run_stages", "pack_matrix", "unpack_matrix", "multiply"):
        getattr(library, name).restype = None
    library.packed_bytes.argtypes = [POINTER(Matrix)]
    library.counters_needed.argtypes = [c_int64]
    library.scratch_needed.argtypes = [c_int64, c_int64]
    for name in ("packed_bytes", "counters_needed", "scratch_needed"):
        getattr(library, name).restype = c_int64
    return library


def address(tensor: torch.Tensor | None) -> int | None:
    """Where a contiguous tensor's memory begins."""
    if tensor is None:
        return None
    assert tensor.is_contiguous(), "kernels read contiguous memory"  # noqa: S101
    return int(tensor.data_ptr())


def aligned(count: int, dtype: torch.dtype) -> torch.Tensor:
    """Uninitialized memory that begins on a cache line; large pieces on large pages, if there are."""
    bytes_ = count * dtype.itemsize
    raw = torch.empty(bytes_ + 64, dtype=torch.uint8)
    start = -raw.data_ptr() % 64
    return raw[start : start + bytes_].view(dtype)
