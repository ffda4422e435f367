"""TRL's preference lines: {"prompt"?, "chosen", "rejected"}, as texts or as messages.

Without a prompt, what both conversations begin with is the prompt (TRL's implicit prompts).
"""

from typing import Any

from common.texts import Text
from training.formats import openai_preference
from training.formats.messages import read_messages
from training.formats.openai_chat import add_tools
from training.formats.problems import Findings, kind_of

NAME, KIND = "trl_preference", "preference"
LINE_KEYS = frozenset({"prompt", "chosen", "rejected", "system", "tools", "parallel_tool_calls"})


def matches(row: dict[str, Any]) -> bool:
    return "chosen" in row and "rejected" in row


def convert(found: Findings, row: dict[str, Any]) -> dict[str, Any]:
    for key in row.keys() - LINE_KEYS:
        found.ignore(key)
    prompt, chosen, rejected = row.get("prompt"), row.get("chosen"), row.get("rejected")
    if prompt is None and isinstance(chosen, list) and isinstance(rejected, list):
        same = _common(chosen, rejected)
        prompt, chosen, rejected = chosen[:same], chosen[same:], rejected[same:]
    question: dict[str, Any] = {"messages": prompt_messages(found, prompt, row.get("system"))}
    add_tools(found, row, question)
    return {
        "input": question,
        "preferred_output": answer(found, chosen, "chosen"),
        "non_preferred_output": answer(found, rejected, "rejected"),
    }


def prompt_messages(
    found: Findings, prompt: Any, system: Any = None, path: str = "prompt"
) -> list[dict[str, Any]]:
    """A text as a user's message, or a list of messages that ends with the user's."""
    first = [{"role": "system", "content": system}] if system else []
    if isinstance(prompt, str):
        inner = Findings()
        messages = read_messages(
            inner, [*first, {"role": "user", "content": prompt}], path, ends="user"
        )
        for problem in inner.problems:
            at = "system" if first and problem.field.startswith(f"{path}.0") else path
            found.add(problem.code, at, problem.message, problem.remedy)
        return messages
    if not isinstance(prompt, list) or not prompt:
        found.add(
            "prompt_missing",
            path,
            Text("There is no prompt.")
            if not prompt
            else Text("The prompt is %(what)s.", what=kind_of(prompt)),
            Text("Write a text, or a list of messages that ends with the user's."),
        )
        return []
    return read_messages(found, [*first, *prompt], path, ends="user")


def answer(found: Findings, value: Any, path: str) -> list[dict[str, Any]]:
    """A text or a list of one assistant message, as such a list."""
    if isinstance(value, str):
        inner = Findings()
        value = [{"role": "assistant", "content": value}]
        messages = openai_preference.output(inner, value, path)
        for problem in inner.problems:
            found.add(problem.code, path, problem.message, problem.remedy)
        return messages
    return openai_preference.output(found, value, path)


def _common(left: list[Any], right: list[Any]) -> int:
    """How many messages both begin with; the last of each is its answer."""
    most = min(len(left), len(right)) - 1
    same = 0
    while same < most and left[same] == right[same]:
        same += 1
    return same
