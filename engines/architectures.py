"""Which models the built-in engine serves, and how: asked before a deployment is made and at start.

The one list. It knows names from config.json alone and imports neither torch nor transformers.
Every entry is held to transformers' `generate` by engines/tests/test_parity.py or
test_modules_parity.py; add one there with one here.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass

BUILTIN = "transformers"  # the built-in engine's name among the launchers
# Quantized weights that are turned back into the serving dtype when they are read: right, and as
# large in memory as the original ones.
READ_QUANTIZED = ("fp8",)  # e4m3 with a scale for each block, as Qwen publishes it
ANY_ENGINE = "Use the engine vllm or sglang on accelerators that it runs on"


class Way(enum.StrEnum):
    OWN = "own"  # a forward pass of ours: batched, compiled where it pays, adapters
    MODULES = "modules"  # transformers' modules: slower, and right


@dataclass(frozen=True)
class Architecture:
    """One `model_type` of config.json and the classes of `architectures` that go with it."""

    way: Way
    classes: tuple[str, ...]
    models: str  # for people


@dataclass(frozen=True)
class Refusal:
    """Why an engine does not serve a model, and what does."""

    code: str
    message: str
    remedy: str


ARCHITECTURES: Mapping[str, Architecture] = {
    "qwen2": Architecture(Way.OWN, ("Qwen2ForCausalLM",), "Qwen2, Qwen2.5, Coder, Math, QwQ"),
    "qwen3": Architecture(Way.OWN, ("Qwen3ForCausalLM",), "Qwen3, Embedding, Reranker"),
    "qwen2_moe": Architecture(Way.MODULES, ("Qwen2MoeForCausalLM",), "Qwen1.5-MoE, Qwen2-57B"),
    "qwen3_moe": Architecture(Way.OWN, ("Qwen3MoeForCausalLM",), "Qwen3 MoE, Coder"),
    "qwen3_next": Architecture(Way.MODULES, ("Qwen3NextForCausalLM",), "Qwen3-Next, Coder-Next"),
    "qwen3_5": Architecture(
        Way.MODULES,
        ("Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM"),
        "Qwen3.5, Qwen3.6, Qwen3.8-27B: text",
    ),
    "qwen3_5_text": Architecture(Way.MODULES, ("Qwen3_5ForCausalLM",), "Qwen3.5 saved as text"),
    "qwen3_5_moe": Architecture(
        Way.MODULES,
        ("Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeForCausalLM"),
        "Qwen3.5 and Qwen3.6 MoE: text",
    ),
    "qwen3_5_moe_text": Architecture(
        Way.MODULES, ("Qwen3_5MoeForCausalLM",), "Qwen3.8-2.4T; Qwen3.5 MoE saved as text"
    ),
    "qwen4_exp": Architecture(
        Way.MODULES,
        ("Qwen4ExpForConditionalGeneration", "Qwen4ExpForCausalLM"),
        "Qwen3.8-Flash-Next: text",
    ),
    "qwen4_exp_text": Architecture(
        Way.MODULES, ("Qwen4ExpForCausalLM",), "the same, saved as text"
    ),
    "qwen2_vl": Architecture(Way.MODULES, ("Qwen2VLForConditionalGeneration",), "Qwen2-VL: text"),
    "qwen2_5_vl": Architecture(
        Way.MODULES, ("Qwen2_5_VLForConditionalGeneration",), "Qwen2.5-VL: text"
    ),
    "qwen3_vl": Architecture(Way.MODULES, ("Qwen3VLForConditionalGeneration",), "Qwen3-VL: text"),
    "qwen3_vl_moe": Architecture(
        Way.MODULES, ("Qwen3VLMoeForConditionalGeneration",), "Qwen3-VL MoE: text"
    ),
    "llama": Architecture(Way.MODULES, ("LlamaForCausalLM",), "Llama 3 and its kin"),
    "mistral": Architecture(Way.MODULES, ("MistralForCausalLM",), "Mistral with a byte-level BPE"),
}


def refusal(
    engine: str,
    *,
    model_type: str,
    architecture: str = "",
    quantization: str = "",
    adapter: bool = False,
) -> Refusal | None:
    """Why `engine` will never serve weights of such a config.json; None if it may.

    `architecture` is the first of the config's `architectures`, `quantization` its quant_method;
    `adapter` asks about adapters on such weights. Only the built-in engine's limits are known
    beforehand: of others, their logs tell.
    """
    if engine != BUILTIN:
        return None
    known = ARCHITECTURES.get(model_type)
    name = architecture or model_type
    if known is None or (architecture and architecture not in known.classes):
        return Refusal(
            "unsupported_architecture",
            f"The built-in engine does not run {name or 'models without a model_type'}.",
            f"{ANY_ENGINE}, or deploy one of: {', '.join(sorted(ARCHITECTURES))}.",
        )
    if quantization and quantization not in READ_QUANTIZED:
        return Refusal(
            "unsupported_quantization",
            f"The built-in engine does not read {quantization} weights of {name}.",
            f"{ANY_ENGINE}, or deploy the original weights.",
        )
    if adapter and known.way is not Way.OWN:
        return Refusal(
            "unsupported_adapter",
            f"The built-in engine runs {name} through transformers' modules, without adapters.",
            f"{ANY_ENGINE}, or merge the adapter into its base (on its page) and deploy that.",
        )
    return None
