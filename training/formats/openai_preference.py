"""OpenAI preference lines: {"input": {"messages"}, "preferred_output", "non_preferred_output"}."""

from typing import Any

from common.texts import Text
from training.formats.messages import read_messages
from training.formats.openai_chat import add_tools
from training.formats.problems import Findings

NAME, KIND = "openai_preference", "preference"
LINE_KEYS = frozenset({"input", "preferred_output", "non_preferred_output"})
INPUT_KEYS = frozenset({"messages", "tools", "parallel_tool_calls"})


def matches(row: dict[str, Any]) -> bool:
    return "preferred_output" in row or "non_preferred_output" in row


def convert(found: Findings, row: dict[str, Any]) -> dict[str, Any]:
    for key in row.keys() - LINE_KEYS:
        found.ignore(key)
    given = row.get("input")
    if not isinstance(given, dict) or not given:
        found.add(
            "input_missing",
            "input",
            Text("There is no input."),
            Text('Add "input": {"messages": [{"role": "user", "content": "..."}]}.'),
        )
        given = {}
    for key in given.keys() - INPUT_KEYS:
        found.ignore(key, "input")
    question: dict[str, Any] = {
        "messages": read_messages(found, given.get("messages"), "input.messages", ends="user")
        if given
        else []
    }
    add_tools(found, given, question, "input.tools")
    return {
        "input": question,
        "preferred_output": output(found, row.get("preferred_output"), "preferred_output"),
        "non_preferred_output": output(
            found, row.get("non_preferred_output"), "non_preferred_output"
        ),
    }


def output(found: Findings, value: Any, path: str) -> list[dict[str, Any]]:
    """One assistant message, in a list."""
    if (
        not isinstance(value, list)
        or len(value) != 1
        or not isinstance(value[0], dict)
        or value[0].get("role") != "assistant"
    ):
        found.add(
            f"{path}_invalid",
            path,
            Text("This is not a list of one assistant message."),
            Text('Write [{"role": "assistant", "content": "..."}].'),
        )
        return []
    # Looked at as the answer to something, so that the order is right.
    before = [{"role": "user", "content": "?"}]
    inner = Findings()
    messages = read_messages(inner, [*before, *value], path)
    found.unknown_keys += inner.unknown_keys
    for problem in inner.problems:
        rest = problem.field.removeprefix(f"{path}.1")
        found.add(problem.code, f"{path}.0{rest}", problem.message, problem.remedy)
    return messages[1:]
