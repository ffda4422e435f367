"""A run that goes on from a checkpoint needs no more memory than one that was never interrupted: what
is read replaces what is there, tensor by tensor."""

import dataclasses
import os
import signal
import subprocess
from pathlib import Path

import pytest

from trainer.spec import TrainSpec
from trainer.tests.make import events, losses, make_base, make_spec, signal_when, start

pytestmark = pytest.mark.processes

ROOM = 0.25  # of a checkpoint's size, for what the allocator and the interpreter do otherwise


def test_resuming_takes_no_more_memory_than_training(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", hidden_size=1024)
    whole, broken = (
        make_spec(tmp_path / name, base=base, rows=16, max_steps=4, checkpoint_every_seconds=1e-3)
        for name in ("whole", "broken")
    )
    undisturbed = peak_bytes(start(whole))
    process = start(broken)
    assert signal_when(process, signal.SIGTERM, lambda: len(events(broken, "step")) >= 2) == 0
    assert events(broken)[-1]["kind"] == "yielded"
    resumed = peak_bytes(start(dataclasses.replace(broken, attempt=2)))

    assert events(broken, "started")[-1]["resumed_from_step"] >= 2
    assert losses(broken) == pytest.approx(losses(whole), abs=1e-6)
    assert resumed < undisturbed + ROOM * checkpoint_bytes(whole)


def checkpoint_bytes(spec: TrainSpec) -> int:
    newest = max(Path(spec.checkpoint_path).glob("step-*"))
    size = (newest / "tensors.safetensors").stat().st_size
    assert size > 100 * 2**20, "too small to be seen beside torch itself"
    return size


def peak_bytes(process: subprocess.Popen[bytes]) -> int:
    """The most that the process held at once, once it has ended well."""
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return used.ru_maxrss * 1024
