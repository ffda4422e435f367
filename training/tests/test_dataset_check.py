import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from training import dataset_check
from training.formats import containers
from training.prepare import Prepared, prepare

Check = Callable[[dict[str, io.BytesIO]], Prepared]


@pytest.fixture
def check(tmp_path: Path) -> Check:
    return lambda files: prepare(files, tmp_path)


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


def test_a_good_file_is_counted_and_kept_without_blank_lines(check: Check) -> None:
    other = line_with(content="Hello")
    prepared = check({"train": io.BytesIO(encode(GOOD, other, b"\n", GOOD))})
    report = prepared.report
    assert report["is_valid"]
    split, source = report["splits"]["train"], report["sources"][0]
    assert (source["lines"], source["examples"], split["examples"]) == (4, 3, 3)
    assert (split["messages"], split["with_system"]) == (8, 2)
    assert split["longest_line"] == 1
    assert source["size_bytes"] == len(encode(GOOD, other, b"\n", GOOD))
    assert prepared.files["train"].read_bytes() == encode(GOOD, other, GOOD)
    assert report["findings"] == {"duplicate": 1}
    assert [(f.line, f.other_line) for f in prepared.findings] == [(3, 1)]


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
        ({"messages": [{"role": "boss", "content": "x"}]}, "role_unknown", "messages.0.role"),
        (line_with(), "content_missing", "messages.1.content"),
        (line_with(content=" \n"), "content_empty", "messages.1.content"),
        (line_with(content=["x"]), "content_in_parts", "messages.1.content"),
        (line_with(content=7), "content_not_text", "messages.1.content"),
        (line_with(content="a\0"), "content_has_nul", "messages.1.content"),
        (line_with(content="\ud800"), "content_not_unicode", "messages.1.content"),
        (line_with(content="x", weight=2), "weight_invalid", "messages.1.weight"),
        (line_with(content="x", weight=0), "nothing_to_learn", "messages"),
        (line_with(content="x", tool_calls=[]), "tool_calls_invalid", "messages.1.tool_calls"),
        (line_with(content="x", audio={}), "audio_not_supported", "messages.1.audio"),
        (GOOD | {"functions": []}, "functions_not_supported", "functions"),
        (GOOD | {"tools": {}}, "tools_invalid", "tools"),
        (GOOD | {"tools": [{"type": "code"}]}, "tool_invalid", "tools.0"),
        (GOOD | {"parallel_tool_calls": 1}, "parallel_tool_calls_invalid", "parallel_tool_calls"),
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
    check: Check, line: object, code: str | None, field: str | None
) -> None:
    report = check({"train": io.BytesIO(encode(GOOD, line, GOOD))}).report
    if code is None:
        assert report["is_valid"]
        return
    assert [(e["line"], e["code"], e["field"]) for e in report["errors"]] == [(2, code, field)]
    assert report["errors"][0]["message"]
    assert report["errors"][0]["remedy"]
    assert report["sources"][0]["examples"] == 2
    json.dumps(report).encode()  # nothing in it that a database would refuse


def test_all_errors_are_counted_and_the_first_thousand_kept(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_check, "ERRORS_KEPT", 3)
    report = check({"train": io.BytesIO(b"{\n" * 5), "heldout": io.BytesIO(b"")}).report
    assert report["errors_total"] == 6
    assert [error["line"] for error in report["errors"]] == [1, 2, 3]
    assert report["error_codes"] == {"not_json": 5, "no_examples": 1}


def test_a_line_too_long_is_passed_over_whole(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(containers, "MAX_LINE_BYTES", 300)
    data = encode(GOOD, b"x" * 1000 + b"\n", GOOD)
    report = check({"train": io.BytesIO(data)}).report
    assert [(e["line"], e["code"]) for e in report["errors"]] == [(2, "line_too_long")]
    assert report["sources"][0]["examples"] == 2
    assert report["sources"][0]["size_bytes"] == len(data)


def test_unknown_keys_are_told_and_do_not_refuse(check: Check) -> None:
    rows = GOOD | {"id": 1}, line_with(content="x", mood="glad")
    report = check({"train": io.BytesIO(encode(*rows))}).report
    assert report["is_valid"]
    assert report["unknown_keys"] == {"id": 1, "messages[].mood": 1}


def test_the_same_messages_in_two_splits_are_leakage(check: Check) -> None:
    train = encode(GOOD, GOOD, line_with(content="a"))
    heldout = encode(GOOD | {"id": 3}, line_with(content="b"))
    prepared = check({"heldout": io.BytesIO(heldout), "train": io.BytesIO(train)})
    assert prepared.report["is_valid"]
    assert prepared.report["leakage"] == [{"splits": ["train", "heldout"], "examples": 1}]
    places = {f.kind: (f.split, f.line, f.other_split, f.other_line) for f in prepared.findings}
    assert places == {
        "duplicate": ("train", 2, "train", 1),
        "leak": ("heldout", 1, "train", 1),
        "leak_question": ("heldout", 2, "train", 3),  # "Hi", answered otherwise
    }


def test_unknown_keys_of_any_kind_and_number_are_told_in_bounds(check: Check) -> None:
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    rows = [{"messages": messages, f"\0\ud800{number}{'x' * 100}": 1} for number in range(1200)]
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    report = check({"train": io.BytesIO(data)}).report
    assert report["is_valid"]
    assert len(report["unknown_keys"]) == 50
    assert next(iter(report["unknown_keys"])) == "?0" + "x" * 57 + "…"
