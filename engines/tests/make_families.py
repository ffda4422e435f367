"""Tiny random models of every architecture that the built-in engine runs."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engines.tests.make import make_tokenizer

TEXT: dict[str, Any] = {
    "vocab_size": 416,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 96,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
    "eos_token_id": 2,
    "bos_token_id": None,
    "pad_token_id": 0,
}
EXPERTS: dict[str, Any] = {
    "num_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 48,
}
LINEAR: dict[str, Any] = {
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
SECTIONS = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
HALF_TURNED = SECTIONS | {"mrope_section": [1, 1, 2], "partial_rotary_factor": 0.5}
VISION: dict[str, Any] = {"depth": 1, "hidden_size": 16, "num_heads": 2, "out_hidden_size": 64}
DEEP_VISION = VISION | {"intermediate_size": 16, "deepstack_visual_indexes": [0]}
INDEXED: dict[str, Any] = {
    "num_key_value_heads": 1,
    "layer_types": [
        "linear_attention",
        "indexed_attention",
        "linear_attention",
        "indexed_attention",
    ],
    "hc_count": 2,
    "hc_lowrank": 8,
    "ple_layer_ids": [1],
    "ple_embed_dim": 64,
    "heads_per_ngram": 2,
    "ngram_vocab_size_base": 101,
    "make_ngram_vocab_size_divisible_by": 8,
    "split_ngram_parts": 1,
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 16,
    "indexer_compress_ratio": 4,
}

# name: (class, what its text config says, its vision config or None)
FAMILIES: dict[str, tuple[str, Mapping[str, Any], Mapping[str, Any] | None]] = {
    "qwen2-windowed": (
        "Qwen2ForCausalLM",
        {
            "use_sliding_window": True,
            "sliding_window": 24,
            "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        },
        None,
    ),
    "qwen2_moe": ("Qwen2MoeForCausalLM", EXPERTS, None),
    "qwen3_moe": (
        "Qwen3MoeForCausalLM",
        EXPERTS | {"norm_topk_prob": True, "mlp_only_layers": [0]},
        None,
    ),
    "qwen3_moe-plain": (
        "Qwen3MoeForCausalLM",
        EXPERTS | {"norm_topk_prob": False, "decoder_sparse_step": 2, "attention_bias": True},
        None,
    ),
    "qwen3_next": ("Qwen3NextForCausalLM", EXPERTS | LINEAR, None),
    "qwen3_5_text": ("Qwen3_5ForCausalLM", LINEAR | {"rope_parameters": HALF_TURNED}, None),
    "qwen3_5": (
        "Qwen3_5ForConditionalGeneration",
        LINEAR | {"rope_parameters": HALF_TURNED, "tie_word_embeddings": True},
        DEEP_VISION,
    ),
    "qwen3_5_moe_text": (
        "Qwen3_5MoeForCausalLM",
        EXPERTS | LINEAR | {"rope_parameters": HALF_TURNED},
        None,
    ),
    "qwen3_5_moe": (
        "Qwen3_5MoeForConditionalGeneration",
        EXPERTS | LINEAR | {"rope_parameters": HALF_TURNED},
        DEEP_VISION,
    ),
    "qwen4_exp_text": (
        "Qwen4ExpForCausalLM",
        EXPERTS | LINEAR | INDEXED | {"rope_parameters": HALF_TURNED},
        None,
    ),
    "qwen4_exp": (
        "Qwen4ExpForConditionalGeneration",
        EXPERTS | LINEAR | INDEXED | {"rope_parameters": HALF_TURNED},
        DEEP_VISION,
    ),
    "qwen2_vl": ("Qwen2VLForConditionalGeneration", {"rope_parameters": SECTIONS}, VISION),
    "qwen2_5_vl": (
        "Qwen2_5_VLForConditionalGeneration",
        {"rope_parameters": SECTIONS},
        VISION | {"intermediate_size": 16},
    ),
    "qwen3_vl": (
        "Qwen3VLForConditionalGeneration",
        {"rope_parameters": SECTIONS | {"mrope_interleaved": True}},
        DEEP_VISION,
    ),
    "qwen3_vl_moe": (
        "Qwen3VLMoeForConditionalGeneration",
        EXPERTS | {"rope_parameters": SECTIONS | {"mrope_interleaved": True}},
        DEEP_VISION,
    ),
    "llama": ("LlamaForCausalLM", {}, None),
    "mistral": ("MistralForCausalLM", {"sliding_window": 24}, None),
}


def make_family(folder: Path, name: str, *, seed: int = 0, **changes: Any) -> Path:
    """Writes a tiny random model of one of FAMILIES with its tokenizer.

    Its weights are wide enough that the best token rarely has a rival within rounding.
    """
    import torch
    import transformers

    class_name, own, vision = FAMILIES[name]
    model_class = getattr(transformers, class_name)
    text = TEXT | dict(own) | changes
    if vision is None:
        config = model_class.config_class(**text)
    else:
        tied = {"tie_word_embeddings": text["tie_word_embeddings"]}
        config = model_class.config_class(text_config=text, vision_config=dict(vision), **tied)
    make_tokenizer(folder)
    torch.manual_seed(seed)
    model = model_class(config)
    for key, parameter in model.named_parameters():
        if "norm" in key:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.2)
        elif key.endswith("bias"):  # they start at zero, which would prove nothing
            torch.nn.init.normal_(parameter, std=0.2)
        elif key.endswith("mlp.gate.weight"):  # a router of zeros would choose the same experts
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    return folder


def make_fp8(folder: Path, *, block: tuple[int, int]) -> Path:
    """Rewrites a model's linear maps as 8-bit floats with a scale for each block, as Qwen does.

    Returns a folder beside it: the same values, not quantized, by a slow way of its own.
    """
    import torch
    from safetensors.torch import load_file, save_file

    plain = folder.with_name(folder.name + "-plain")
    shutil.copytree(folder, plain)
    tensors = load_file(folder / "model.safetensors")
    values = dict(tensors)
    left = ("embed", "lm_head", "norm", "mlp.gate.", "shared_expert_gate", "conv1d", "visual")
    for name, tensor in list(tensors.items()):
        if tensor.dim() != 2 or not name.endswith("weight") or any(each in name for each in left):
            continue
        down, across = block
        grid = [-(-size // step) for size, step in zip(tensor.shape, block, strict=True)]
        scales = torch.empty(grid)
        small, back = torch.empty(tensor.shape, dtype=torch.float8_e4m3fn), tensor.clone()
        for row in range(grid[0]):
            for column in range(grid[1]):
                here = (
                    slice(row * down, (row + 1) * down),
                    slice(column * across, (column + 1) * across),
                )
                scales[row, column] = tensor[here].abs().max() / 448  # e4m3's largest number
                small[here] = (tensor[here] / scales[row, column]).to(torch.float8_e4m3fn)
                back[here] = small[here].float() * scales[row, column]
        tensors |= {name: small, f"{name}_scale_inv": scales}
        values[name] = back
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    save_file(values, plain / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    quantization = {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "weight_block_size": list(block),
        "modules_to_not_convert": ["lm_head", "model.visual"],
    }
    config = json.loads(path.read_text()) | {"quantization_config": quantization}
    path.write_text(json.dumps(config))
    return plain
