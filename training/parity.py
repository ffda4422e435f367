"""Whether what is served of a run's result is what was trained: asked of the node before the result
is published, and kept with the revision."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from chips.selectors import Device
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
    """What is kept with the revision: `passed` is null for one that could not be checked, and
    `reason` says why it did not pass."""
    kept: dict[str, Any] = {
        "passed": None,
        "reason": "",
        "checked_at": now.isoformat(),
        "base_commit": run.base_revision.commit,
    }
    if report is None:
        return kept | {"reason": "the comparison ended without a report"}
    checks = list(report["checks"])
    verdicts = [check["passed"] for check in checks]
    passed = False if False in verdicts else True if True in verdicts else None
    blamed = [check for check in checks if check["passed"] is passed and check.get("reason")]
    reasons = [f"as {check['way']}: {check['reason']}" for check in blamed]
    return (
        kept
        | {key: value for key, value in report.items() if key != "checks"}
        | {
            "passed": passed,
            "reason": "; ".join(reasons) if passed is not True else "",
            "checks": checks,
            "max_abs_logprob_diff": max(
                (
                    check["max_abs_logprob_diff"]
                    for check in checks
                    if "max_abs_logprob_diff" in check
                ),
                default=None,
            ),
        }
    )
