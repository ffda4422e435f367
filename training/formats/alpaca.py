"""Alpaca: {"instruction", "input"?, "output", "system"?, "history"? of [question, answer] pairs}."""

from typing import Any

from common.texts import Text
from training.formats.messages import read_messages
from training.formats.problems import Findings

NAME, KIND = "alpaca", "chat"
LINE_KEYS = frozenset({"instruction", "input", "output", "system", "history"})


def matches(row: dict[str, Any]) -> bool:
    return "instruction" in row and "output" in row


def convert(found: Findings, row: dict[str, Any]) -> dict[str, Any]:
    for key in row.keys() - LINE_KEYS:
        found.ignore(key)
    messages: list[dict[str, Any]] = []
    names: list[str] = []  # of the field that each message comes from
    if row.get("system"):
        messages.append({"role": "system", "content": row["system"]})
        names.append("system")
    history = row.get("history") or []
    if not isinstance(history, list):
        history = [history]
    for index, pair in enumerate(history):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            found.add(
                "history_invalid",
                f"history.{index}",
                Text("This is no pair of a question and an answer."),
                Text('Write ["question", "answer"].'),
            )
            return {}
        for role, text, side in zip(("user", "assistant"), pair, (0, 1), strict=True):
            messages.append({"role": role, "content": text})
            names.append(f"history.{index}.{side}")
    question, more = row.get("instruction"), row.get("input")
    if isinstance(question, str) and isinstance(more, str) and more.strip():
        question = f"{question}\n\n{more}"
    messages += [
        {"role": "user", "content": question},
        {"role": "assistant", "content": row.get("output")},
    ]
    names += ["instruction", "output"]
    inner = Findings()
    read = read_messages(inner, messages)
    for problem in inner.problems:
        _path, _dot, rest = problem.field.partition(".")
        number = rest.partition(".")[0]
        at = names[int(number)] if number else "history"
        found.add(problem.code, at, problem.message, problem.remedy)
    return {"messages": read}
