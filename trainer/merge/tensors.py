"""Safetensors files read by stretches of rows and written the same way: never a whole file in memory.

A file is 8 bytes of length, a JSON header of that length, then the tensors' bytes
(https://github.com/huggingface/safetensors, section Format). Reads go past the page tables, so that
what a process is seen to hold is what it holds.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

COPY_BYTES = 8 << 20
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
BYTES_OF = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class Stored:
    """A tensor where it lies."""

    path: Path
    dtype: str  # as safetensors writes it
    shape: tuple[int, ...]
    start: int  # in the file
    size_bytes: int

    @property
    def is_float(self) -> bool:
        return self.dtype in DTYPES

    @property
    def rows(self) -> int:
        return self.shape[0] if self.shape else 1

    @property
    def row_bytes(self) -> int:
        return self.size_bytes // self.rows if self.rows else 0

    def read(self, first: int = 0, last: int | None = None) -> torch.Tensor:
        """Rows `first` to `last` in the tensor's own dtype, which must be a float's."""
        last = self.rows if last is None else last
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start + first * self.row_bytes)
            data = bytearray((last - first) * self.row_bytes)
            view = memoryview(data)
            while view:
                count = file.readinto(view)
                if not count:
                    raise OSError(f"{self.path.name} ends too early")
                view = view[count:]
        shape = (last - first, *self.shape[1:]) if self.shape else ()
        if not data:
            return torch.empty(shape, dtype=DTYPES[self.dtype])
        return torch.frombuffer(data, dtype=DTYPES[self.dtype]).reshape(shape)

    def chunks(self) -> Iterator[bytes]:
        """The bytes as they are."""
        left = self.size_bytes
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start)
            while left:
                chunk = file.read(min(COPY_BYTES, left))
                if not chunk:
                    raise OSError(f"{self.path.name} ends too early")
                left -= len(chunk)
                yield chunk


@dataclass(frozen=True)
class Shard:
    """One file: its tensors in the order of their bytes, and what its header says beside them."""

    path: Path
    tensors: dict[str, Stored]
    metadata: dict[str, str]


def read_shard(path: Path) -> Shard:
    """Raises ValueError for what is no safetensors file."""
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= path.stat().st_size - 8:
            raise ValueError(f"{path.name} is no safetensors file")
        header: dict[str, Any] = json.loads(file.read(length))
    metadata = header.pop("__metadata__", {})
    found = {
        name: Stored(
            path=path,
            dtype=entry["dtype"],
            shape=tuple(entry["shape"]),
            start=8 + length + entry["data_offsets"][0],
            size_bytes=entry["data_offsets"][1] - entry["data_offsets"][0],
        )
        for name, entry in header.items()
    }
    return Shard(path, dict(sorted(found.items(), key=lambda item: item[1].start)), metadata)


@dataclass(frozen=True)
class Layout:
    """A tensor to be written: what its header says."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return math.prod(self.shape) * BYTES_OF[self.dtype]


def write_shard(
    path: Path,
    layout: Mapping[str, Layout | Stored],
    fill: Callable[[str], Iterable[bytes]],
    *,
    metadata: Mapping[str, str],
) -> None:
    """A file of these tensors, whole or not there; `fill` gives each one's bytes, in order."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, entry in layout.items():
        offsets = [end, end + entry.size_bytes]
        header[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": offsets}
        end = offsets[1]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    beside = path.with_name(path.name + ".partial")
    with beside.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, entry in layout.items():
            _write(file, name, fill(name), entry.size_bytes)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def _write(file: BinaryIO, name: str, chunks: Iterable[bytes], size_bytes: int) -> None:
    written = sum(file.write(chunk) for chunk in chunks)
    if written != size_bytes:
        raise OSError(f"{name} came to {written} bytes, not {size_bytes}")
