"""How the processes of a run are started and what each takes of its devices; loads no torch.

A run on several accelerators is one process a rank, started by `torchrun`; a run on cores is one
process with a thread a core, which is quicker than ranks that would add up gradients.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

from trainer.errors import SpecError
from trainer.spec import TrainSpec


def command(spec: TrainSpec, path: Path) -> list[str]:
    """The command line of a run whose spec lies at `path`."""
    if spec.ranks == 1:
        return [sys.executable, "-m", "trainer", str(path)]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*torchrun, f"--nproc-per-node={spec.ranks}", "--module", "trainer", str(path)]


def own_rank() -> int:
    """This process's place among the run's, as torchrun tells it; 0 for a process alone."""
    return int(os.environ.get("RANK", "0"))


def own_part(spec: TrainSpec) -> TrainSpec:
    """The spec with this rank's device, cores and threads. Raises SpecError without torchrun."""
    if spec.ranks == 1:
        return spec
    if os.environ.get("WORLD_SIZE") != str(spec.ranks):
        raise SpecError(
            "ranks",
            f"{spec.ranks} are wanted, {os.environ.get('WORLD_SIZE', '1')} were started",
            remedy=f"start with torchrun --nproc-per-node={spec.ranks} --module trainer",
        )
    rank, kind = own_rank(), spec.device.partition(":")[0]
    if kind != "cpu":
        return dataclasses.replace(spec, device=f"{kind}:{rank}")
    return dataclasses.replace(
        spec,
        threads=max(1, spec.threads // spec.ranks),
        cores=spec.cores[rank :: spec.ranks] if len(spec.cores) >= spec.ranks else spec.cores,
    )
