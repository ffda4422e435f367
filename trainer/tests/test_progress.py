import errno
import os
from pathlib import Path

import pytest

from trainer import progress
from trainer.progress import Kind, ProgressWriter, read_progress


def test_a_reader_follows_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "run" / "progress.jsonl"
    assert read_progress(path) == ([], 0)
    with ProgressWriter(path, attempt=1) as writer:
        writer.write(Kind.STARTED, total_steps=3)
        events, offset = read_progress(path)
        assert [event["kind"] for event in events] == ["started"]
        writer.write(Kind.STEP, step=1, loss=2.5)
        events, offset = read_progress(path, offset)
    assert [(event["step"], event["loss"], event["attempt"]) for event in events] == [(1, 2.5, 1)]
    assert events[0]["at"].endswith("+00:00")
    assert read_progress(path, offset) == ([], offset)


def test_a_torn_last_line_waits_until_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    path.write_bytes(b'{"kind": "step", "step": 1}\n{"kind": "st')
    events, offset = read_progress(path)
    assert [event["step"] for event in events] == [1]
    with path.open("ab") as file:
        file.write(b'ep", "step": 2}\n')
    events, _ = read_progress(path, offset)
    assert [event["step"] for event in events] == [2]


def test_a_line_torn_by_a_kill_is_sealed_and_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    path.write_bytes(b'{"kind": "step", "step": 1}\n{"kind": "st\xe2')
    with ProgressWriter(path, attempt=2) as writer:
        writer.write(Kind.STEP, step=2)
    events, offset = read_progress(path)
    assert [event["step"] for event in events] == [1, 2]
    assert offset == path.stat().st_size


def test_numbers_json_cannot_say_become_null(tmp_path: Path) -> None:
    path = tmp_path / "progress.jsonl"
    with ProgressWriter(path, attempt=1) as writer:
        writer.write(Kind.STEP, step=1, loss=float("nan"), grad_norm=float("inf"))
        writer.write(Kind.FAILED, message="x" * 5_000)
    (step, failed), _ = read_progress(path)
    assert step["loss"] is None
    assert step["grad_norm"] is None
    assert len(failed["message"]) < 2_100


def test_a_full_disk_loses_no_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, honest = tmp_path / "progress.jsonl", os.write
    room = [30]  # bytes left on the disk

    def write(file: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        count = honest(file, bytes(data[: room[0]]))
        room[0] -= count
        return count

    monkeypatch.setattr("trainer.progress.os.write", write)
    with ProgressWriter(path, attempt=1) as writer:
        for step in range(3):
            writer.write(Kind.STEP, step=step)
        assert read_progress(path) == ([], 0)  # the first was torn
        room[0] = 10_000
        writer.write(Kind.STEP, step=3)
        assert [event["step"] for event in read_progress(path)[0]] == [0, 1, 2, 3]


def test_of_too_many_unwritten_lines_the_oldest_whole_ones_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "progress.jsonl"
    monkeypatch.setattr(progress, "_KEPT_BYTES", 300)
    with ProgressWriter(path, attempt=1) as writer:
        with monkeypatch.context() as full:
            full.setattr("trainer.progress.os.write", no_room)
            for step in range(20):
                writer.write(Kind.STEP, step=step)
        writer.write(Kind.STEP, step=20)
        found = [event["step"] for event in read_progress(path)[0]]
        assert found[0] == 0  # part of it might have been written
        assert found[1:] == list(range(found[1], 21))
        assert 2 < len(found) < 6


def no_room(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")
