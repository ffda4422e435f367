"""`python -m trainer spec.json`: one run in one process.

Exit status: 0 finished or yielded, 1 failed (the last line of progress says why), 2 called
wrongly, 3 another process is at work on the same run.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import RankLost, SpecError, TrainingFailure, explain
from trainer.launch import own_part, own_rank
from trainer.progress import FailureWriter, Kind, ProgressWriter, read_progress
from trainer.spec import TrainSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger("trainer")

RANK_PATIENCE_SECONDS = 2.0


def main(arguments: list[str]) -> int:
    started = time.monotonic()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    if len(arguments) != 1:
        logger.error("usage: python -m trainer spec.json")
        return 2
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return attempt(Path(arguments[0]), stop=stop, started=started)


def attempt(path: Path, *, stop: threading.Event, started: float) -> int:
    """Run the spec at `path` until it ends or `stop` is set; returns the exit status."""
    try:
        spec = TrainSpec.load(path)
    except SpecError as refusal:
        _tell_refusal(path, refusal)
        return 1
    if spec.ranks > 1 and own_rank() > 0:  # the first holds the lock, and tells
        with FailureWriter(Path(spec.progress_path), attempt=spec.attempt) as progress:
            return _train(spec, progress=progress, stop=stop, started=started)
    with _alone(Path(spec.checkpoint_path)) as alone:
        if not alone:
            logger.error("another process is at work on run %s", spec.run_id)
            return 3
        with ProgressWriter(Path(spec.progress_path), attempt=spec.attempt) as progress:
            return _train(spec, progress=progress, stop=stop, started=started)


def _train(
    spec: TrainSpec, *, progress: ProgressWriter, stop: threading.Event, started: float
) -> int:
    try:
        spec = own_part(spec)
        _settle_on_cores(spec)
        # Only now: torch and OpenMP size their pools by what they find when they load.
        import torch

        from trainer import loop

        torch.set_num_threads(spec.threads)
        loop.run(spec, progress=progress, stopping=stop.is_set, started=started)
    except Exception as error:
        logger.exception("run %s failed", spec.run_id)
        if spec.ranks == 1 or not _told_by_another(spec, error):
            _tell(progress, explain(error))
        return 1
    return 0


def _told_by_another(spec: TrainSpec, error: Exception) -> bool:
    """Whether a rank has said why this attempt fails. The one that failed first says so at once;
    those whom that leaves alone wait for its word, and what all find wrong the first one tells."""
    time.sleep(RANK_PATIENCE_SECONDS if isinstance(error, RankLost) else 0.3 * own_rank())
    path, offset = Path(spec.progress_path), 0
    while True:
        lines, after = read_progress(path, offset)
        if any(
            line["kind"] == Kind.FAILED and line.get("attempt") == spec.attempt for line in lines
        ):
            return True
        if after == offset:
            return False
        offset = after


def _settle_on_cores(spec: TrainSpec) -> None:
    if spec.cores:
        try:
            os.sched_setaffinity(0, spec.cores)
        except OSError as error:
            raise SpecError(
                "cores",
                f"cannot run on {list(spec.cores)}: {error}",
                remedy="name cores of this host",
            ) from error
    os.environ["OMP_NUM_THREADS"] = str(spec.threads)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is in base_path; ask nobody


@contextmanager
def _alone(checkpoints: Path) -> Iterator[bool]:
    """Hold the run's lock; the kernel gives it back however this process ends."""
    checkpoints.mkdir(parents=True, exist_ok=True)
    with (checkpoints / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _tell_refusal(path: Path, refusal: SpecError) -> None:
    """A refused spec is told where the spec wanted it told, if that much can be made out."""
    logger.error("%s (%s)", refusal, refusal.remedy)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        told_at, attempt = Path(raw["progress_path"]), int(raw.get("attempt", 1))
    except (OSError, ValueError, TypeError, KeyError):
        return
    if told_at.is_absolute():
        with ProgressWriter(told_at, attempt=attempt) as progress:
            _tell(progress, refusal)


def _tell(progress: ProgressWriter, failure: TrainingFailure) -> None:
    try:
        progress.write(
            Kind.FAILED,
            reason=failure.reason.value,
            message=failure.message,
            remedy=failure.remedy,
        )
    except OSError:  # a full disk takes not even this; the log has it
        logger.exception("the failure could not be written")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
