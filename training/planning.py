"""Rows of training as the planner's, the trainer's and the registry's values."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chips.selectors import Device
from common.errors import DomainError
from planner.placement import AcceleratorRequest
from trainer.spec import Hyperparameters, TrainSpec
from training.choices import Tuning
from training.models import TrainingRun

CPU = "cpu"
# What torch must call an accelerator for a way of tuning; any will do for the others.
DEVICES_OF_TUNING: dict[str, frozenset[str]] = {Tuning.QLORA: frozenset({"cuda"})}
RANKED = frozenset({"cuda", "npu"})  # devices that trainers know how to exchange gradients between


class CannotTrainThere(DomainError):
    """The trainer cannot use the devices that the run holds."""

    code = "devices_unsupported"


@dataclass(frozen=True)
class RunFolders:
    """Where a run's things lie inside its folder on the node."""

    root: Path

    @property
    def train(self) -> Path:
        return self.root / "data" / "train.jsonl"

    @property
    def eval(self) -> Path:
        return self.root / "data" / "eval.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def output(self) -> Path:
        return self.root / "output"

    @property
    def progress(self) -> Path:
        return self.root / "progress.jsonl"


def accelerator_request(run: TrainingRun) -> AcceleratorRequest:
    """Whole accelerators on one node: groups of cores make one process, others a rank each."""
    return AcceleratorRequest(
        accelerators=run.accelerators_wanted,
        pool_name=run.pool_name or None,
        torch_devices=DEVICES_OF_TUNING.get(run.tuning),
    )


def train_spec(
    run: TrainingRun,
    *,
    base: Path,
    folders: RunFolders,
    devices: Sequence[Device],
    start: Path | None = None,
) -> TrainSpec:
    """What the trainer is told; `start` is the folder of the adapter that it continues from.

    Raises CannotTrainThere, trainer.errors.SpecError.
    """
    kinds = {device.torch_device.partition(":")[0] for device in devices}
    if len(kinds) != 1 or (len(devices) > 1 and not kinds <= {CPU, *RANKED}):
        raise CannotTrainThere(
            f"A trainer runs on accelerators of one kind, and on several of "
            f"{', '.join(sorted({CPU, *RANKED}))}; not on {len(devices)} of "
            f"{', '.join(sorted(kinds)) or 'no known kind'}.",
            remedy="Ask for one accelerator.",
        )
    kind = kinds.pop()
    cores = tuple(sorted({core for device in devices for core in device.cores}))
    return TrainSpec(
        run_id=str(run.pk),
        attempt=run.attempt,
        base_path=str(base),
        train_path=str(folders.train),
        eval_path=str(folders.eval) if run.eval_split else None,
        init_path=str(start) if start is not None else None,
        output_path=str(folders.output),
        checkpoint_path=str(folders.checkpoints),
        progress_path=str(folders.progress),
        method=run.method,
        tuning=run.tuning,
        device=CPU if kind == CPU else f"{kind}:0",  # of those that it can see, which are its own
        ranks=1 if kind == CPU else len(devices),
        threads=max(1, len(cores)),
        cores=cores,
        micro_batch_splits=run.micro_batch_splits,
        hyperparameters=Hyperparameters.from_json(run.hyperparameters),
    )


def environment(devices: Sequence[Device]) -> dict[str, str]:
    """The variables that let a process see the devices it holds, and no others."""
    visible: dict[str, list[str]] = {}
    for device in devices:
        if device.visible_devices_variable:
            visible.setdefault(device.visible_devices_variable, []).append(str(device.index))
    return {variable: ",".join(indices) for variable, indices in visible.items()}


def lineage(run: TrainingRun) -> dict[str, Any]:
    """Where the result of a run comes from, ids and names."""
    version, base = run.dataset_version, run.base_revision
    return {
        "training_run": {"id": str(run.pk), "name": run.name},
        "base_revision": {"id": str(base.pk), "name": str(base), "commit": base.commit},
        "dataset": {"id": str(version.dataset_id), "name": version.dataset.name},
        "dataset_version": {
            "id": str(version.pk),
            "name": str(version),
            "number": version.number,
            "splits": {split.name: split.blob_id for split in version.splits.all()},
        },
        "train_split": run.train_split,
        "method": run.method,
        "tuning": run.tuning,
        "hyperparameters": run.hyperparameters,
        "steps": run.step,
        "train_loss": run.train_loss,
        "eval_loss": run.eval_loss,
        "tokens_total": run.tokens_total,
    }


def result_is(run: TrainingRun) -> str:
    """Which step's model the result is, and why that one."""
    step = run.step if run.result_step is None else run.result_step
    last = "where the run stopped early" if run.stopped_early else "the last one"
    if step == run.step:
        return f"Step {step}, {last}."
    metric = run.hyperparameters.get("best_metric", "eval_loss")
    value = "" if run.best_value is None else f" ({run.best_value:.4g})"
    return f"Step {step}, the best by {metric}{value}; step {run.step} was {last}."
