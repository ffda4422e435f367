"""The result's files beside its weights: the base's, and the adapter's own where it has them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from trainer.folders import MANIFEST
from trainer.parity_file import FILE as PARITY

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
TEMPLATE = "chat_template.jinja"
OF_TOKENIZERS = {
    TOKENIZER, TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt", "tokenizer.model", TEMPLATE, "chat_template.json",
}  # fmt: skip
NOT_THE_RESULTS = {"README.md", "model.safetensors.index.json", "config.json", MANIFEST, PARITY}
GENERATION = "generation_config.json"


def read_config(base: Path, adapter: Path) -> dict[str, Any]:
    """The model's config.json: the adapter's where it has one, in the base's number format."""
    of_base = _json(base / "config.json")
    own = _json(adapter / "config.json")
    if not own:
        return of_base
    own.pop("quantization_config", None)  # of the base while it was trained on
    formats = {key: of_base[key] for key in ("dtype", "torch_dtype") if key in of_base}
    return {
        key: value for key, value in own.items() if key not in ("dtype", "torch_dtype")
    } | formats


def write_texts(
    base: Path, adapter: Path, into: Path, *, config: dict[str, Any], card: str
) -> None:
    """Write everything but the weights and their index."""
    for path in _files(base):
        _copy(path, into / path.relative_to(base))
    if (adapter / TOKENIZER).is_file():
        template = _template(base)
        for name in OF_TOKENIZERS:
            (into / name).unlink(missing_ok=True)
            if (adapter / name).is_file():
                _copy(adapter / name, into / name)
        if template and not _template(into):
            (into / TEMPLATE).write_text(template, encoding="utf-8")
    elif (adapter / TEMPLATE).is_file():
        _copy(adapter / TEMPLATE, into / TEMPLATE)
    if (adapter / GENERATION).is_file():
        _copy(adapter / GENERATION, into / GENERATION)
    (into / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (into / "README.md").write_text(card, encoding="utf-8")


def _files(base: Path) -> list[Path]:
    found = sorted(path for path in base.rglob("*") if path.is_file())
    return [
        path
        for path in found
        if path.suffix != ".safetensors"
        and path.relative_to(base).as_posix() not in NOT_THE_RESULTS
    ]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    shutil.copyfile(source, target)


def _template(folder: Path) -> str:
    """The chat template that a tokenizer loaded from the folder would have; empty if none."""
    if (folder / TEMPLATE).is_file():
        return (folder / TEMPLATE).read_text(encoding="utf-8")
    said = _json(folder / TOKENIZER_CONFIG).get("chat_template")
    return said if isinstance(said, str) else ""


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    value = json.loads(path.read_text(encoding="utf-8"))
    return value if isinstance(value, dict) else {}
