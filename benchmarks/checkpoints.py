"""Random models of true sizes: rates are real, texts are not."""

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TOKENIZER = ROOT / "demo" / "tiny_qwen3" / "model"

# As in the config.json of Qwen/Qwen3-0.6B and Qwen/Qwen3-8B.
SHAPES: dict[str, dict[str, Any]] = {
    "0.6B": {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
    "8B": {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "tie_word_embeddings": False,
    },
}
VOCABULARY = 151_936
HEAD_SIZE = 128


def make_checkpoint(folder: Path, shape: str) -> Path:
    """A Qwen3 of that shape with random bfloat16 weights under `folder`; made once, then kept."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    ready = folder / f"random-qwen3-{shape}"
    if (ready / "config.json").exists():
        return ready
    folder.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=folder))
    torch.manual_seed(0)
    config = Qwen3Config(
        **SHAPES[shape],
        vocab_size=VOCABULARY,
        head_dim=HEAD_SIZE,
        max_position_embeddings=40_960,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        rms_norm_eps=1e-6,
        eos_token_id=2,
        pad_token_id=0,
        dtype="bfloat16",
    )
    with torch.device("cpu"):
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        Qwen3ForCausalLM(config).save_pretrained(fresh)
        torch.set_default_dtype(before)
    write_tokenizer(fresh)
    fresh.chmod(0o755)
    shutil.rmtree(ready, ignore_errors=True)
    fresh.rename(ready)
    return ready


def write_tokenizer(folder: Path) -> None:
    """The demo's tokenizer, with made-up words for the ids it lacks: every token is some text."""
    for name in ("tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"):
        if (TOKENIZER / name).exists():
            shutil.copy(TOKENIZER / name, folder / name)
    content = json.loads((TOKENIZER / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    used = set(vocabulary.values()) | {each["id"] for each in content["added_tokens"]}
    for token in range(VOCABULARY):
        if token not in used:
            vocabulary[f"Ġw{token}"] = token  # Ġ is how byte-level vocabularies spell a space
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


def weight_bytes(shape: str, *, bytes_each: float = 2.0, head_bytes_each: float = 2.0) -> float:
    """What a token's decoding reads of the weights: all layers and the head."""
    return layer_parameters(shape) * bytes_each + head_parameters(shape) * head_bytes_each


def layer_parameters(shape: str) -> int:
    numbers = SHAPES[shape]
    hidden, inner = numbers["hidden_size"], numbers["intermediate_size"]
    heads, kv_heads = numbers["num_attention_heads"], numbers["num_key_value_heads"]
    attention = hidden * HEAD_SIZE * (2 * heads + 2 * kv_heads)
    layers: int = numbers["num_hidden_layers"]
    total: int = layers * (attention + 3 * hidden * inner)
    return total


def head_parameters(shape: str) -> int:
    hidden: int = SHAPES[shape]["hidden_size"]
    return hidden * VOCABULARY


def kv_bytes_per_token(shape: str) -> int:
    numbers = SHAPES[shape]
    kv: int = 2 * numbers["num_hidden_layers"] * numbers["num_key_value_heads"] * HEAD_SIZE * 2
    return kv


if __name__ == "__main__":
    print(json.dumps({"folder": str(make_checkpoint(Path(sys.argv[1]), sys.argv[2]))}))
