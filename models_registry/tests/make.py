"""Rows and folders for tests."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path

from accounts.models import Organization
from accounts.tests.make import NOW, make_organization
from models_registry import services
from models_registry.choices import RevisionKind, SourceKind
from models_registry.models import Revision


def make_model_folder(folder: Path, *, seed: int = 0, **config: object) -> Path:
    """A folder that looks like a model: right headers, meaningless weights. No torch needed."""
    folder.mkdir(parents=True, exist_ok=True)
    values = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "max_position_embeddings": 512,
        "vocab_size": 16,
    } | config
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "tokenizer.json").write_text("{}")
    write_safetensors(folder / "model.safetensors", {"embed": [16, 8]}, seed=seed)
    return folder


def write_safetensors(path: Path, shapes: dict[str, list[int]], *, seed: int = 0) -> None:
    """A well-formed safetensors file of 32-bit floats."""
    header, body = {}, b""
    for name, shape in shapes.items():
        count = 1
        for size in shape:
            count *= size
        data = struct.pack(f"<{count}f", *[seed + index / 10 for index in range(count)])
        offsets = [len(body), len(body) + len(data)]
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": offsets}
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def make_adapter_revision(
    folder: Path, base: Revision, *, name: str = "adapter", seed: int = 0
) -> Revision:
    """A published adapter of a revision: right files, meaningless weights."""
    source = folder / f"{name}-{seed}"
    source.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, "target_modules": ["q_proj"]}
    (source / "adapter_config.json").write_text(json.dumps(config))
    stem = "base_model.model.model.layers.0.self_attn.q_proj.lora_"
    shapes = {f"{stem}A.weight": [1, 8], f"{stem}B.weight": [8, 1]}
    write_safetensors(source / "adapter_model.safetensors", shapes, seed=seed)
    return services.publish_folder(
        organization=base.registered_model.organization,
        name=name,
        folder=source,
        kind=RevisionKind.ADAPTER,
        source_kind=SourceKind.FOLDER,
        parent=base,
        now=NOW,
    )


def make_revision(
    folder: Path,
    organization: Organization | None = None,
    *,
    name: str = "tiny",
    kind: str = RevisionKind.BASE,
    seed: int = 0,
    visibility: str = "private",
    parent: Revision | None = None,
    config: Mapping[str, object] | None = None,
) -> Revision:
    """A published revision of a meaningless model; `folder` is scratch space (tmp_path).

    `config` is what its config.json says beside the usual.
    """
    return services.publish_folder(
        organization=organization or make_organization(),
        name=name,
        folder=make_model_folder(folder / f"{name}-{seed}", seed=seed, **(config or {})),
        kind=kind,
        source_kind=SourceKind.FOLDER,
        visibility=visibility,
        parent=parent,
        now=NOW,
    )
