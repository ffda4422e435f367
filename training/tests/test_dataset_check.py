import io
import json

import pytest

from training import chat_lines, dataset_check
from training.dataset_check import check

GOOD = {
    "messages": [
        {"role": "system", "content": "Read the message."},
        {"role": "user", "content": "Where is order 12?"},
        {"role": "assistant", "content": '{"intent": "tracking"}'},
    ]
}


def encode(*rows: object) -> bytes:
    return b"".join(
        row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows
    )


def line_with(**message: object) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant"} | message]}


def test_a_good_file_is_counted() -> None:
    other = line_with(content="Hello")
    report = check({"train": io.BytesIO(encode(GOOD, other, b"\n", GOOD))})
    assert report.is_valid
    split = report.splits["train"]
    assert (split.examples, split.lines, split.blank_lines, split.duplicates) == (3, 4, 1, 1)
    assert (split.messages, split.with_system) == (8, 2)
    assert split.longest_line == 1
    assert split.size_bytes == len(encode(GOOD, other, b"\n", GOOD))
    assert report.as_json()["examples"] == 3


@pytest.mark.parametrize(
    ("line", "code", "field"),
    [
        (b"\xff\xfe\n", "not_utf8", ""),
        (b"\xef\xbb\xbf{}\n", "byte_order_mark", ""),
        (b"{\n", "not_json", ""),
        (b"[" * 100_000 + b"\n", "not_json", ""),
        (b"[1]\n", "not_an_object", ""),
        ({}, "messages_missing", "messages"),
        ({"messages": {}}, "messages_missing", "messages"),
        ({"messages": ["hi"]}, "message_not_an_object", "messages.0"),
        ({"messages": [{"content": "x"}]}, "role_missing", "messages.0.role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "role_unknown", "messages.0.role"),
        (line_with(), "content_missing", "messages.1.content"),
        (line_with(content=" \n"), "content_empty", "messages.1.content"),
        (line_with(content=["x"]), "content_in_parts", "messages.1.content"),
        (line_with(content=7), "content_not_text", "messages.1.content"),
        (line_with(content="a\0"), "content_has_nul", "messages.1.content"),
        (line_with(content="\ud800"), "content_not_unicode", "messages.1.content"),
        (line_with(content="x", weight=2), "weight_invalid", "messages.1.weight"),
        (line_with(content="x", weight=0), "nothing_to_learn", "messages"),
        (
            line_with(content="x", tool_calls=[]),
            "tool_calls_not_supported",
            "messages.1.tool_calls",
        ),
        (GOOD | {"tools": []}, "tools_not_supported", "tools"),
        ({"messages": GOOD["messages"][:2]}, "answer_missing", "messages"),
        ({"messages": GOOD["messages"][:1]}, "answer_missing", "messages"),
        ({"messages": GOOD["messages"][1:] * 2}, None, None),
        (
            {"messages": [*GOOD["messages"], *GOOD["messages"]]},
            "role_out_of_order",
            "messages.3.role",
        ),
        ({"messages": GOOD["messages"][2:]}, "role_out_of_order", "messages.0.role"),
    ],
)
def test_every_fault_is_named_by_line_field_and_remedy(
    line: object, code: str | None, field: str | None
) -> None:
    report = check({"train": io.BytesIO(encode(GOOD, line, GOOD))})
    if code is None:
        assert report.is_valid
        return
    assert [(e["line"], e["code"], e["field"]) for e in report.errors] == [(2, code, field)]
    assert report.errors[0]["message"]
    assert report.errors[0]["remedy"]
    assert report.splits["train"].examples == 2
    json.dumps(report.as_json()).encode()  # nothing in it that a database would refuse


def test_all_errors_are_counted_and_the_first_thousand_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(dataset_check, "ERRORS_KEPT", 3)
    report = check({"train": io.BytesIO(b"{\n" * 5), "heldout": io.BytesIO(b"")})
    assert report.errors_total == 6
    assert [error["line"] for error in report.errors] == [1, 2, 3]
    assert report.error_codes == {"not_json": 5, "no_examples": 1}


def test_a_line_too_long_is_passed_over_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_lines, "MAX_LINE_BYTES", 300)
    data = encode(GOOD, b"x" * 1000 + b"\n", GOOD)
    report = check({"train": io.BytesIO(data)})
    assert [(e["line"], e["code"]) for e in report.errors] == [(2, "line_too_long")]
    assert report.splits["train"].examples == 2
    assert report.splits["train"].size_bytes == len(data)


def test_unknown_keys_are_told_and_do_not_refuse() -> None:
    rows = GOOD | {"id": 1}, line_with(content="x", mood="glad")
    report = check({"train": io.BytesIO(encode(*rows))})
    assert report.is_valid
    assert report.unknown_keys == {"id": 1, "messages[].mood": 1}


def test_the_same_messages_in_two_splits_are_leakage() -> None:
    train = encode(GOOD, GOOD, line_with(content="a"))
    heldout = encode(GOOD | {"id": 3}, line_with(content="b"))
    report = check({"train": io.BytesIO(train), "heldout": io.BytesIO(heldout)})
    assert report.is_valid
    assert report.leakage == [{"splits": ["train", "heldout"], "examples": 1}]


def test_unknown_keys_of_any_kind_and_number_are_told_in_bounds() -> None:
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    rows = [{"messages": messages, f"\0\ud800{number}{'x' * 100}": 1} for number in range(1200)]
    report = check({"train": io.BytesIO("".join(json.dumps(row) + "\n" for row in rows).encode())})
    assert report.is_valid
    assert len(report.unknown_keys) == 1000
    assert next(iter(report.unknown_keys)) == "?0" + "x" * 57 + "…"
