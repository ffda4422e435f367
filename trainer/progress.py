"""What a run tells: lines of JSON, appended by the trainer and followed by anyone.

Every line is `{"kind", "at", "attempt", ...}`. By kind it also holds

    started     total_steps, train_examples, train_tokens, resumed_from_step, truncated_examples
    step        step, total_steps, epoch, loss, learning_rate, grad_norm, tokens_total,
                tokens_per_second, seconds_left, memory_bytes, peak_memory_bytes, patience_seconds,
                metrics
    eval        step, eval_loss, metrics, best_step, best_value
    early_stop  step, message, best_step
    checkpoint  step, path, bytes, kept (steps of all that are there now)
    alive       step, patience_seconds
    sample      step, samples: [{prompt, answer}]
    warning     reason, message, and by reason
                    out_of_memory   step, micro_batch_splits
                    batch_skipped   step, lines
                    disk_full       step
                    best_is_gone    step
    yielded     step
    finished    step, result_step, train_loss, eval_loss, tokens_total, seconds_total, output_path,
                best_step, best_value, stopped_early, peak_memory_bytes
    failed      reason, message, remedy

`metrics` holds what a method tells beside its loss, means since the last line or over the held-out
set (sft: token_accuracy; dpo: reward_chosen, reward_rejected, reward_margin, reward_accuracy; kto:
the first three of these and kl). `result_step` is the step whose weights the result has, and
`eval_loss` of a finished run belongs to those. Peak memory is that of the first process.
Tokens are those of the examples, without padding; `tokens_total` and `seconds_total` run on over
attempts and leave out what was lost to a kill. After a kill a later attempt repeats the steps
since its checkpoint, so a step may be told twice: the line of the later attempt counts.

Whoever follows may take a trainer for hung that has been silent for much longer than the last
`patience_seconds` that it told. A disk that is full takes no lines: they are kept, and written
once there is room.
"""

from __future__ import annotations

import errno
import json
import os
import time
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Self

# One read of a follower. A run's whole file is seldom a tenth of it.
READ_LIMIT_BYTES = 8 * 1024 * 1024
_MESSAGE_LIMIT = 2_000
_KEPT_BYTES = 4 * 1024 * 1024  # of lines that a full disk did not take; the oldest go first
_CLOSING_SECONDS = 10.0  # what a full disk gets to take the last of them


class Kind(StrEnum):
    STARTED = "started"
    STEP = "step"
    EVAL = "eval"
    EARLY_STOP = "early_stop"
    CHECKPOINT = "checkpoint"
    ALIVE = "alive"
    WARNING = "warning"
    SAMPLE = "sample"
    YIELDED = "yielded"
    FINISHED = "finished"
    FAILED = "failed"


ENDINGS = frozenset({Kind.YIELDED, Kind.FINISHED, Kind.FAILED})


class ProgressWriter:
    """Appends lines, each by one system call, so that a kill tears at most the last one.

    Lines that the disk has no room for are kept and written before the next one.
    """

    def __init__(self, path: Path, *, attempt: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._attempt = attempt
        self._unwritten = bytearray()
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        size = os.fstat(self._file).st_size
        if size and os.pread(self._file, 1, size - 1) != b"\n":
            self._append(b"\n")  # seal the line that an earlier attempt left torn

    def write(self, kind: Kind, **fields: Any) -> None:
        """Append one line; it survives the death of this process from here on, if there is room
        on the disk."""
        event = {
            "kind": kind.value,
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "attempt": self._attempt,
        } | {name: _bounded(value) for name, value in fields.items()}
        line = json.dumps(event, ensure_ascii=False, allow_nan=False) + "\n"
        self._append(line.encode())

    def close(self) -> None:
        """Waits a little for room if there are lines left to write."""
        deadline = time.monotonic() + _CLOSING_SECONDS
        while self._unwritten and time.monotonic() < deadline:
            time.sleep(0.2)
            self._append(b"")
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _append(self, line: bytes) -> None:
        self._unwritten += line
        try:
            while self._unwritten:
                written = os.write(self._file, self._unwritten)
                del self._unwritten[:written]
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        """Whole lines only, and never the first: a part of it may be on the disk."""
        while len(self._unwritten) > _KEPT_BYTES:
            first = self._unwritten.find(b"\n") + 1
            second = self._unwritten.find(b"\n", first) + 1
            if not first or not second:
                return
            del self._unwritten[first:second]


class FailureWriter(ProgressWriter):
    """Of a rank that is not the first, which tells of everything else."""

    def write(self, kind: Kind, **fields: Any) -> None:
        if kind is Kind.FAILED:
            super().write(kind, **fields)


def read_progress(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """The events from byte `offset` on, and the offset to go on from.

    A last line without its end is left for the next call; a line that is no JSON object (torn by
    a kill) is passed over; a file that is not there yet has no events. At most READ_LIMIT_BYTES
    are read, so a follower far behind calls again until the offset stays.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            chunk = file.read(READ_LIMIT_BYTES)
    except FileNotFoundError:
        return [], offset
    complete = chunk.rfind(b"\n") + 1
    if complete == 0 and len(chunk) == READ_LIMIT_BYTES:
        complete = len(chunk)  # no line of ours is that long: get past it rather than stall
    events = [
        event for line in chunk[:complete].splitlines() if (event := _parse(line)) is not None
    ]
    return events, offset + complete


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:  # covers undecodable bytes too
        return None
    return event if isinstance(event, dict) and "kind" in event else None


def _bounded(value: Any) -> Any:
    """Finite numbers and short texts only: JSON has no NaN, and a follower no use for a megabyte."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, str) and len(value) > _MESSAGE_LIMIT:
        return value[:_MESSAGE_LIMIT] + "..."
    return value
