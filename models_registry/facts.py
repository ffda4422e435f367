"""What a model's files say of themselves. Nothing here trusts a name or runs what was uploaded.

The safetensors layout: 8 bytes little-endian header length, then a JSON object
{tensor name: {"dtype", "shape", "data_offsets"}}
(https://github.com/huggingface/safetensors, section Format).
"""

import json
import math
import struct
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from common.errors import InvalidInput
from common.texts import storable

PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".h5"}
TEXTS = {".json", ".jsonl", ".txt", ".md", ".jinja", ".yaml", ".yml", ".model", ".tiktoken"}
NAMED = {"LICENSE", "LICENCE", "NOTICE", "README", ".gitattributes", "merges.txt", "vocab.json"}
LARGEST_HEADER_BYTES = 100 * 2**20
LARGEST_JSON_BYTES = 64 * 2**20
LARGEST_KEPT_BYTES = 10_000  # of generation_config.json
LONGEST_PATH = 300
ADAPTER = "adapter"  # as a model type
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3",
    "F8_E5M2": "float8_e5m2",
    "I8": "int8",
    "U8": "uint8",
    "I32": "int32",
    "I64": "int64",
}


class UnsafeFiles(InvalidInput):
    """Files that could run code or leave their folder."""

    code = "unsafe_files"


class IncompleteModel(InvalidInput):
    """Files that do not make a model."""

    code = "incomplete_model"


@dataclass(frozen=True)
class Facts:
    """Read from config.json (or adapter_config.json) and the headers of the safetensors files."""

    architecture: str = ""
    model_type: str = ""
    parameter_count: int | None = None
    dtype: str = ""
    quantization: str = ""
    context_length_tokens: int | None = None
    more: dict[str, Any] = field(default_factory=dict)


def list_files(folder: Path) -> list[str]:
    """The folder's files as sorted POSIX paths. Raises UnsafeFiles, IncompleteModel."""
    if not folder.is_dir():
        raise InvalidInput(
            f"{folder} is not a folder.", field="source", remedy="Give a folder of model files."
        )
    found = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if any(part.startswith(".") and part != ".gitattributes" for part in relative.parts):
            continue  # caches and version control beside the files
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise UnsafeFiles(
                f"{relative} points outside its folder.", field="source", remedy="Copy the file."
            )
        if path.is_file():
            check_name(relative.as_posix())
            found.append(relative.as_posix())
    if not any(name.endswith(".safetensors") for name in found):
        raise IncompleteModel(
            "There is no .safetensors file.",
            field="source",
            remedy="Convert the weights: model.save_pretrained(folder, safe_serialization=True).",
        )
    if "config.json" not in found and "adapter_config.json" not in found:
        raise IncompleteModel(
            "There is neither config.json nor adapter_config.json.", field="source"
        )
    return found


def check_name(name: str) -> None:
    """Refuse paths that leave the folder and kinds of file that may hold code."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        raise UnsafeFiles(f"{name!r} leaves its folder.", field="source")
    if len(name) > LONGEST_PATH:
        raise UnsafeFiles(f"{name[:40]}… is too long a path.", field="source")
    if path.suffix in PICKLES:
        raise UnsafeFiles(
            f"{name} may hold a pickle, which can run code when it is loaded.",
            field="source",
            remedy="Leave it out; weights must be safetensors.",
        )
    if path.suffix == ".py":
        raise UnsafeFiles(
            f"{name} is code. Models that need code of their own are not taken.", field="source"
        )
    if path.suffix not in TEXTS | {".safetensors"} and path.name not in NAMED:
        raise UnsafeFiles(
            f"{name}: only safetensors and text files are taken.",
            field="source",
            remedy="Leave it out.",
        )


def is_wanted(name: str) -> bool:
    """Whether a file of a hub's repository is one that we take."""
    try:
        check_name(name)
    except UnsafeFiles:
        return False
    return not any(part.startswith(".") for part in PurePosixPath(name).parts)


def read_facts(folder: Path, files: list[str]) -> Facts:
    """The facts. Raises UnsafeFiles for `auto_map`, IncompleteModel for broken files."""
    for name in ("config.json", "tokenizer_config.json", "adapter_config.json"):
        if name in files and "auto_map" in _json(folder / name):
            raise UnsafeFiles(
                f"{name} has auto_map: the model would run code of its own.", field="source"
            )
    parameters, dtype, tensors = _weights(folder, files)
    if "config.json" not in files:
        return _adapter_facts(_json(folder / "adapter_config.json"), parameters, dtype, tensors)
    config = _json(folder / "config.json")
    text = _object(config.get("text_config")) or config
    named = config.get("architectures")
    architectures = named if isinstance(named, list) else []
    tied, generation = config.get("tie_word_embeddings"), "generation_config.json"
    return Facts(
        architecture=_text(next(iter(architectures), ""), 80),
        model_type=_text(config.get("model_type"), 40),
        parameter_count=parameters,
        dtype=dtype,
        quantization=_text(_object(config.get("quantization_config")).get("quant_method"), 40),
        context_length_tokens=_count(text.get("max_position_embeddings")),
        more={
            "layers": _count(text.get("num_hidden_layers")),
            "hidden_size": _count(text.get("hidden_size")),
            "attention_heads": _count(text.get("num_attention_heads")),
            "key_value_heads": _count(text.get("num_key_value_heads")),
            "head_dim": _count(text.get("head_dim")),
            "intermediate_size": _count(text.get("intermediate_size")),
            "experts": _count(text.get("num_experts", text.get("num_local_experts"))),
            "vocabulary": _count(text.get("vocab_size")),
            **_linear_layers(text),
            "tied_embeddings": tied if isinstance(tied, bool) else None,
            "tensors": tensors,
            "has_tokenizer": "tokenizer.json" in files,
            "has_chat_template": _has_chat_template(folder, files),
            "generation": _kept(_json(folder / generation)) if generation in files else {},
        },
    )


def _linear_layers(text: dict[str, Any]) -> dict[str, int | None]:
    """How many layers attend to all tokens, and what the others keep; nothing if all do."""
    if "linear_num_value_heads" not in text:
        return {}
    layers, kinds = _count(text.get("num_hidden_layers")), text.get("layer_types")
    every = _count(text.get("full_attention_interval")) or 4  # transformers' default
    attending = layers // every if layers else None
    if isinstance(kinds, list):
        attending = len(kinds) - kinds.count("linear_attention")
    return {
        "full_attention_layers": attending,
        "linear_value_heads": _count(text.get("linear_num_value_heads")),
        "linear_key_heads": _count(text.get("linear_num_key_heads")),
        "linear_value_head_dim": _count(text.get("linear_value_head_dim")),
        "linear_key_head_dim": _count(text.get("linear_key_head_dim")),
        "linear_conv_kernel": _count(text.get("linear_conv_kernel_dim")),
    }


def _adapter_facts(config: dict[str, Any], parameters: int, dtype: str, tensors: int) -> Facts:
    given = config.get("target_modules")
    modules = given if isinstance(given, list) else [given]
    return Facts(
        architecture=_text(config.get("peft_type"), 80),
        model_type=ADAPTER,
        parameter_count=parameters,
        dtype=dtype,
        more={
            "rank": _count(config.get("r")),
            "alpha": _count(config.get("lora_alpha")),
            "dora": config.get("use_dora") is True,
            "target_modules": sorted(_text(each, 200) for each in modules if each),
            "tensors": tensors,
        },
    )


def _text(value: object, limit: int) -> str:
    """As much of a config's text as its column holds; empty for anything else."""
    return storable(value[:limit]) if isinstance(value, str) else ""


def _count(value: object) -> int | None:
    """A config's whole number that a column holds; None for anything else."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return value if is_whole and 0 <= value < 2**31 else None  # type: ignore[operator,return-value]


def _object(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _kept(value: dict[str, Any]) -> dict[str, Any]:
    """A small JSON object as it is; nothing of one that is large or that no row can hold."""
    try:
        size = len(json.dumps(value, allow_nan=False, ensure_ascii=False).encode())
    except ValueError:  # not finite, or not Unicode
        return {}
    return value if size <= LARGEST_KEPT_BYTES and "\\u0000" not in json.dumps(value) else {}


def _weights(folder: Path, files: list[str]) -> tuple[int, str, int]:
    """Parameters, the dtype most of them have, and the number of tensors."""
    by_dtype: Counter[str] = Counter()
    tensors = 0
    for name in files:
        if not name.endswith(".safetensors"):
            continue
        for tensor, entry in read_header(folder / name).items():
            if tensor == "__metadata__":
                continue
            by_dtype[entry["dtype"]] += math.prod(entry["shape"])
            tensors += 1
    most = by_dtype.most_common(1)
    dtype = DTYPES.get(most[0][0], most[0][0]) if most else ""
    return sum(by_dtype.values()), dtype, tensors


def read_header(path: Path) -> dict[str, Any]:
    """A safetensors file's header. Raises IncompleteModel if the file is not whole."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(LARGEST_HEADER_BYTES, size - 8):
            raise IncompleteModel(f"{path.name} is no safetensors file.", field="source")
        try:
            header = json.loads(file.read(length))
            tensors = [entry for name, entry in header.items() if name != "__metadata__"]
            end = max((entry["data_offsets"][1] for entry in tensors), default=0)
            if not all(_is_tensor(entry, size) for entry in tensors):
                raise ValueError("a tensor without its type or shape")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise IncompleteModel(f"{path.name} has a broken header.", field="source") from error
    if 8 + length + end != size:
        raise IncompleteModel(
            f"{path.name} is {size} bytes, its header speaks of {8 + length + end}.",
            field="source",
            remedy="Fetch the file again.",
        )
    return dict(header)


def _is_tensor(entry: dict[str, Any], size: int) -> bool:
    """Whether it has a type and a shape, of no more numbers than a file of that size can hold."""
    shape = entry["shape"]
    if not isinstance(entry["dtype"], str) or len(entry["dtype"]) > 20:
        return False
    return all(_count(side) is not None for side in shape) and math.prod(shape) <= size * 8


def _has_chat_template(folder: Path, files: list[str]) -> bool:
    if "chat_template.jinja" in files:
        return True
    return "tokenizer_config.json" in files and bool(
        _json(folder / "tokenizer_config.json").get("chat_template")
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > LARGEST_JSON_BYTES:
            raise ValueError("too large")
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise IncompleteModel(f"{path.name} cannot be read: {error}", field="source") from error
    if not isinstance(value, dict):
        raise IncompleteModel(f"{path.name} is no JSON object.", field="source")
    return value
