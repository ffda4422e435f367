"""Which parsers of an engine read a model's tool calls and thoughts."""

import json
from pathlib import Path

from engines.host import ServeSpec
from engines.protocol.dialect import Dialect, find_dialect


def find_parsers(spec: ServeSpec) -> Dialect:
    """The parsers by vLLM's names, from the spec or, where it says auto, from the chat template.

    A folder without a template, or whose files cannot be read, has none.
    """
    return find_dialect(
        read_template(Path(spec.model_path)),
        tools=spec.tool_parser,
        reasoning=spec.reasoning_parser,
    )


def read_template(folder: Path) -> str:
    """The chat template in the folder of a model; empty where there is none."""
    try:
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        pass
    try:
        config = json.loads((folder / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError):
        return ""
    template = config.get("chat_template", "") if isinstance(config, dict) else ""
    if isinstance(template, list):  # several by name: [{"name": "default", "template": "..."}]
        named = {
            each.get("name"): each.get("template") for each in template if isinstance(each, dict)
        }
        template = named.get("default", "")
    return template if isinstance(template, str) else ""
