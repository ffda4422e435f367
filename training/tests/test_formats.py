"""Every source format, with what it becomes; and that no row of it, however odd, does worse than be
refused by line."""

import csv
import io
import json
import random
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from training import formats
from training.formats import containers
from training.prepare import Prepared, prepare

CALL = {
    "id": "c1",
    "type": "function",
    "function": {"name": "find", "arguments": '{"order": 12}'},
}
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]
CHAT = {
    "messages": [
        {"role": "system", "content": "Help."},
        {"role": "user", "content": "Where is 12?"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "on its way"},
        {"role": "assistant", "content": "On its way.", "weight": 1},
        {"role": "user", "content": "Thanks"},
        {"role": "assistant", "content": "Bye", "weight": 0},
    ],
    "tools": TOOLS,
    "parallel_tool_calls": False,
}
USER = {"role": "user", "content": "Hi"}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


PAIR = {
    "input": {"messages": [USER]},
    "preferred_output": [said("Hello")],
    "non_preferred_output": [said("What")],
}
ROWS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("openai_chat", CHAT, CHAT),
    (
        "openai_chat",
        {
            "messages": [
                {"role": "developer", "content": "Be kind."},
                {
                    "role": "user",
                    "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}],
                },
                said("Hello"),
            ]
        },
        {"messages": [{"role": "system", "content": "Be kind."}, USER, said("Hello")]},
    ),
    ("openai_preference", PAIR, PAIR),
    ("trl_preference", {"prompt": "Hi", "chosen": "Hello", "rejected": "What"}, PAIR),
    (
        "trl_preference",
        {"prompt": [USER], "chosen": [said("Hello")], "rejected": [said("What")]},
        PAIR,
    ),
    ("trl_preference", {"chosen": [USER, said("Hello")], "rejected": [USER, said("What")]}, PAIR),
    (
        "kto",
        {"prompt": "Hi", "completion": "Hello", "label": "yes"},
        {"messages": [USER, said("Hello")], "label": True},
    ),
    (
        "kto",
        {"messages": [USER, said("Hello")], "label": False},
        {"messages": [USER, said("Hello")], "label": False},
    ),
    (
        "prompt_completion",
        {"prompt": "Hi", "completion": "Hello", "system": "Help."},
        {"messages": [{"role": "system", "content": "Help."}, USER, said("Hello")]},
    ),
    (
        "alpaca",
        {"instruction": "Add", "input": "1, 2", "output": "3", "history": [["Hi", "Hello"]]},
        {"messages": [USER, said("Hello"), {"role": "user", "content": "Add\n\n1, 2"}, said("3")]},
    ),
    (
        "sharegpt",
        {
            "conversations": [
                {"from": "human", "value": "Hi"},
                {"from": "function_call", "value": '{"name": "find", "arguments": {"a": 1}}'},
                {"from": "observation", "value": "none"},
                {"from": "gpt", "value": "Hello"},
            ],
            "tools": json.dumps([TOOLS[0]["function"]]),
        },
        {
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {
                            "id": "call_1",
                            "type": "function",
                            "function": {"name": "find", "arguments": '{"a": 1}'},
                        }
                    ],
                },
                {"role": "tool", "content": "none", "tool_call_id": "call_1"},
                said("Hello"),
            ],
            "tools": TOOLS,
        },
    ),
]


def run(tmp_path: Path, data: bytes, name: str = "train.jsonl", **settings: Any) -> Prepared:
    return prepare({"train": io.BytesIO(data)}, tmp_path, file_names={"train": name}, **settings)


def lines_of(prepared: Prepared, split: str = "train") -> list[Any]:
    return [json.loads(line) for line in prepared.files[split].read_bytes().splitlines()]


@pytest.mark.parametrize(("name", "row", "line"), ROWS)
def test_a_row_of_each_format_is_known_and_becomes_its_canonical_line(
    tmp_path: Path, name: str, row: dict[str, Any], line: dict[str, Any]
) -> None:
    assert formats.detect(row) == name
    prepared = run(tmp_path, json.dumps(row).encode())
    assert prepared.report["errors"] == []
    assert (prepared.report["format"], prepared.report["kind"]) == (
        name,
        formats.BY_NAME[name].KIND,
    )
    assert lines_of(prepared) == [line]
    again, found = formats.convert(formats.detect(line), line)
    assert (again, found.problems) == (line, [])  # what is canonical stays as it is


@pytest.mark.parametrize(
    ("row", "code", "field"),
    [
        (
            CHAT | {"messages": CHAT["messages"][:3] + CHAT["messages"][4:]},
            "role_out_of_order",
            "messages.3.role",
        ),
        (
            {"messages": [USER, said("a") | {"tool_calls": [CALL | {"id": ""}]}]},
            "tool_call_id_missing",
            "messages.1.tool_calls.0.id",
        ),
        (
            {
                "messages": [
                    USER,
                    {
                        "role": "assistant",
                        "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{"}}],
                    },
                ]
            },
            "tool_call_arguments_invalid",
            "messages.1.tool_calls.0.function.arguments",
        ),
        (
            {
                "messages": [
                    USER,
                    said("a") | {"tool_calls": [CALL]},
                    {"role": "tool", "tool_call_id": "c2", "content": "x"},
                    said("b"),
                ]
            },
            "tool_call_unknown",
            "messages.2.tool_call_id",
        ),
        (PAIR | {"preferred_output": [USER]}, "preferred_output_invalid", "preferred_output"),
        (
            PAIR | {"non_preferred_output": [said(" ")]},
            "content_empty",
            "non_preferred_output.0.content",
        ),
        (PAIR | {"input": {"messages": [USER, said("x")]}}, "question_missing", "input.messages"),
        ({"prompt": "", "chosen": "a", "rejected": "b"}, "content_empty", "prompt"),
        ({"prompt": "a", "completion": "b", "label": None}, "label_invalid", "label"),
        ({"instruction": "a", "output": ""}, "content_empty", "output"),
        ({"instruction": "a", "output": "b", "history": "x"}, "history_invalid", "history.0"),
        (
            {"conversations": [{"from": "boss", "value": "x"}]},
            "role_unknown",
            "conversations.0.from",
        ),
        ({"conversations": [{"from": "human", "value": "x"}]}, "answer_missing", "conversations"),
        ({"text": "x"}, "format_unknown", ""),
    ],
)
def test_what_is_wrong_is_told_by_field(
    tmp_path: Path, row: dict[str, Any], code: str, field: str
) -> None:
    errors = run(tmp_path, json.dumps(row).encode()).report["errors"]
    assert [(error["code"], error["field"]) for error in errors] == [(code, field)]
    assert errors[0]["remedy"]


def test_no_row_however_odd_does_worse_than_be_refused() -> None:
    """Every format, its rows mutated a few thousand times from a seed: converted, or refused with a
    remedy; what is accepted can be written and is accepted again, unchanged."""
    draw = random.Random(11)
    odd: list[Any] = [
        None,
        True,
        0,
        -1.5,
        "",
        " ",
        "x",
        "\0",
        "\ud800",
        [],
        {},
        [[]],
        [{}],
        {"role": "user"},
    ]

    def mutated(value: Any) -> Any:
        if draw.random() < 0.06:
            return draw.choice(odd)
        if isinstance(value, dict):
            kept = {k: mutated(v) for k, v in value.items() if draw.random() > 0.03}
            return kept | (
                {draw.choice(["x", "weight", "role", "tools"]): 1} if draw.random() < 0.05 else {}
            )
        if isinstance(value, list):
            return [mutated(one) for one in value if draw.random() > 0.03]
        return value

    accepted = 0
    for _ in range(400):
        for name, row, _line in ROWS:
            line, found = formats.convert(name, mutated(row))
            for problem in found.problems:
                assert problem.code
                assert problem.remedy
            if not found.problems:
                accepted += 1
                again, more = formats.convert(formats.detect(line), json.loads(json.dumps(line)))
                assert (again, more.problems) == (line, []), name
    assert accepted > 500


def test_lists_csv_and_parquet_hold_the_same_rows(tmp_path: Path) -> None:
    rows = [{"question": f'Is "{n}", odd?\nYes', "reply": f"it is {n}"} for n in range(700)]
    wanted = [
        {"messages": [{"role": "user", "content": r["question"]}, said(r["reply"])]} for r in rows
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, ["question", "reply"], delimiter=";")
    writer.writeheader()
    writer.writerows(rows)
    table = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows), table)
    mapping = {"prompt": "question", "completion": "reply"}
    for data, name, told in (
        (json.dumps(rows, indent=1).encode(), "a.json", "prompt_completion"),
        (("\ufeff" + text.getvalue()).encode(), "a.csv", "csv"),
        (table.getvalue(), "a", "parquet"),
    ):
        prepared = run(tmp_path, data, name, mapping=mapping)
        assert prepared.report["errors"] == []
        assert (prepared.report["format"], prepared.report["mapping"]) == (told, mapping)
        assert lines_of(prepared) == wanted


def test_nested_messages_of_parquet_lose_the_nulls_that_it_adds(tmp_path: Path) -> None:
    table = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist([CHAT]), table)
    assert lines_of(run(tmp_path, table.getvalue()))[0]["messages"][1] == CHAT["messages"][1]


@pytest.mark.parametrize(
    ("data", "name", "mapping", "code"),
    [
        (b"a,b\n1,2\n", "x.csv", {}, "mapping_invalid"),
        (b"a,b\n1,2\n", "x.csv", {"prompt": "a", "completion": "c"}, "mapping_invalid"),
        (b"prompt,completion\n1,2,3\n", "x.csv", {}, "columns_uneven"),
        (b'prompt,completion\n"1,2\n', "x.csv", {}, "not_csv"),
        (b"prompt,completion\nh\xff,2\n", "x.csv", {}, "not_utf8"),
        (b"PAR1 and then nothing", "x", {}, "not_parquet"),
        (b'[{"prompt": "a", "completion": "b"}, {"pro', "x.json", {}, "not_json"),
        (b"", "x.csv", {}, "no_examples"),
    ],
)
def test_broken_files_are_refused_by_what_they_are(
    tmp_path: Path, data: bytes, name: str, mapping: dict[str, str], code: str
) -> None:
    report = run(tmp_path, data, name, mapping=mapping).report
    assert list(report["error_codes"]) == [code]


def test_a_long_list_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "BLOCK", 7)
    rows = [{"a": "x" * n, "b": [n, {"c": "]"}]} for n in range(40)]
    file = io.BytesIO(json.dumps(rows).encode())
    assert [record.row for record in containers.read_list(file)] == rows


def test_files_of_different_kinds_are_not_one_version(tmp_path: Path) -> None:
    files = {"train": CHAT, "heldout": PAIR}
    report = prepare(
        {name: io.BytesIO(json.dumps(row).encode()) for name, row in files.items()}, tmp_path
    ).report
    assert report["error_codes"] == {"kinds_differ": 1}
