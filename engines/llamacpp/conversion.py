"""A model's folder as one GGUF file: dense Qwen2, Qwen2.5 and Qwen3 with their byte-level tokenizer.

Runs in llama.cpp's environment. Names of metadata and tensors come from the gguf library; one-
dimensional tensors are kept in fp32, as llama.cpp wants them.
"""

import fcntl
import json
import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

FAMILIES = {"qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}
# How the family cuts text into pieces; llama.cpp knows it under this name.
PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PIECES_NAME = "qwen2"
STORED = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
FILE_TYPES = {
    "bfloat16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "float16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "float32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}


class CannotConvert(Exception):
    """This model cannot become a GGUF file here; `code` is for programs."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Tensor:
    dtype: str  # bfloat16, float16, float32
    shape: tuple[int, ...]
    raw: memoryview

    def as_float32(self) -> Array:
        if self.dtype == "bfloat16":
            wide = np.frombuffer(self.raw, dtype=np.uint16).astype(np.uint32) << 16
            return wide.view(np.float32).reshape(self.shape)
        kind = np.float16 if self.dtype == "float16" else np.float32
        return np.frombuffer(self.raw, dtype=kind).astype(np.float32).reshape(self.shape)


def find_or_make(model: Path, *, weights: str) -> Path:
    """The model's GGUF file: one that lies in the folder, or one made from its safetensors and kept
    beside the folder for the next start. `weights`: auto (as stored) or a name of FILE_TYPES.

    Several processes may ask at once: one converts, the others wait. Raises CannotConvert.
    """
    given = sorted(model.glob("*.gguf"))
    if len(given) == 1:
        return given[0]
    if len(given) > 1:
        raise CannotConvert("several_gguf_files", f"{model} holds {len(given)} GGUF files, not one")
    made = model.with_name(f"{model.name}.{weights}.gguf")
    if made.exists():
        return made
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            unfinished = made.with_suffix(".part")
            try:
                convert(model, unfinished, weights=weights)
                unfinished.replace(made)
            finally:
                unfinished.unlink(missing_ok=True)
    return made


def convert(model: Path, target: Path, *, weights: str) -> None:
    """Writes the GGUF file. Raises CannotConvert for a model of another kind."""
    config = _json(model / "config.json")
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None:
        named = config.get("model_type") or "no model_type"
        raise CannotConvert(
            "unsupported_architecture", f"only {', '.join(FAMILIES)} are converted, not {named}"
        )
    if config.get("quantization_config"):
        raise CannotConvert("unsupported_architecture", "quantized weights are not converted")
    writer = gguf.GGUFWriter(target, gguf.MODEL_ARCH_NAMES[family], use_temp_file=False)
    _add_sizes(writer, config)
    _add_tokenizer(writer, model, vocabulary=int(config["vocab_size"]))
    names = gguf.get_tensor_name_map(family, int(config["num_hidden_layers"]))
    most = ""
    for name, tensor in _tensors(model):
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if known is None:
            raise CannotConvert("unsupported_architecture", f"the tensor {name} is not known")
        wanted = tensor.dtype if weights == "auto" else weights
        if len(tensor.shape) > 1:
            most = most or wanted
        _add_tensor(writer, known, tensor, wanted if len(tensor.shape) > 1 else "float32")
    writer.add_file_type(FILE_TYPES[most or "float32"][1])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_sizes(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    rope = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling") or rope
    head_dim = int(config.get("head_dim") or hidden // heads)
    writer.add_block_count(int(config["num_hidden_layers"]))
    writer.add_context_length(int(config["max_position_embeddings"]))
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(int(config["intermediate_size"]))
    writer.add_head_count(heads)
    writer.add_head_count_kv(int(config.get("num_key_value_heads") or heads))
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(float(config["rms_norm_eps"]))
    writer.add_rope_freq_base(float(config.get("rope_theta") or rope.get("rope_theta") or 10_000.0))
    kind = scaling.get("rope_type") or scaling.get("type") or "default"
    if kind == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(float(scaling["factor"]))
        writer.add_rope_scaling_orig_ctx_len(int(scaling["original_max_position_embeddings"]))
    elif kind != "default":
        raise CannotConvert("unsupported_architecture", f"rope scaling {kind} is not converted")


def _add_tokenizer(writer: gguf.GGUFWriter, model: Path, *, vocabulary: int) -> None:
    described = _json(model / "tokenizer.json")
    bpe = described.get("model") or {}
    if bpe.get("type") != "BPE" or PIECES not in _patterns(described.get("pre_tokenizer")):
        raise CannotConvert(
            "unsupported_tokenizer",
            "only the byte-level BPE of the Qwen2 and Qwen3 line is converted",
        )
    tokens = [f"[PAD{number}]" for number in range(vocabulary)]
    types = [gguf.TokenType.UNUSED] * vocabulary
    for text, number in bpe["vocab"].items():
        tokens[number], types[number] = text, gguf.TokenType.NORMAL
    for each in described.get("added_tokens", []):
        kind = gguf.TokenType.CONTROL if each["special"] else gguf.TokenType.USER_DEFINED
        tokens[each["id"]], types[each["id"]] = each["content"], kind
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PIECES_NAME)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges = bpe["merges"]
    writer.add_token_merges([each if isinstance(each, str) else " ".join(each) for each in merges])
    settings = _json(model / "tokenizer_config.json")
    ids = {text: number for number, text in enumerate(tokens)}
    for name, add in (
        ("eos_token", writer.add_eos_token_id),
        ("pad_token", writer.add_pad_token_id),
        ("bos_token", writer.add_bos_token_id),
    ):
        token = settings.get(name)
        text = token.get("content") if isinstance(token, dict) else token
        if text in ids:
            add(ids[text])
    writer.add_add_bos_token(False)
    template = model / "chat_template.jinja"
    text = (
        template.read_text(encoding="utf-8") if template.exists() else settings.get("chat_template")
    )
    if isinstance(text, str):
        writer.add_chat_template(text)


def _patterns(step: Any) -> list[str]:
    """Every regular expression of a tokenizer's pre_tokenizer."""
    if not isinstance(step, dict):
        return []
    inner = [found for each in step.get("pretokenizers", []) for found in _patterns(each)]
    pattern = step.get("pattern")
    return inner + ([pattern["Regex"]] if isinstance(pattern, dict) and "Regex" in pattern else [])


def _tensors(model: Path) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the folder's safetensors files, mapped, not read."""
    files = sorted(model.glob("*.safetensors"))
    if not files:
        raise CannotConvert("weights_missing", f"{model} holds neither safetensors nor GGUF")
    for path in files:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        view = memoryview(mapped)
        length = int.from_bytes(view[:8], "little")
        for name, entry in json.loads(bytes(view[8 : 8 + length])).items():
            if name == "__metadata__":
                continue
            if entry["dtype"] not in STORED:
                raise CannotConvert(
                    "unsupported_dtype", f"the tensor {name} is stored as {entry['dtype']}"
                )
            start, end = entry["data_offsets"]
            raw = view[8 + length + start : 8 + length + end]
            yield name, Tensor(STORED[entry["dtype"]], tuple(entry["shape"]), raw)


def _add_tensor(writer: gguf.GGUFWriter, name: str, tensor: Tensor, wanted: str) -> None:
    kind = FILE_TYPES[wanted][0]
    if wanted == "q8_0" and math.prod(tensor.shape[-1:]) % 32:  # blocks of 32 along a row
        kind = FILE_TYPES["bfloat16"][0]
    if STORED_KIND.get(tensor.dtype) is kind:
        size = 4 if tensor.dtype == "float32" else 2
        rows = np.frombuffer(tensor.raw, dtype=np.uint8)
        bytes_shape = (*tensor.shape[:-1], tensor.shape[-1] * size)
        writer.add_tensor(name, rows.reshape(bytes_shape), raw_dtype=kind)
        return
    writer.add_tensor(name, gguf.quants.quantize(tensor.as_float32(), kind), raw_dtype=kind)


STORED_KIND = {name: FILE_TYPES[name][0] for name in STORED.values()}


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CannotConvert("weights_missing", f"{path.name} is missing") from None
    return value if isinstance(value, dict) else {}
