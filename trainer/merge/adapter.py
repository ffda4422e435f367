"""PEFT's LoRA folders, read for merging: which tensor of the base becomes what.

lora, rslora  W + s B A                  s: alpha / r, or alpha / sqrt(r)   (Hu et al. 2021, Kalajdzievski 2023)
dora          m (W + s B A) / |W + s B A|   by rows, m the magnitudes       (Liu et al. 2024)

Names of fields: https://huggingface.co/docs/peft/package_reference/lora. What is not known to leave
the result as it is, is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.merge.refusals import NotMergeable
from trainer.merge.tensors import Stored, read_shard

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
LARGEST_CONFIG_BYTES = 1 << 20
# Fields that say nothing about what is computed from the saved matrices, or are read below.
SILENT = {
    "alora_invocation_string", "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias",
    "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules", "inference_mode",
    "init_lora_weights", "layers_pattern", "layers_to_transform", "loftq_config", "lora_alpha",
    "lora_dropout", "lora_ga_config", "megatron_core", "modules_to_save", "peft_type",
    "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config",
    "target_modules", "task_type", "use_dora", "use_rslora",
}  # fmt: skip
# Beginnings that leave the base's own weights as they were published.
SOUND_STARTS = {"true", "false", "gaussian", "eva", "orthogonal"}
LORA = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(\.weight)?"
)
BY_TRAINING = "train it again with plain LoRA, rsLoRA or DoRA on linear layers and embeddings"


@dataclass
class Module:
    """What the adapter has learnt for one module of the model."""

    name: str  # as the model's class calls it
    scale: float = 1.0
    parts: dict[str, Stored] = field(default_factory=dict)

    @property
    def is_embedding(self) -> bool:
        return "lora_embedding_A" in self.parts

    @property
    def down(self) -> Stored:
        """[rank, inputs]"""
        return self.parts["lora_embedding_A" if self.is_embedding else "lora_A"]

    @property
    def up(self) -> Stored:
        """[outputs, rank]"""
        return self.parts["lora_embedding_B" if self.is_embedding else "lora_B"]

    @property
    def magnitude(self) -> Stored | None:
        """[outputs] of DoRA"""
        return self.parts.get("lora_magnitude_vector")

    @property
    def rows(self) -> int:
        """Of the weight that it belongs to."""
        return self.down.shape[1] if self.is_embedding else self.up.shape[0]

    @property
    def columns(self) -> int:
        return self.up.shape[0] if self.is_embedding else self.down.shape[1]


@dataclass(frozen=True)
class Adapter:
    """`replaced` holds whole tensors by name: modules_to_save, and embeddings saved along."""

    modules: list[Module]
    replaced: dict[str, Stored]


def read_adapter(folder: Path) -> Adapter:
    """Raises NotMergeable."""
    config = _read_config(folder / CONFIG)
    try:
        tensors = read_shard(folder / WEIGHTS).tensors
    except FileNotFoundError as error:
        raise _refused(f"it has no {WEIGHTS}", "save it with safe_serialization=True") from error
    except (ValueError, KeyError, TypeError) as error:
        raise _refused(f"{WEIGHTS} cannot be read: {error}", "save the adapter again") from error
    modules: dict[str, Module] = {}
    replaced: dict[str, Stored] = {}
    for name, stored in tensors.items():
        plain = name.removeprefix(PREFIX)
        if not stored.is_float:
            raise _refused(f"{plain} is of type {stored.dtype}", "save it in a float format")
        found = LORA.fullmatch(plain)
        if found is not None:
            module = modules.setdefault(found["module"], Module(found["module"]))
            module.parts[found["part"]] = stored
        elif "lora_" in plain:
            raise _refused(f"it has a tensor {plain}, which is not understood", BY_TRAINING)
        else:
            replaced[plain.replace(".base_layer.", ".").replace(".modules_to_save.", ".")] = stored
    if not modules and not replaced:
        raise _refused("it has no tensors", "save the adapter again")
    _check_saved(config, replaced)
    scale = _Scale(config)
    for module in modules.values():
        _check(module, uses_dora=bool(config.get("use_dora")))
        module.scale = scale.of(module.name, rank=module.down.shape[0])
    return Adapter(list(modules.values()), replaced)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_CONFIG_BYTES:
            raise ValueError("it is too large")
        config = json.loads(path.read_bytes())
        if not isinstance(config, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise _refused(f"{CONFIG} cannot be read: {error}", "save the adapter again") from error
    if config.get("peft_type") != "LORA":
        raise _refused(f"its peft_type is {config.get('peft_type')!r}, not LORA", BY_TRAINING)
    if config.get("bias", "none") != "none":
        raise _refused(f"it trains biases (bias={config['bias']!r})", BY_TRAINING)
    start = config.get("init_lora_weights", True)
    if str(start).lower() not in SOUND_STARTS:
        raise _refused(
            f"init_lora_weights={start!r} has changed the base's own weights",
            "convert it to plain LoRA when saving (path_initial_model_for_weight_conversion)",
        )
    for name, value in config.items():
        if value and name not in SILENT:
            raise _refused(f"{name}={value!r} is not understood", BY_TRAINING)
    return config


def _check_saved(config: Mapping[str, Any], replaced: Mapping[str, Stored]) -> None:
    """Every module that was to be saved whole is there."""
    for module in config.get("modules_to_save") or ():
        if not any(f".{module}." in f".{name}" for name in replaced):
            raise _refused(
                f"modules_to_save names {module}, which is not among its tensors",
                "save the adapter again",
            )


def _check(module: Module, *, uses_dora: bool) -> None:
    wanted = (
        ("lora_embedding_A", "lora_embedding_B") if module.is_embedding else ("lora_A", "lora_B")
    )
    for part in wanted:
        if part not in module.parts:
            raise _refused(f"{module.name} has no {part}", "save the adapter again")
        if len(module.parts[part].shape) != 2:
            raise _refused(f"{module.name} is no linear layer and no embedding", BY_TRAINING)
    if module.down.shape[0] != module.up.shape[1] or not module.down.shape[0]:
        raise _refused(f"the ranks of {module.name} do not agree", "save the adapter again")
    if uses_dora != (module.magnitude is not None):
        raise _refused(f"use_dora does not fit {module.name}", "save the adapter again")
    if module.magnitude is None:
        return
    if module.is_embedding:
        raise _refused(f"it uses DoRA on the embedding {module.name}", BY_TRAINING)
    if module.magnitude.shape != (module.rows,):
        raise _refused(f"the magnitudes of {module.name} are too few", "save the adapter again")


class _Scale:
    """What B A is multiplied by, patterns as PEFT looks them up."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._rooted = bool(config.get("use_rslora"))
        self._alpha = _positive(config, "lora_alpha", 8)
        self._rank = _positive(config, "r", 8)
        self._alphas = _pattern(config, "alpha_pattern")
        self._ranks = _pattern(config, "rank_pattern")

    def of(self, name: str, *, rank: int) -> float:
        said = _matching(self._ranks, name, self._rank)
        if said != rank:
            raise _refused(
                f"{name} has rank {rank} and {CONFIG} says {said:g}", "save the adapter again"
            )
        alpha = _matching(self._alphas, name, self._alpha)
        return alpha / (math.sqrt(rank) if self._rooted else rank)


def _positive(values: Mapping[str, Any], name: str, default: float) -> float:
    value = values.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e6:
        raise _refused(f"{name} is {value!r}, which is no positive number", "correct the file")
    return value


def _pattern(config: Mapping[str, Any], name: str) -> dict[str, float]:
    values = config.get(name) or {}
    if not isinstance(values, dict):
        raise _refused(f"{name} is no object", "correct the file")
    return {str(key): _positive(values, key, 0) for key in values}


def _matching(pattern: Mapping[str, float], name: str, default: float) -> float:
    """The first pattern that ends the module's name. Plain names alone are taken: a pattern from a
    file may be made to run for ever."""
    for key, value in pattern.items():
        plain = key.removeprefix("^").replace("\\.", ".")
        if name == plain or name.endswith("." + plain):
            return value
        if not re.fullmatch(r"[\w.]+", plain):
            raise _refused(f"the pattern {key!r} is no module's name", "write names out in full")
    return default


def _refused(reason: str, remedy: str) -> NotMergeable:
    return NotMergeable(
        f"This adapter cannot be merged: {reason}.", remedy=f"{remedy[0].upper()}{remedy[1:]}."
    )
