from pathlib import Path

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
