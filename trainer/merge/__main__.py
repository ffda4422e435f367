"""`python -m trainer.merge SPEC`: one step of a merge, in a process of its own.

SPEC is JSON: step ("weights", or "reference" for what the result is compared with), base, adapter,
into (folders), card (the text of README.md), sha256 (of each file, by "base/..." and "adapter/..."),
threads. Lines of JSON on standard output tell how far it is:

    progress  done_bytes, total_bytes
    refused   message, remedy: the same again would end the same way
    done      changed (tensors), peak_bytes (of memory), seconds

A step that was cut short is done by calling it again: files that are whole are left as they are.

Exit status: 0 done, 1 refused or failed, 2 called wrongly, 3 another process is at work in `into`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

logger = logging.getLogger("trainer.merge")

TELL_SECONDS = 0.5
NICENESS = 10  # whoever serves on this machine goes first


def main(arguments: list[str]) -> int:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level="INFO")
    if len(arguments) != 1:
        logger.error("usage: python -m trainer.merge SPEC_FILE")
        return 2
    spec = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    into = Path(spec["into"])
    into.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.nice(NICENESS)
    with into.with_name(into.name + ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.error("another process is at work in %s", into)
            return 3
        return _step(spec, into)


def _step(spec: dict[str, Any], into: Path) -> int:
    import torch  # only here: its pools are sized by the environment

    from trainer.errors import FailureReason, explain
    from trainer.merge.refusals import NotMergeable

    torch.set_num_threads(spec.get("threads", 1))
    began_at = time.monotonic()
    steps: dict[str, Callable[[dict[str, Any], Path], int]] = {
        "weights": _weights,
        "reference": _reference,
    }
    try:
        changed = steps[spec["step"]](spec, into)
    except NotMergeable as refusal:
        _tell(kind="refused", message=refusal.message, remedy=refusal.remedy)
        return 1
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        logger.exception("the step %s failed", spec["step"])
        failure = explain(error)
        if failure.reason == FailureReason.DISK_FULL:
            remedy = "Free space on the platform's disk, then merge it again."
            _tell(kind="refused", message="There is no room for the merged weights.", remedy=remedy)
        return 1
    seconds = round(time.monotonic() - began_at, 2)
    _tell(kind="done", changed=changed, peak_bytes=_peak_bytes(), seconds=seconds)
    return 0


def _weights(spec: dict[str, Any], into: Path) -> int:
    from trainer.merge.adapter import WEIGHTS, read_adapter
    from trainer.merge.texts import read_config, write_texts
    from trainer.merge.weights import merge_weights

    base, folder = Path(spec["base"]), Path(spec["adapter"])
    check = _Checking(spec["sha256"])
    check(folder / WEIGHTS, "adapter")
    done = merge_weights(
        base,
        read_adapter(folder),
        into,
        config=read_config(base, folder),
        check=lambda path: check(path, "base"),
        tell=_teller(),
    )
    write_texts(base, folder, into, config=done.config, card=spec["card"])
    return done.changed


def _reference(spec: dict[str, Any], into: Path) -> int:
    from trainer.merge.reference import write_reference

    write_reference(Path(spec["base"]), Path(spec["adapter"]), into)
    return 0


class _Checking:
    """Files are read only if they still have the hash they are known by."""

    def __init__(self, known: dict[str, str]) -> None:
        self._known = known

    def __call__(self, path: Path, of: str) -> None:
        from trainer.merge.refusals import NotMergeable

        if not path.is_file():
            return  # whoever reads it says so
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != self._known.get(f"{of}/{path.name}"):
            raise NotMergeable(
                f"{path.name} of the {of} does not have its hash any more.",
                remedy="Restore it from a backup, or import the model again.",
            )


def _teller() -> Callable[[int, int], None]:
    told_at = 0.0

    def tell(done: int, total: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= TELL_SECONDS or done == total:
            told_at = time.monotonic()
            _tell(kind="progress", done_bytes=done, total_bytes=total)

    return tell


def _tell(**line: object) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()  # nobody reads any more: this ends the process


def _peak_bytes() -> int | None:
    """The most memory that this process has held, as the kernel counts; None where it does not."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    found = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(found[0]) * 1024 if found else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
