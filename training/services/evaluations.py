"""Evaluations: which served models, on which split; the answers follow by themselves."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction

from accounts import audit
from accounts.models import Organization
from common import jobs
from common.errors import DomainError, InvalidInput, NotFound
from training import served
from training.choices import EVALUATION_OVER
from training.metrics import reading
from training.metrics.judge import Judge
from training.models import DatasetSplit, Evaluation
from training.services.datasets import check_name

MAX_MODELS = 8
MAX_TOKENS = 32_768
NAME_CHARACTERS = 200
MAX_FEWSHOT = 100


class EvaluationIsOver(DomainError):
    code = "evaluation_is_over"


def create_evaluation(
    *,
    organization: Organization,
    name: str,
    dataset_version_id: UUID,
    split: str,
    model_names: Sequence[str],
    limit: int | None = None,
    max_tokens: int = 128,
    metrics: Sequence[Mapping[str, Any]] = (),
    num_fewshot: int | None = None,
    as_chat: bool = False,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> Evaluation:
    """Want models compared, the baseline first, by the names that clients call them by.

    `model@alias` stands for the name under which the revision of that alias is served. `metrics`
    are measured beside exact match and fields (training/metrics/reading.py). Of a benchmark task
    lm-eval measures what the task says, with `num_fewshot` examples before each question (None: as
    the task has it), as chats where `as_chat`. A model that is not ready yet is waited for. Raises InvalidInput with the field at fault, NotFound for a dataset
    that the organization may not see.
    """
    model_names = [served.resolve(organization, model_name) for model_name in model_names]
    check_name(name)
    row = find_split(organization, dataset_version_id, split)
    _check_models(model_names)
    measured = reading.read(metrics)
    _check_pairs(measured, model_names)
    options = _benchmark_options(row, measured, num_fewshot=num_fewshot, as_chat=as_chat)
    if limit is not None and limit < 1:
        raise InvalidInput("No examples at all.", field="limit", remedy="Give 1 or more.")
    if not 1 <= max_tokens <= MAX_TOKENS:
        raise InvalidInput(
            f"{max_tokens} tokens cannot be asked for.",
            field="max_tokens",
            remedy=f"Give 1 to {MAX_TOKENS}.",
        )
    with transaction.atomic():
        evaluation = Evaluation.objects.create(
            organization=organization,
            name=name,
            split=row,
            model_names=list(model_names),
            metrics=reading.write(measured),
            settings=options,
            limit=limit,
            max_tokens=max_tokens,
            examples_total=min(row.examples, limit or row.examples),
            status_changed_at=now,
            created_at=now,
        )
        audit.record(
            organization=organization,
            actor=actor,
            action="evaluation.create",
            object_id=evaluation.pk,
            object_name=name,
            after={
                "split": str(row),
                "model_names": list(model_names),
                "metrics": reading.write(measured),
            },
            now=now,
        )
        jobs.enqueue("training.evaluate_step", evaluation_id=str(evaluation.pk))
    return evaluation


@transaction.atomic
def cancel_evaluation(
    *,
    organization: Organization,
    evaluation_id: UUID,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> Evaluation:
    """Ask no more; what was answered stays. Raises NotFound, EvaluationIsOver."""
    rows = Evaluation.objects.of(organization).select_for_update(no_key=True)
    evaluation = rows.filter(pk=evaluation_id).first()
    if evaluation is None:
        raise NotFound("No such evaluation.")
    if evaluation.cancel_requested_at is not None:
        return evaluation
    if evaluation.status in EVALUATION_OVER:
        raise EvaluationIsOver(
            f"{evaluation} is over: its status is {evaluation.get_status_display().lower()}."
        )
    evaluation.cancel_requested_at = now
    evaluation.save(update_fields=["cancel_requested_at"])
    audit.record(
        organization=organization,
        actor=actor,
        action="evaluation.cancel",
        object_id=evaluation.pk,
        object_name=evaluation.name,
        now=now,
    )
    jobs.enqueue("training.evaluate_step", evaluation_id=str(evaluation.pk))
    return evaluation


def find_split(organization: Organization, version_id: UUID, name: str) -> DatasetSplit:
    """Raises NotFound, InvalidInput (split)."""
    rows = DatasetSplit.objects.filter(
        version=version_id, version__dataset__organization=organization
    )
    splits = {row.name: row for row in rows.select_related("version__dataset")}
    if not splits:
        raise NotFound("No such dataset version.", field="dataset_version")
    if name not in splits:
        raise InvalidInput(
            f"The version has no split {name!r}.",
            field="split",
            remedy=f"Use one of {', '.join(splits)}.",
        )
    found = splits[name]
    if found.version.kind == "lm_task":
        asked = found.version.report["evaluated_split"]
        if name != asked:
            raise InvalidInput(
                f"The task asks its split {asked}.", field="split", remedy=f"Use {asked}."
            )
    elif found.version.kind != "chat":
        raise InvalidInput(
            f"{found.version} has lines of kind {found.version.kind}, which ask no questions.",
            field="dataset_version",
            remedy="Use a dataset of conversations that end with the expected answer.",
        )
    return found


def _benchmark_options(
    split: DatasetSplit,
    metrics: Sequence[reading.Metric],
    *,
    num_fewshot: int | None,
    as_chat: bool,
) -> dict[str, Any]:
    """As the evaluation keeps them: none where the split is of no benchmark."""
    if split.version.kind != "lm_task":
        if num_fewshot is not None or as_chat:
            raise InvalidInput(
                f"{split.version} is no benchmark task.",
                field="num_fewshot" if num_fewshot is not None else "as_chat",
                remedy="Leave it out.",
            )
        return {}
    if metrics:
        raise InvalidInput(
            "A benchmark task has measures of its own.", field="metrics", remedy="Leave it out."
        )
    if num_fewshot is not None and not 0 <= num_fewshot <= MAX_FEWSHOT:
        raise InvalidInput(
            "It is out of range.", field="num_fewshot", remedy=f"Give 0 to {MAX_FEWSHOT}."
        )
    task = split.version.report["task"]
    if num_fewshot and not (task.get("fewshot_split") or task.get("training_split")):
        raise InvalidInput(
            "The task has no split that examples come from.",
            field="num_fewshot",
            remedy="Leave it out, or upload the task with a fewshot_split.",
        )
    return {
        name: value
        for name, value in {"num_fewshot": num_fewshot, "as_chat": as_chat}.items()
        if value not in (None, False)
    }


def _check_pairs(metrics: Sequence[reading.Metric], names: Sequence[str]) -> None:
    for index, each in enumerate(metrics):
        if isinstance(each, Judge) and each.mode == "pairs" and len(names) < 2:
            raise InvalidInput(
                "Pairs need a second model.",
                field=f"metrics.{index}.mode",
                remedy="Name a candidate beside the baseline, or let the judge score.",
            )


def _check_models(names: Sequence[str]) -> None:
    if not 1 <= len(names) <= MAX_MODELS or len(set(names)) != len(names):
        raise InvalidInput(
            "An evaluation compares different models.",
            field="models",
            remedy=f"Name 1 to {MAX_MODELS} models, each once, the baseline first.",
        )
    for name in names:
        if not name.strip() or len(name) > NAME_CHARACTERS or "\0" in name:
            raise InvalidInput(
                f"{name!r} cannot be a model's name.",
                field="models",
                remedy="Give the names that clients send as `model`.",
            )
