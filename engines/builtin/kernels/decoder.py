"""The forward pass in one call of the compiled library: from tokens to logits.

The interpreter's lock is free meanwhile, so that the event loop may send what the step before
brought. Only where adapters or experts take part does the call stop at their projections.
"""

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from engines.builtin.cache import BlockCache
from engines.builtin.kernels import library as kernels
from engines.builtin.kernels.library import address, aligned
from engines.builtin.kernels.packed import PackedProjection, packed_rows
from engines.builtin.model import rotations
from engines.builtin.projection import DenseFeedForward, FeedForward, Projection
from engines.builtin.shape import DecoderShape
from engines.builtin.weights import Layer, Weights

HEAD_SIZES = (32, 64, 128, 256)
LARGEST_GROUP = 48  # queries that share a key head
STAGES = 4  # a layer, as forward.c counts them


def can_run(shape: DecoderShape, *, device: str, dtype: torch.dtype) -> bool:
    """Whether the compiled forward pass is made for this model on this device."""
    return (
        torch.device(device).type == "cpu"
        and dtype is torch.bfloat16
        and shape.head_size in HEAD_SIZES
        and shape.hidden % 32 == 0
        and shape.intermediate % 32 == 0
        and shape.heads % shape.kv_heads == 0
        and shape.heads // shape.kv_heads <= LARGEST_GROUP
    )


@dataclass(frozen=True)
class Rows:
    """All tokens of a step, as int64 arrays. Tokens of one sequence lie together and in order."""

    tokens: np.ndarray
    positions: np.ndarray
    slots: np.ndarray
    outputs: np.ndarray  # the rows whose logits are wanted


class CompiledDecoder:
    """Packed weights and their forward pass. Not safe to call from two threads at once."""

    def __init__(
        self,
        library: Any,
        shape: DecoderShape,
        weights: Weights,
        *,
        context: int,
        threads: int,
    ) -> None:
        self.shape = shape
        self.weights = weights
        self.device = weights.final_norm.device
        self.dtype = weights.final_norm.dtype
        self._library = library
        self._context = context
        self._threads = threads
        self._rotations = [each.to(self.dtype).contiguous() for each in rotations(shape, context)]
        self._layers = (kernels.Layer * shape.layers)(*map(_layer, weights.layers))
        self._model = self._describe()
        self._buffers = _Buffers(self._library, shape, rows=0, context=context, threads=threads)
        self._logits = torch.empty(0, shape.vocabulary)

    def logits(self, rows: Rows, cache: BlockCache) -> torch.Tensor:
        """Runs one step, filling the cache; float32 [outputs, vocabulary], valid until the next."""
        count = len(rows.tokens)
        if count > self._buffers.rows:
            self._buffers = _Buffers(
                self._library, self.shape, rows=count, context=self._context, threads=self._threads
            )
        if len(rows.outputs) > len(self._logits):
            self._logits = torch.empty(len(rows.outputs), self.shape.vocabulary)
        step = self._step(rows, cache)
        begun = 0
        for stage, change in self._changes(count):
            self._run(step, begun, stage + 1)
            change()
            begun = stage + 1
        self._run(step, begun, STAGES * self.shape.layers + 1)
        return self._logits[: len(rows.outputs)]

    def _run(self, step: kernels.Step, first: int, end: int) -> None:
        self._library.run_stages(ctypes.byref(self._model), ctypes.byref(step), first, end)

    def _changes(self, rows: int) -> list[tuple[int, Callable[[], None]]]:
        """What others compute in this step, by the stage after which they do."""
        changes: list[tuple[int, Callable[[], None]]] = []
        buffers = self._buffers
        for index, layer in enumerate(self.weights.layers):
            inside = [
                (layer.qkv, buffers.normed, buffers.qkv),
                (layer.output, buffers.attended, buffers.delta),
            ]
            feed_forward = layer.feed_forward
            if isinstance(feed_forward, DenseFeedForward):
                inside += [
                    (feed_forward.gate_up, buffers.normed, buffers.gate_up),
                    (feed_forward.down, buffers.activated, buffers.delta),
                ]
            for stage, (projection, read, written) in enumerate(inside, start=STAGES * index):
                if projection.is_adapted:
                    changes.append((stage, _adapting(projection, read[:rows], written[:rows])))
            if not isinstance(feed_forward, DenseFeedForward):
                read, written = buffers.normed[:rows], buffers.delta[:rows]
                changes.append((STAGES * index + 2, _feeding(feed_forward, read, written)))
        return changes

    def _describe(self) -> kernels.Model:
        shape, weights = self.shape, self.weights
        cos, sin = self._rotations
        return kernels.Model(
            layer=self._layers,
            head=_matrix(weights.head),
            final_norm=address(weights.final_norm),
            embedding=address(weights.embedding.table),
            cos=address(cos),
            sin=address(sin),
            layers=shape.layers,
            hidden=shape.hidden,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_size=shape.head_size,
            intermediate=shape.intermediate,
            threads=self._threads,
            epsilon=shape.norm_epsilon,
        )

    def _step(self, rows: Rows, cache: BlockCache) -> kernels.Step:
        buffers = self._buffers
        return kernels.Step(
            rows=len(rows.tokens),
            outputs=len(rows.outputs),
            tokens=rows.tokens.ctypes.data,
            positions=rows.positions.ctypes.data,
            slots=rows.slots.ctypes.data,
            output_rows=rows.outputs.ctypes.data,
            keys=address(cache.keys),
            values=address(cache.values),
            blocks=cache.keys.shape[1],
            block_tokens=cache.keys.shape[3],
            tables=cache.tables.ctypes.data,
            table_width=cache.tables.shape[1],
            logits=address(self._logits),
            **buffers.addresses,
        )


class _Buffers:
    """What a step of up to `rows` tokens writes on its way."""

    def __init__(
        self, library: Any, shape: DecoderShape, *, rows: int, context: int, threads: int
    ) -> None:
        self.rows = rows
        attended = shape.heads * shape.head_size
        qkv = attended + 2 * shape.kv_heads * shape.head_size
        widest = max(shape.hidden, attended, shape.intermediate)

        def matrix(width: int) -> torch.Tensor:
            return aligned(rows * width, torch.bfloat16).view(rows, width)

        self.hidden, self.normed, self.delta = (matrix(shape.hidden) for _ in range(3))
        self.qkv, self.attended = matrix(qkv), matrix(attended)
        self.gate_up, self.activated = matrix(2 * shape.intermediate), matrix(shape.intermediate)
        packed = aligned(packed_rows(rows) * widest, torch.bfloat16)
        runs = torch.empty(2 * rows + 1, dtype=torch.long)
        counters = aligned(library.counters_needed(shape.layers), torch.long)
        stride = library.scratch_needed(widest, context)
        scratch = aligned(stride * threads, torch.uint8)
        tensors = vars(self) | {
            "packed": packed, "runs": runs, "counters": counters, "scratch": scratch
        }  # fmt: skip
        self._kept = (packed, runs, counters, scratch)
        self.addresses: dict[str, Any] = {
            name: address(each) for name, each in tensors.items() if isinstance(each, torch.Tensor)
        }
        self.addresses["scratch_stride"] = stride


def _layer(layer: Layer) -> kernels.Layer:
    feed_forward = layer.feed_forward
    described = kernels.Layer(
        input_norm=address(layer.input_norm),
        qk_norm=address(layer.qk_norm),
        middle_norm=address(layer.middle_norm),
        qkv=_matrix(layer.qkv),
        output=_matrix(layer.output),
    )
    if isinstance(feed_forward, DenseFeedForward):
        described.gate_up = _matrix(feed_forward.gate_up)
        described.down = _matrix(feed_forward.down)
    return described


def _matrix(projection: Projection) -> kernels.Matrix:
    assert isinstance(projection, PackedProjection)  # noqa: S101 (load_weights was told so)
    return projection.matrix


def _adapting(projection: Projection, rows: torch.Tensor, out: torch.Tensor) -> Callable[[], None]:
    return lambda: projection.adapt(rows, out)


def _feeding(part: FeedForward, rows: torch.Tensor, out: torch.Tensor) -> Callable[[], None]:
    def feed() -> None:
        out.copy_(part(rows))

    return feed
