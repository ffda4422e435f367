"""The forward pass of dense Qwen2, Qwen2.5 and Qwen3 for training, over transformers' own modules.

It reads the weights where transformers and PEFT keep them and changes nothing about them, so that
results are saved, merged and loaded as ever. Against the modules' own forward pass it spares:
padding (documents lie on one line, each attended to by itself alone), masks and caches, products for
slopes that nobody asked for, passes over memory between the products, and in the last layer all
that follows attention for tokens whose next one is not learnt.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from trainer.attention import Heads, Line, attend
from trainer.batches import Batch
from trainer.pointwise import add_norm, gated
from trainer.projection import Projection

logger = logging.getLogger(__name__)

_FAMILIES = frozenset({"qwen2", "qwen3"})
# Rotations that are the same for every length of text.
_FIXED_ROTATIONS = frozenset({"default", "linear", "llama3", "yarn"})
# Of what is free, kept activations may take this much; the rest is for slopes and others' surprises.
_MEMORY_SHARE = 0.6


def supports(body: nn.Module) -> bool:
    """Whether this file computes what the model's own modules would."""
    config: Any = body.config
    return (
        config.model_type in _FAMILIES
        and set(config.layer_types) == {"full_attention"}
        and config.attention_dropout == 0.0
        and config.hidden_act == "silu"
        and config.rope_parameters.get("rope_type", "default") in _FIXED_ROTATIONS
    )


class Decoder:
    """Hidden states of a batch at its label positions. `body` is the model without its head."""

    def __init__(self, body: Any) -> None:
        self._body = body
        self._layers = [_Layer.of(layer, body.config) for layer in body.layers]
        self._told = False

    def hidden(self, batch: Batch) -> torch.Tensor:
        """[labels, width], normed: what the head multiplies."""
        line = self._line(batch)
        x, added = self._body.embed_tokens(batch.ids), None
        again = torch.is_grad_enabled() and self._computes_again(len(batch.ids))
        for layer in self._layers[:-1]:
            if again:
                x, added = checkpoint(layer, x, added, line, None, use_reentrant=False)
            else:
                x, added = layer(x, added, line, None)
        x, added = self._layers[-1](x, added, line, batch.positions)
        norm = self._body.norm
        return add_norm(x, added, norm.weight, epsilon=norm.variance_epsilon)[1]

    def activation_bytes(self, tokens: int) -> int:
        """What a step of so many tokens keeps for its backward pass, the head's chunk apart."""
        return sum(layer.kept_values for layer in self._layers) * tokens * self._value_bytes()

    def _computes_again(self, tokens: int) -> bool:
        """Whether layers keep only their input and are computed twice, for want of memory."""
        needed, free = self.activation_bytes(tokens), _free_bytes(self._weight())
        if needed <= free * _MEMORY_SHARE:
            return False
        if not self._told:
            self._told = True
            logger.info(
                "activations of %d tokens need %.1f GiB of %.1f GiB free: layers are computed again"
                " in backward",
                tokens,
                needed / 2**30,
                free / 2**30,
            )
        return True

    def _line(self, batch: Batch) -> Line:
        rotary = self._body.rotary_emb
        frequencies = rotary.inv_freq.float().to(batch.ids.device)
        angles = batch.places()[:, None] * frequencies
        scale = rotary.attention_scaling
        return Line(batch.starts(), batch.shared, angles.cos() * scale, angles.sin() * scale)

    def _weight(self) -> torch.Tensor:
        weight: torch.Tensor = self._body.embed_tokens.weight
        return weight

    def _value_bytes(self) -> int:
        return int(self._weight().element_size())


@dataclass(frozen=True)
class _Layer:
    input_norm: Any
    query_key_value: Projection
    heads: Heads
    output: Projection
    middle_norm: Any
    gate_up: Projection
    down: Projection
    kept_values: int  # for backward, of a token

    @classmethod
    def of(cls, layer: Any, config: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        size, norm = attention.head_dim, getattr(attention, "q_norm", None)
        query, key = config.num_attention_heads, config.num_key_value_heads
        return cls(
            input_norm=layer.input_layernorm,
            query_key_value=Projection([attention.q_proj, attention.k_proj, attention.v_proj]),
            heads=Heads(
                heads=query,
                key_heads=key,
                size=size,
                scale=attention.scaling,
                epsilon=config.rms_norm_eps,
                query_norm=norm.weight if norm is not None else None,
                key_norm=attention.k_norm.weight if norm is not None else None,
            ),
            output=Projection([attention.o_proj]),
            middle_norm=layer.post_attention_layernorm,
            gate_up=Projection([mlp.gate_proj, mlp.up_proj]),
            down=Projection([mlp.down_proj]),
            kept_values=4 * config.hidden_size
            + (2 * query + 2 * key) * size
            + 3 * config.intermediate_size,
        )

    def __call__(
        self,
        x: torch.Tensor,
        added: torch.Tensor | None,
        line: Line,
        positions: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A layer's input is `x + added`, its output the sum of what it returns.

        With `positions` only those tokens go on after attention.
        """
        x, normed = add_norm(
            x, added, self.input_norm.weight, epsilon=self.input_norm.variance_epsilon
        )
        attended = attend(self.query_key_value(normed), self.heads, line)
        if positions is not None:
            x, attended = x.index_select(0, positions), attended.index_select(0, positions)
        x, normed = add_norm(
            x,
            self.output(attended),
            self.middle_norm.weight,
            epsilon=self.middle_norm.variance_epsilon,
        )
        return x, self.down(gated(self.gate_up(normed)))


def _free_bytes(like: torch.Tensor) -> int:
    if like.device.type == "cpu":
        return int(psutil.virtual_memory().available)
    free, _ = torch.get_device_module(like.device).mem_get_info(like.device)
    return int(free)
