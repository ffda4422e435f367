"""Weights from safetensors, fused as the forward pass wants them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from engines.builtin.experts import ExpertsFeedForward
from engines.builtin.projection import DenseFeedForward, Embedding, FeedForward, Projection
from engines.builtin.shape import DecoderShape, ExpertsShape
from engines.process import CannotServe


class MakeProjection(Protocol):
    """How a projection is made of its stored weights, which it may keep in another form."""

    def __call__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, /, *, parts: Mapping[str, int]
    ) -> Projection: ...


@dataclass(frozen=True)
class Layer:
    """One layer. `qk_norm` is None in families that lack it."""

    input_norm: torch.Tensor
    qkv: Projection  # (heads + 2 kv_heads) * head_size outputs
    qk_norm: torch.Tensor | None  # [heads + kv_heads, head_size]: each head's own scale
    output: Projection
    middle_norm: torch.Tensor
    feed_forward: FeedForward

    @property
    def total_bytes(self) -> int:
        norms = [self.input_norm, self.middle_norm]
        if self.qk_norm is not None:
            norms.append(self.qk_norm)
        maps = (self.qkv, self.output, self.feed_forward)
        return sum(map(_bytes, norms)) + sum(each.total_bytes for each in maps)


@dataclass(frozen=True)
class Weights:
    embedding: Embedding
    layers: list[Layer]
    final_norm: torch.Tensor
    head: Projection  # over the embedding itself where the two are tied

    @property
    def total_bytes(self) -> int:
        table = self.embedding.table
        own_table = 0 if table is None or table is self.head.weight else _bytes(table)
        layers = sum(layer.total_bytes for layer in self.layers)
        return own_table + layers + _bytes(self.final_norm) + self.head.total_bytes


def load_weights(
    folder: str,
    shape: DecoderShape,
    *,
    device: str,
    dtype: torch.dtype,
    make: MakeProjection = Projection,
) -> Weights:
    """Reads all tensors the shape asks for. Raises CannotServe if a file or a tensor is missing.

    `make` decides how the weights of projections are kept.
    """
    stored = _Stored(Path(folder), device=device, dtype=dtype, fp8_block=shape.fp8_block, make=make)
    table = stored.tensor("model.embed_tokens.weight", shape.vocabulary, shape.hidden)
    own = table
    if not shape.tied_embeddings:
        own = stored.tensor("lm_head.weight", shape.vocabulary, shape.hidden)
    head = make(own, None, parts={"lm_head": shape.vocabulary})
    packed_away = shape.tied_embeddings and head.weight is None
    return Weights(
        embedding=Embedding(None if packed_away else table),
        layers=[_layer(stored, shape, index) for index in range(shape.layers)],
        final_norm=stored.tensor("model.norm.weight", shape.hidden),
        head=head,
    )


def _layer(stored: "_Stored", shape: DecoderShape, index: int) -> Layer:
    prefix = f"model.layers.{index}."
    attention = prefix + "self_attn."
    q_size, kv_size = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    qk_norm = None
    if shape.qk_norm:
        q_norm = stored.tensor(f"{attention}q_norm.weight", shape.head_size)
        k_norm = stored.tensor(f"{attention}k_norm.weight", shape.head_size)
        qk_norm = torch.stack([q_norm] * shape.heads + [k_norm] * shape.kv_heads)
    return Layer(
        input_norm=stored.tensor(f"{prefix}input_layernorm.weight", shape.hidden),
        qkv=_projection(
            stored,
            attention,
            {"q_proj": q_size, "k_proj": kv_size, "v_proj": kv_size},
            inputs=shape.hidden,
            bias=shape.qkv_bias,
        ),
        qk_norm=qk_norm,
        output=_projection(
            stored, attention, {"o_proj": shape.hidden}, inputs=q_size, bias=shape.output_bias
        ),
        middle_norm=stored.tensor(f"{prefix}post_attention_layernorm.weight", shape.hidden),
        feed_forward=(
            _experts(stored, shape.hidden, shape.experts, f"{prefix}mlp.")
            if shape.experts is not None and index in shape.experts.layers
            else _feed_forward(stored, shape, f"{prefix}mlp.")
        ),
    )


def _feed_forward(stored: "_Stored", shape: DecoderShape, prefix: str) -> FeedForward:
    size = shape.intermediate
    return DenseFeedForward(
        gate_up=_projection(
            stored, prefix, {"gate_proj": size, "up_proj": size}, inputs=shape.hidden
        ),
        down=_projection(stored, prefix, {"down_proj": shape.hidden}, inputs=size),
    )


def _experts(
    stored: "_Stored", hidden: int, shape: ExpertsShape, prefix: str
) -> ExpertsFeedForward:
    router = stored.tensor(f"{prefix}gate.weight", shape.count, hidden)
    size = shape.intermediate
    gate_up = router.new_empty(shape.count, 2 * size, hidden)
    down = router.new_empty(shape.count, hidden, size)
    for expert in range(shape.count):  # one at a time: all of them beside their copy may not fit
        own = f"{prefix}experts.{expert}."
        gate_up[expert, :size] = stored.tensor(f"{own}gate_proj.weight", size, hidden)
        gate_up[expert, size:] = stored.tensor(f"{own}up_proj.weight", size, hidden)
        down[expert] = stored.tensor(f"{own}down_proj.weight", hidden, size)
    return ExpertsFeedForward(
        router=router,
        gate_up=gate_up,
        down=down,
        chosen=shape.chosen,
        normalized=shape.normalized,
    )


def _projection(
    stored: "_Stored", prefix: str, parts: Mapping[str, int], *, inputs: int, bias: bool = False
) -> Projection:
    """Stored matrices that read the same rows, joined into one."""
    weights = [stored.tensor(f"{prefix}{n}.weight", size, inputs) for n, size in parts.items()]
    offsets = None
    if bias:
        offsets = torch.cat([stored.tensor(f"{prefix}{n}.bias", s) for n, s in parts.items()])
    joined = weights[0] if len(weights) == 1 else torch.cat(weights)
    return stored.make(joined, offsets, parts=parts)


def _bytes(tensor: torch.Tensor) -> int:
    count: int = tensor.numel() * tensor.element_size()
    return count


class _Stored:
    """The tensors of a folder of safetensors files, by name."""

    def __init__(
        self,
        folder: Path,
        *,
        device: str,
        dtype: torch.dtype,
        fp8_block: tuple[int, int] | None,
        make: MakeProjection,
    ) -> None:
        self.make = make
        self._device = device
        self._dtype = dtype
        self._fp8_block = fp8_block
        try:
            self._files: list[Any] = [
                safe_open(folder / name, framework="pt", device="cpu")
                for name in weight_files(folder)
            ]
        except (OSError, SafetensorError) as error:
            raise CannotServe("unreadable_weights", f"{folder}: {error}") from None
        self._file_of = {name: file for file in self._files for name in file.keys()}  # noqa: SIM118

    def tensor(self, name: str, *shape: int) -> torch.Tensor:
        """A copy of its own on the device. Raises CannotServe if missing or of another shape."""
        stored = self._read(name, shape)
        if stored.dtype is torch.float8_e4m3fn and self._fp8_block is not None:
            down, across = self._fp8_block
            grid = (-(-shape[0] // down), -(-shape[1] // across))
            stored = scaled_by_block(stored, self._read(f"{name}_scale_inv", grid), down, across)
        elif stored.dtype.itemsize < 2:
            raise CannotServe("unreadable_weights", f"tensor {name} is {stored.dtype}, unscaled")
        return stored.to(device=self._device, dtype=self._dtype, copy=True)

    def _read(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        bare = name.removeprefix("model.")  # as a decoder saved without its head writes it
        found = name if name in self._file_of else bare
        if found not in self._file_of:
            raise CannotServe("unreadable_weights", f"tensor {name} is missing")
        stored: torch.Tensor = self._file_of[found].get_tensor(found)
        if tuple(stored.shape) != shape:
            raise CannotServe(
                "unreadable_weights",
                f"tensor {name} is {list(stored.shape)}; config.json says {list(shape)}",
            )
        return stored


def scaled_by_block(
    stored: torch.Tensor, scales: torch.Tensor, down: int, across: int
) -> torch.Tensor:
    """Float32 values of 8-bit floats whose blocks of `down` rows and `across` columns share a scale.

    The last blocks of a side may be cut off by its end.
    """
    rows, columns = stored.shape
    wide = scales.float().repeat_interleave(down, 0)[:rows]
    return stored.float() * wide.repeat_interleave(across, 1)[:, :columns]


def weight_files(folder: Path) -> list[str]:
    """The names of the folder's safetensors files. Raises CannotServe for other formats."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        if not (folder / "model.safetensors").exists():
            raise CannotServe(
                "unreadable_weights",
                f"{folder} has no model.safetensors; other formats are not read",
            )
        return ["model.safetensors"]
    try:
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CannotServe("unreadable_weights", f"{index}: {error!r}") from None
    for name in names:
        if not name.endswith(".safetensors") or Path(name).name != name:
            raise CannotServe("unreadable_weights", f"{index} names {name!r}")
    return names
