"""Whether what is served of a run's result is what was trained: asked of the node before the result
is published, and kept with the revision."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from chips.selectors import Device
from models_registry import parity
from trainer import parity_file
from training.models import TrainingRun
from training.planning import CPU, RunFolders

# A check reads 32 short prompts; what takes time is loading the weights, once for each way.
CHECK_SECONDS = 1800.0


def is_recorded(folders: RunFolders) -> bool:
    """Whether the trainer left something to compare with."""
    return (folders.output / parity_file.FILE).is_file()


def spec(
    run: TrainingRun, *, base: Path, folders: RunFolders, devices: Sequence[Device]
) -> dict[str, Any]:
    """What `engines.parity` is told, on the devices that trained."""
    kind = devices[0].torch_device.partition(":")[0] if devices else CPU
    cores = sorted({core for device in devices for core in device.cores})
    record = json.loads((folders.output / parity_file.FILE).read_text(encoding="utf-8"))
    return {
        "result": str(folders.output),
        "base": str(base),
        "is_adapter": run.tuning != "full",
        "device": CPU if kind == CPU else f"{kind}:0",
        "dtype": record["dtype"],
        "threads": max(1, len(cores)),
        "cores": cores,
    }


def record(run: TrainingRun, report: Mapping[str, Any] | None, *, now: datetime) -> dict[str, Any]:
    """What is kept with the revision of the run's result."""
    return parity.record(run.base_revision, report, now=now)
