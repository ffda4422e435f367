"""Weights from safetensors, fused as the forward pass wants them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from engines.builtin.shape import DecoderShape
from engines.process import CannotServe


@dataclass(frozen=True)
class LayerWeights:
    """One layer. Biases and norms a family lacks are None."""

    input_norm: torch.Tensor
    qkv: torch.Tensor  # [(heads + 2 kv_heads) * head_size, hidden]
    qkv_bias: torch.Tensor | None
    qk_norm: torch.Tensor | None  # [heads + kv_heads, head_size]: each head's own scale
    output: torch.Tensor
    output_bias: torch.Tensor | None
    middle_norm: torch.Tensor
    gate_up: torch.Tensor  # [2 * intermediate, hidden]
    down: torch.Tensor


@dataclass(frozen=True)
class Weights:
    embedding: torch.Tensor
    layers: list[LayerWeights]
    final_norm: torch.Tensor
    head: torch.Tensor  # the embedding itself where the two are tied

    @property
    def total_bytes(self) -> int:
        tensors = [self.embedding, self.final_norm]
        if self.head is not self.embedding:
            tensors.append(self.head)
        for layer in self.layers:
            tensors += [each for each in vars(layer).values() if each is not None]
        return sum(each.numel() * each.element_size() for each in tensors)


def load_weights(folder: str, shape: DecoderShape, *, device: str, dtype: torch.dtype) -> Weights:
    """Reads all tensors the shape asks for. Raises CannotServe if a file or a tensor is missing."""
    stored = _Stored(Path(folder), device=device, dtype=dtype)
    embedding = stored.tensor("model.embed_tokens.weight", shape.vocabulary, shape.hidden)
    head = embedding
    if not shape.tied_embeddings:
        head = stored.tensor("lm_head.weight", shape.vocabulary, shape.hidden)
    return Weights(
        embedding=embedding,
        layers=[_layer(stored, shape, index) for index in range(shape.layers)],
        final_norm=stored.tensor("model.norm.weight", shape.hidden),
        head=head,
    )


def _layer(stored: "_Stored", shape: DecoderShape, index: int) -> LayerWeights:
    prefix = f"model.layers.{index}."
    attention, mlp = prefix + "self_attn.", prefix + "mlp."
    q_size, kv_size = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
    sizes = {"q_proj": q_size, "k_proj": kv_size, "v_proj": kv_size}
    qkv = [stored.tensor(f"{attention}{n}.weight", s, shape.hidden) for n, s in sizes.items()]
    bias = None
    if shape.qkv_bias:
        bias = torch.cat([stored.tensor(f"{attention}{n}.bias", s) for n, s in sizes.items()])
    qk_norm = None
    if shape.qk_norm:
        q_norm = stored.tensor(f"{attention}q_norm.weight", shape.head_size)
        k_norm = stored.tensor(f"{attention}k_norm.weight", shape.head_size)
        qk_norm = torch.stack([q_norm] * shape.heads + [k_norm] * shape.kv_heads)
    gate_up = [
        stored.tensor(f"{mlp}{n}.weight", shape.intermediate, shape.hidden)
        for n in ("gate_proj", "up_proj")
    ]
    return LayerWeights(
        input_norm=stored.tensor(f"{prefix}input_layernorm.weight", shape.hidden),
        qkv=torch.cat(qkv),
        qkv_bias=bias,
        qk_norm=qk_norm,
        output=stored.tensor(f"{attention}o_proj.weight", shape.hidden, q_size),
        output_bias=(
            stored.tensor(f"{attention}o_proj.bias", shape.hidden) if shape.output_bias else None
        ),
        middle_norm=stored.tensor(f"{prefix}post_attention_layernorm.weight", shape.hidden),
        gate_up=torch.cat(gate_up),
        down=stored.tensor(f"{mlp}down_proj.weight", shape.hidden, shape.intermediate),
    )


class _Stored:
    """The tensors of a folder of safetensors files, by name."""

    def __init__(self, folder: Path, *, device: str, dtype: torch.dtype) -> None:
        self._device = device
        self._dtype = dtype
        try:
            self._files: list[Any] = [
                safe_open(folder / name, framework="pt", device="cpu")
                for name in _file_names(folder)
            ]
        except (OSError, SafetensorError) as error:
            raise CannotServe("unreadable_weights", f"{folder}: {error}") from None
        self._file_of = {name: file for file in self._files for name in file.keys()}  # noqa: SIM118

    def tensor(self, name: str, *shape: int) -> torch.Tensor:
        """A copy of its own on the device. Raises CannotServe if missing or of another shape."""
        file = self._file_of.get(name)
        if file is None:
            raise CannotServe("unreadable_weights", f"tensor {name} is missing")
        stored: torch.Tensor = file.get_tensor(name)
        if tuple(stored.shape) != shape:
            raise CannotServe(
                "unreadable_weights",
                f"tensor {name} is {list(stored.shape)}; config.json says {list(shape)}",
            )
        return stored.to(device=self._device, dtype=self._dtype, copy=True)


def _file_names(folder: Path) -> list[str]:
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
