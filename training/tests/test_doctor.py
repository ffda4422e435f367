import json
import random
from pathlib import Path
from typing import Any

import pytest

from training import doctor
from training.doctor import Diagnosis, chunks, privacy

WORDS = [f"word{number}" for number in range(400)]


def write(path: Path, rows: list[tuple[str, str]]) -> Path:
    lines = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
        for asked, said in rows
    ]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return path


def examine(folder: Path, rows: list[tuple[str, str]], **more: Any) -> Diagnosis:
    return doctor.examine({"train": write(folder / "train.jsonl", rows)}, kind="chat", **more)


def test_likeness_is_what_a_brute_comparison_says(tmp_path: Path) -> None:
    """Pairs of lines that share a known part of their words: those far above 0.8 are found, those
    far below are not, and the places are right."""
    draw = random.Random(5)
    rows, changed = [], {}
    for number in range(300):
        words = draw.choices(WORDS, k=60)
        rows.append((" ".join(words), "fine"))
        if number % 3 == 0:
            swaps = draw.choice([1, 12])  # of 60: about 0.9, and about 0.3 in common
            other = list(words)
            for place in draw.sample(range(60), swaps):
                other[place] = f"new{number}x{place}"
            rows.append((" ".join(other), "fine"))
            changed[len(rows)] = (len(rows) - 1, swaps)
    found = {f.line: f for f in examine(tmp_path, rows).findings() if f.kind == "near_duplicate"}
    close = {line for line, (_first, swaps) in changed.items() if swaps == 1}
    assert set(found) <= set(changed)
    assert len(close & set(found)) >= 0.9 * len(close)
    assert not {line for line, (_first, swaps) in changed.items() if swaps == 12} & set(found)
    assert all(found[line].other_line == changed[line][0] for line in found)
    assert all((found[line].score or 0) >= 0.8 for line in found)


def test_pieces_and_processes_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(f"{WORDS[n % 90]} asks about {n % 70} and a@b{n}.org", "ok") for n in range(400)]
    whole = examine(tmp_path, rows)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 900)
    pieces = examine(tmp_path, rows, workers=2)
    assert pieces.as_json() == whole.as_json()
    assert pieces.findings() == whole.findings()
    index = pieces.splits["train"].index
    lines = (tmp_path / "train.jsonl").read_bytes()
    assert len(index) > 20
    for line, offset in index:
        assert lines[:offset].count(b"\n") == line - 1


def test_lines_of_evaluation_sets_are_found_in_what_is_learnt_only(tmp_path: Path) -> None:
    long = " ".join(WORDS[:40])
    asked = write(tmp_path / "asked.jsonl", [("Where is 1?", "here"), (long, "yes")])
    files = {
        "heldout": write(tmp_path / "heldout.jsonl", [("Where is 1?", "here")]),
        "train": write(tmp_path / "train.jsonl", [("x", "y"), (f"so {long}", "yes")]),
    }
    found = doctor.examine(files, kind="chat", references={"id-of-it": asked}).findings()
    assert [(f.kind, f.split, f.line, f.other_split, f.other_line) for f in found] == [
        ("evaluation_leak_near", "train", 2, "id-of-it", 2)
    ]


def test_the_same_question_with_another_answer_is_a_contradiction(tmp_path: Path) -> None:
    found = examine(tmp_path, [("Open?", "yes"), ("Closed?", "no"), ("Open?", "no")]).findings()
    assert [(f.kind, f.line, f.other_line) for f in found] == [("contradiction", 3, 1)]


def test_odd_texts_are_told_by_message(tmp_path: Path) -> None:
    rows = [("x" * 40_000, "ok"), ("schÃ¶n", "ok"), ("a\x1bb", "ok"), ("schön 你好 é", "naïve")]
    found = examine(tmp_path, rows).findings()
    assert [(f.kind, f.line, f.field) for f in found] == [
        ("encoding", 2, "messages.0"),
        ("control_characters", 3, "messages.0"),
        ("huge_turn", 1, "messages.0"),
    ]


def test_labels_are_counted_and_the_lopsided_told(tmp_path: Path) -> None:
    rows = [
        (f"q {n}", json.dumps({"intent": "b" if n < 3 else "a", "id": f"{n}" * 70, "ok": True}))
        for n in range(100)
    ]
    diagnosis = examine(tmp_path, rows)
    labels = diagnosis.as_json()["labels"]["train"]
    assert labels["answers"] == 100
    assert labels["fields"]["intent"]["values"] == [["a", 97], ["b", 3]]
    assert labels["fields"]["id"]["distinct"] is None
    told = [(f.kind, f.line, f.excerpt) for f in diagnosis.findings()]
    assert ("unbalanced", 4, "intent = a") in told
    assert ("rare_value", 1, "intent = b") in told
    assert not [one for one in told if "ok" in one[2]]


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("write to ada.l+x@mail.example.org, please", ["email"]),
        ("card 4111 1111 1111 1111 and 4111111111111112", ["card"]),
        ("id 11010519491231002X", ["national_id"]),
        ("id 110105194912310021", []),
        ("call 13812345678 or +44 20 7946 0958 or (212) 555-0187", ["phone"] * 3),
        ("order 20251231 of 1234567890, 2026-11-23 10:15:00, 3.14159265358", []),
        ("IBAN DE89 3704 0044 0532 0130 00", ["iban"]),
        ("IBAN DE89 3704 0044 0532 0130 02", []),
        ("from 8.8.4.4 not 10.0.0.1 nor 300.1.1.1 nor 1.2.3.4.5", ["ip"]),
        ("token ghp_" + "a1B2" * 9, ["secret"]),
        ("AKIAABCDEFGHIJKLMNOP", ["secret"]),
        ("-----BEGIN RSA PRIVATE KEY-----", ["secret"]),
        ("skates, ghosts and hf_ things", []),
    ],
)
def test_personal_data_is_hinted_at(text: str, kinds: list[str]) -> None:
    assert [kind for kind, _value in privacy.find(text)] == kinds


def test_values_are_masked(tmp_path: Path) -> None:
    found = examine(tmp_path, [("I am ada@example.org", "Good")]).findings()
    assert [(f.kind, f.excerpt) for f in found] == [("email", "ad•••••••••••rg")]
