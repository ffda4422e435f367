"""Jobs as training's values, and runs in OpenAI's words."""

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from openai_api import names
from openai_api.choices import Method
from openai_api.models import FineTuningJob
from trainer.spec import Hyperparameters
from training import recipes
from training.choices import DatasetKind, Tuning
from training.models import DatasetVersion, TrainingMetric, TrainingRun

METHODS = {Method.SUPERVISED: "sft", Method.DPO: "dpo"}
KINDS = {Method.SUPERVISED: DatasetKind.CHAT, Method.DPO: DatasetKind.PREFERENCE}
TRAIN, VALIDATION = "train", "validation"  # names of the splits that the files become
MEASURED_TIMES = 100  # steps that are told of, of short runs every one
VALIDATED_TIMES = 5  # measurements on the validation file, the last one included
SNAPSHOTS_KEPT = 3  # of the ends of the last epochs, as OpenAI keeps them
ROWS_A_CHUNK = 500
COLUMNS = {  # of the result file, and where each comes from
    "step": "step",
    "train_loss": "loss",
    "valid_loss": "eval_loss",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "tokens_per_second": "tokens_per_second",
    "train_mean_token_accuracy": "details__token_accuracy",
    "valid_mean_token_accuracy": "eval_details__token_accuracy",
}


def dataset_name(job: FineTuningJob) -> str:
    """The same for all jobs on one training file, so that they share its versions."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", job.training_file.filename.rpartition(".")[0])
    return f"{stem.strip('-._')[:60] or 'file'}-{job.training_file.pk.hex[-12:]}"


def run_values(job: FineTuningJob, version: DatasetVersion) -> dict[str, Any]:
    """What the job asks of training, as the arguments of its service. Raises nothing: what cannot
    be is training's to refuse."""
    platform = job.platform
    tuning = str(platform.get("tuning") or Tuning.LORA)
    values = _hyperparameters(job, version, tuning)
    return {
        "name": names.public_id(names.JOB, job.pk),
        "base_revision_id": job.base_revision.pk,
        "init_revision_id": job.init_revision.pk if job.init_revision else None,
        "dataset_version_id": version.pk,
        "train_split": TRAIN,
        "eval_split": VALIDATION if job.validation_file else "",
        "output_name": names.registry_name(job.fine_tuned_model),
        "method": METHODS[Method(job.method)],
        "tuning": tuning,
        "hyperparameters": values,
        "accelerators": platform.get("accelerators") or 1,
        "pool_name": platform.get("pool_name") or "",
        "metadata": job.metadata or {},
        "suffix": names.tidy(job.suffix),
    }


def _hyperparameters(job: FineTuningJob, version: DatasetVersion, tuning: str) -> dict[str, Any]:
    given, values = job.hyperparameters, dict[str, Any]()
    if "n_epochs" in given:
        values["epochs"] = float(given["n_epochs"])
    if "batch_size" in given:
        values["batch_size"] = given["batch_size"]
    if "learning_rate_multiplier" in given:
        method, base = METHODS[Method(job.method)], job.base_revision
        rate = recipes.usual_rate(method=method, tuning=tuning, base=base)
        values["learning_rate"] = rate * given["learning_rate_multiplier"]
    if "beta" in given:
        values["beta"] = given["beta"]
    values["seed"] = job.seed
    values |= dict(job.platform.get("hyperparameters") or {})
    if "batch_size" in values:  # the recipe's accumulation goes with the recipe's own
        values.setdefault("gradient_accumulation", 1)
    steps = _steps(version, _usual(job, tuning) | values)
    values.setdefault("log_every_steps", max(1, steps // MEASURED_TIMES))
    if job.validation_file is not None:
        values.setdefault("eval_every_steps", max(1, steps // VALIDATED_TIMES))
    if tuning != Tuning.FULL:
        values.setdefault("snapshots_kept", SNAPSHOTS_KEPT)
    return values


def _usual(job: FineTuningJob, tuning: str) -> dict[str, Any]:
    """What the run has where nothing is asked for: its recipe's values, or else the trainer's own."""
    base = job.base_revision
    recipe = recipes.default_for(
        method=METHODS[Method(job.method)],
        tuning=tuning,
        model_type=base.model_type,
        parameters=base.parameter_count,
    )
    found = recipe.values_for(parameters=base.parameter_count) if recipe is not None else {}
    return Hyperparameters().to_json() | found


def _steps(version: DatasetVersion, values: Mapping[str, Any]) -> int:
    """About how many steps the run will have; values of the wrong kind are refused later."""
    numbers = [values[name] for name in STEP_FACTORS]
    if not all(isinstance(each, int | float) and each > 0 for each in numbers):
        return 1
    epochs, batch, accumulated = numbers
    examples = sum(split.examples for split in version.splits.all() if split.name == TRAIN)
    steps: int = round(math.ceil(examples / (batch * accumulated)) * epochs)
    return max(1, steps)


STEP_FACTORS = ("epochs", "batch_size", "gradient_accumulation")


def shown_hyperparameters(job: FineTuningJob) -> dict[str, Any]:
    """OpenAI's, as they are in force once there is a run, until then as they were asked for."""
    known = ["n_epochs", "batch_size", "learning_rate_multiplier"]
    if job.method == Method.DPO:
        known.append("beta")
    if job.run is None:
        return {name: job.hyperparameters.get(name, "auto") for name in known}
    run, values = job.run, job.run.hyperparameters
    rate = recipes.usual_rate(
        method=run.method, tuning=run.tuning, base=run.base_revision, key=run.recipe
    )
    found = {
        "n_epochs": math.ceil(values["epochs"]),
        "batch_size": values["batch_size"] * values["gradient_accumulation"],
        "learning_rate_multiplier": float(f"{values['learning_rate'] / rate:.6g}"),
        "beta": values.get("beta"),
    }
    return {name: found[name] for name in known}


def result_csv(run: TrainingRun) -> Iterator[bytes]:
    """What was measured, a line a step, in chunks. A cell is empty where nothing was."""
    yield _lines([tuple(COLUMNS)])
    rows = TrainingMetric.objects.filter(run=run).order_by("step")
    chunk: list[tuple[Any, ...]] = []
    for row in rows.values_list(*COLUMNS.values()).iterator(chunk_size=ROWS_A_CHUNK):
        chunk.append(row)
        if len(chunk) == ROWS_A_CHUNK:
            yield _lines(chunk)
            chunk.clear()
    yield _lines(chunk)


def _lines(rows: list[tuple[Any, ...]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
