"""PEFT's adapter folders: adapter_config.json and adapter_model.safetensors, read and checked.

Only what the forward pass can follow exactly is taken; everything else is refused with the reason
and the remedy. Names of fields: https://huggingface.co/docs/peft/package_reference/lora
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch.nn import functional as F  # noqa: N812 (everybody's name for it)

from engines.builtin.lora import Adapter, Pair, Site
from engines.protocol.errors import ApiError, invalid

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
LARGEST_CONFIG_BYTES = 1 << 20
LARGEST_WEIGHTS_BYTES = 8 << 30
MAX_RANK = 512
MERGE = "merge it into its base (POST /api/v1/revisions/ID/merge/) and serve the result"
TENSOR = re.compile(
    r"base_model\.model\.model\.layers\.(\d+)\.(self_attn|mlp)\.(\w+)\.lora_([AB])\.weight"
)
# Fields that say nothing about what is computed from the saved matrices.
SILENT = {
    "alora_invocation_string", "alpha_pattern", "arrow_config", "auto_mapping",
    "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying", "eva_config",
    "exclude_modules", "inference_mode", "init_lora_weights", "kasa_config", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config",
    "megatron_config", "megatron_core", "modules_to_save", "monteclora_config", "peft_type",
    "peft_version", "qalora_group_size", "r", "rank_pattern", "revision", "runtime_config",
    "target_modules", "task_type", "use_rslora",
}  # fmt: skip
# Initialisations after which the base is no longer the published one: (PiSSA, OLoRA, LoftQ, ...).
CHANGED_BASE = ("pissa", "olora", "loftq", "corda", "lora_ga")


def read_adapter(
    folder: Path, *, sites: Sequence[Site], device: torch.device, dtype: torch.dtype
) -> Adapter:
    """The folder's adapter on the device. Raises ApiError (400, or 404 if the files are missing)."""
    config = _read_config(folder)
    scale = _Scale(config)
    digest, tensors = _read_weights(folder)
    halves = _sort(tensors)
    pairs: dict[int, Pair] = {}
    for index, site in enumerate(sites):
        own = {
            part: halves.pop((site.layer, part))
            for part in site.projection.parts
            if (site.layer, part) in halves
        }
        if own:
            pairs[index] = _join(site, own, scale, device=device, dtype=dtype)
    if halves:
        layer, part = next(iter(halves))
        layers = 1 + max((site.layer for site in sites), default=-1)
        raise _refused(
            f"it adapts {part} of layer {layer}; the model served has {layers} layers and no such"
            " projection there to adapt. Load it on the base that it was trained on"
        )
    held = sum(_bytes(pair.down) + _bytes(pair.up) for pair in pairs.values())
    return Adapter(digest=digest + scale.digest, pairs=pairs, total_bytes=held)


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        if path.stat().st_size > LARGEST_CONFIG_BYTES:
            raise ValueError("it is too large")
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise _missing(CONFIG) from None
    except (OSError, ValueError, RecursionError) as error:
        raise _refused(f"{CONFIG} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise _refused(f"{CONFIG} is no JSON object")
    if config.get("peft_type") != "LORA":
        raise _refused(f"its peft_type is {config.get('peft_type')!r}; only LORA is served")
    if config.get("use_dora"):
        raise _refused(f"it uses DoRA, which scales whole columns of the base; {MERGE}")
    if config.get("modules_to_save"):
        modules = config["modules_to_save"]
        raise _refused(f"modules_to_save has whole modules {modules!r}; {MERGE}")
    if config.get("bias", "none") != "none":
        raise _refused(f"it trains biases (bias={config['bias']!r}); {MERGE}")
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower().startswith(CHANGED_BASE):
        raise _refused(
            f"init_lora_weights={start!r} has changed the base's own weights; convert it to plain"
            " LoRA when saving (path_initial_model_for_weight_conversion)"
        )
    for name, value in config.items():
        if value and name not in SILENT:
            raise _refused(f"{name}={value!r} is not supported; {MERGE}")
    return config


def _read_weights(folder: Path) -> tuple[str, dict[str, torch.Tensor]]:
    path = folder / WEIGHTS
    try:
        if path.stat().st_size > LARGEST_WEIGHTS_BYTES:
            raise _refused(f"{WEIGHTS} is larger than {LARGEST_WEIGHTS_BYTES} bytes")
        content = path.read_bytes()
        return hashlib.sha256(content).hexdigest(), load_safetensors(content)
    except FileNotFoundError:
        if (folder / "adapter_model.bin").exists():
            raise _refused(
                "its weights are a pickle; save it again with safe_serialization=True"
            ) from None
        raise _missing(WEIGHTS) from None
    except (OSError, SafetensorError, ValueError) as error:
        raise _refused(f"{WEIGHTS} cannot be read: {error}") from None


Halves = dict[tuple[int, str], dict[str, torch.Tensor]]


def _sort(tensors: Mapping[str, torch.Tensor]) -> Halves:
    """By layer and part: {"A": [rank, inputs], "B": [outputs, rank]}."""
    halves: Halves = {}
    for name, tensor in tensors.items():
        found = TENSOR.fullmatch(name)
        if found is None:
            raise _refused(f"it has a tensor {name}, which no projection of this model takes")
        layer, block, part, half = found.groups()
        if _module(int(layer), part) != f"model.layers.{int(layer)}.{block}.{part}":
            raise _refused(f"it has a tensor {name}, which no projection of this model takes")
        halves.setdefault((int(layer), part), {})[half] = tensor
    if not halves:
        raise _refused("it has no tensors")
    return halves


class _Scale:
    """alpha / r of each module (alpha / sqrt(r) with use_rslora), patterns as PEFT reads them."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._rooted = bool(config.get("use_rslora"))
        self._alpha = _positive(config, "lora_alpha", 8)
        self._rank = _positive(config, "r", 8)
        self._alphas = _pattern(config, "alpha_pattern")
        self._ranks = _pattern(config, "rank_pattern")
        said = [self._rooted, self._alpha, self._rank, self._alphas, self._ranks]
        self.digest = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]

    def of(self, name: str, *, rank: int) -> float:
        said = _matching(self._ranks, name, self._rank)
        if said != rank:
            raise _refused(f"{name} has rank {rank} and {CONFIG} says {said:g}")
        alpha = _matching(self._alphas, name, self._alpha)
        return alpha / (math.sqrt(rank) if self._rooted else rank)


def _positive(config: Mapping[str, Any], name: str, default: float) -> float:
    value = config.get(name, default)
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < 1e6:
        raise _refused(f"{name} is {value!r}, which is no positive number")
    return value


def _pattern(config: Mapping[str, Any], name: str) -> dict[str, float]:
    values = config.get(name) or {}
    if not isinstance(values, dict):
        raise _refused(f"{name} is no object")
    return {str(key): _positive(values, key, 0) for key in values}


def _matching(pattern: Mapping[str, float], name: str, default: float) -> float:
    """The first pattern that ends the module's name, as PEFT looks it up; names alone are taken,
    since a pattern from a file may be made to run for ever."""
    for key, value in pattern.items():
        plain = key.removeprefix("^").replace("\\.", ".")
        if name == plain or name.endswith("." + plain):
            return value
        if not re.fullmatch(r"[\w.]+", plain):
            raise _refused(f"the pattern {key!r} is no module's name; {MERGE}")
    return default


def _join(
    site: Site,
    own: Mapping[str, Mapping[str, torch.Tensor]],
    scale: _Scale,
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Pair:
    """One pair for a projection, from the pairs of the parts that it was joined from."""
    projection = site.projection
    downs: list[torch.Tensor] = []
    ups: list[torch.Tensor] = []
    first = 0
    for part, outputs in projection.parts.items():
        if part in own:
            name = _module(site.layer, part)
            down, up = _halves(name, own[part], inputs=projection.inputs, outputs=outputs)
            downs.append(down.to(dtype))
            scaled = up.float() * scale.of(name, rank=len(down))
            ups.append(F.pad(scaled, (0, 0, first, projection.outputs - first - outputs)))
        first += outputs
    return Pair(
        down=torch.cat(downs).to(device).contiguous(),
        up=torch.cat(ups, dim=1).to(device=device, dtype=dtype).contiguous(),
    )


def _module(layer: int, part: str) -> str:
    block = "self_attn" if part in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
    return f"model.layers.{layer}.{block}.{part}"


def _halves(
    name: str, pair: Mapping[str, torch.Tensor], *, inputs: int, outputs: int
) -> tuple[torch.Tensor, torch.Tensor]:
    down, up = pair.get("A"), pair.get("B")
    if down is None or up is None:
        raise _refused(f"{name} has only one of lora_A and lora_B")
    rank = down.shape[0] if down.dim() == 2 else 0
    if not 1 <= rank <= MAX_RANK:
        raise _refused(f"{name} has rank {rank}; ranks from 1 to {MAX_RANK} are served")
    if tuple(down.shape) != (rank, inputs) or tuple(up.shape) != (outputs, rank):
        raise _refused(
            f"{name} adapts {up.shape[0]} x {down.shape[1]} weights and the model served has"
            f" {outputs} x {inputs}. Load it on the base that it was trained on"
        )
    for half in (down, up):
        if not half.is_floating_point() or not bool(half.isfinite().all()):
            raise _refused(f"{name} has values that are no finite numbers")
    return down, up


def _bytes(tensor: torch.Tensor) -> int:
    count: int = tensor.numel() * tensor.element_size()
    return count


def _refused(reason: str) -> ApiError:
    return invalid("lora_path", f"This adapter cannot be served: {reason}.", code="bad_adapter")


def _missing(name: str) -> ApiError:
    message = f"There is no adapter here: its folder has no {name}."
    return ApiError(404, message, param="lora_path", code="adapter_not_found")
