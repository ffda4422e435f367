"""Source formats -> the three kinds of canonical lines that training and checks read.

`chat` is OpenAI's chat fine-tuning line, `preference` its preference line, `label` a conversation
with true or false. A format is a module with NAME, KIND, `matches(row)` and `convert(found, row)`;
how rows lie in a file is `training.formats.containers`'.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from common.texts import Text
from training.formats import (
    alpaca,
    kto,
    openai_chat,
    openai_preference,
    prompt_completion,
    sharegpt,
    trl_preference,
)
from training.formats.problems import Findings, Problem, kind_of

# In the order in which they are asked whether a row is theirs.
ALL: tuple[ModuleType, ...] = (
    openai_preference,
    trl_preference,
    kto,
    openai_chat,
    prompt_completion,
    alpaca,
    sharegpt,
)
BY_NAME: Mapping[str, ModuleType] = {module.NAME: module for module in ALL}
NAMES = tuple(BY_NAME)


def detect(row: Mapping[str, Any]) -> str:
    """The format that a row has by its keys (values may be None); "" if none of them."""
    return next((module.NAME for module in ALL if module.matches(row)), "")


def convert(name: str, row: Any) -> tuple[dict[str, Any], Findings]:
    """A row of format `name` as its canonical line, of use only if nothing is wrong with it."""
    found = Findings()
    if not isinstance(row, dict):
        found.add(
            "not_an_object",
            "",
            Text("The line holds %(what)s, not a JSON object.", what=kind_of(row)),
            Text('Write {"messages": [...]}.'),
        )
        return {}, found
    return BY_NAME[name].convert(found, row), found


__all__ = ["ALL", "BY_NAME", "NAMES", "Findings", "Problem", "convert", "detect"]
