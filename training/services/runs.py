"""Training runs: what is wanted, checked; placing and training follow by themselves."""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction

from accounts import audit
from accounts.models import Organization
from common import jobs
from common.errors import DomainError, InvalidInput, NotFound
from models_registry import services as registry
from models_registry.choices import RevisionKind, Visibility
from models_registry.models import Revision
from training.choices import HOLDING, TERMINAL, RunStatus, Tuning
from training.models import TrainingRun
from training.services import settling
from training.services.datasets import check_name

MAX_NOTES = 16  # pairs of metadata, of at most so many characters each: as OpenAI allows
MAX_KEY, MAX_VALUE = 64, 512
SUFFIX = re.compile(r"[A-Za-z0-9._-]{0,64}")


class RunIsOver(DomainError):
    code = "run_is_over"


def create_training_run(
    *,
    organization: Organization,
    name: str,
    base_revision_id: UUID,
    dataset_version_id: UUID,
    output_name: str,
    tuning: str = Tuning.LORA,
    method: str = "sft",
    hyperparameters: Mapping[str, Any] | None = None,
    init_revision_id: UUID | None = None,
    recipe: str = "",
    suffix: str = "",
    metadata: Mapping[str, str] | None = None,
    accelerators: int = 1,
    pool_name: str = "",
    train_split: str = "train",
    eval_split: str = "",
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> TrainingRun:
    """Want a fine-tuning; it is placed as soon as accelerators are free.

    Hyperparameters are kept in full, those of the recipe (`recipe` names one; else the default for
    the base holds) and the trainer's defaults written out, so that the row alone says how the run
    was trained. Raises InvalidInput with the field at fault, NotFound for a base or a dataset
    that the organization may not see.
    """
    check_name(name)
    check_name(output_name, "output_name")
    registry.check_visibility(
        organization=organization,
        name=output_name,
        visibility=Visibility.PRIVATE,
        field="output_name",
    )
    asked = settling.check_asked(
        organization=organization,
        base_revision_id=base_revision_id,
        dataset_version_id=dataset_version_id,
        train_split=train_split,
        eval_split=eval_split,
        method=method,
        tuning=tuning,
        recipe=recipe,
        hyperparameters=hyperparameters or {},
        accelerators=accelerators,
    )
    base = asked.base
    settling.check_evaluated(asked, eval_split)
    start = _init_revision(organization, init_revision_id, base=base, tuning=tuning)
    _check_notes(suffix=suffix, metadata=metadata or {})
    with transaction.atomic():
        run = TrainingRun.objects.create(
            organization=organization,
            name=name,
            base_revision=base,
            dataset_version=asked.version,
            train_split=train_split,
            eval_split=eval_split,
            output_name=output_name,
            method=method,
            tuning=tuning,
            hyperparameters=asked.hyperparameters,
            init_revision=start,
            recipe=asked.recipe_key,
            suffix=suffix,
            metadata=dict(metadata or {}),
            accelerators_wanted=accelerators,
            pool_name=pool_name,
            status_changed_at=now,
            created_at=now,
        )
        audit.record(
            organization=organization,
            actor=actor,
            action="training_run.create",
            object_id=run.pk,
            object_name=name,
            after={
                "base_revision": str(base),
                "dataset_version": str(asked.version),
                "recipe": asked.recipe_key,
                "method": method,
                "tuning": tuning,
                "accelerators": accelerators,
                "output_name": output_name,
            },
            now=now,
        )
        jobs.enqueue("training.place_run", run_id=str(run.pk))
    return run


@transaction.atomic
def cancel_training_run(
    *,
    organization: Organization,
    run_id: UUID,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> TrainingRun:
    """Want the run no more; its trainer is ended and its accelerators are given back.

    Asking twice changes nothing. Raises NotFound; RunIsOver once there is nothing left to cancel.
    """
    run = _take(organization, run_id)
    if run.cancel_requested_at is not None:
        return run
    _check_not_over(run)
    run.cancel_requested_at = now
    _steer(run, "cancel", actor=actor, now=now)
    return run


@transaction.atomic
def pause_training_run(
    *,
    organization: Organization,
    run_id: UUID,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> TrainingRun:
    """Let the run rest: its trainer saves a checkpoint and ends, its accelerators are given back,
    and its checkpoints stay on their node until it is resumed or cancelled.

    Asking twice changes nothing; one that finishes just then is published all the same. Raises
    NotFound; RunIsOver once there is nothing left to pause.
    """
    run = _take(organization, run_id)
    if run.pause_requested_at is not None and run.cancel_requested_at is None:
        return run
    _check_not_over(run)
    if run.cancel_requested_at is not None:
        raise RunIsOver(f"{run} is being cancelled.")
    run.pause_requested_at = now
    _steer(run, "pause", actor=actor, now=now)
    return run


@transaction.atomic
def resume_training_run(
    *,
    organization: Organization,
    run_id: UUID,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> TrainingRun:
    """Want a paused run again: it waits for accelerators, first for those of the node that has its
    checkpoints.

    One that was not to rest stays as it is. Raises NotFound; RunIsOver.
    """
    run = _take(organization, run_id)
    if run.status in TERMINAL or run.cancel_requested_at is not None:
        raise RunIsOver(f"{run} cannot be resumed: it is {run.get_status_display().lower()}.")
    if run.pause_requested_at is None:
        return run
    run.pause_requested_at = None
    _steer(run, "resume", actor=actor, now=now)
    return run


def _take(organization: Organization, run_id: UUID) -> TrainingRun:
    """The run, locked until the transaction ends. Raises NotFound."""
    rows = TrainingRun.objects.of(organization).select_for_update(no_key=True, of=("self",))
    run = rows.select_related("node").filter(pk=run_id).first()
    if run is None:
        raise NotFound("No such training run.")
    return run


def _check_not_over(run: TrainingRun) -> None:
    if run.status in TERMINAL or run.status == RunStatus.PUBLISHING:
        raise RunIsOver(
            f"{run} is trained already: its status is {run.get_status_display().lower()}."
        )


def _steer(run: TrainingRun, action: str, *, actor: audit.Actor, now: datetime) -> None:
    """Keep what is wanted now, and have whoever is in charge of the run look at it soon."""
    run.save(update_fields=["cancel_requested_at", "pause_requested_at"])
    audit.record(
        organization=run.organization,
        actor=actor,
        action=f"training_run.{action}",
        object_id=run.pk,
        object_name=run.name,
        before={"status": run.status},
        now=now,
    )
    if run.status in HOLDING and run.node is not None:
        jobs.enqueue("agent.step_run", queue=run.node.queue, run_id=str(run.pk))
    else:
        jobs.enqueue("training.place_run", run_id=str(run.pk))


def _init_revision(
    organization: Organization, revision_id: UUID | None, *, base: Revision, tuning: str
) -> Revision | None:
    """The adapter to begin with. Raises NotFound, InvalidInput."""
    if revision_id is None:
        return None
    start = Revision.objects.of(organization).filter(pk=revision_id).first()
    if start is None:
        raise NotFound("No such revision.", field="init_revision")
    if start.kind != RevisionKind.ADAPTER or start.parent_id != base.pk:
        raise InvalidInput(
            f"{start} is no adapter of {base}.",
            field="init_revision",
            remedy="Choose an adapter of the same base, or leave it out.",
        )
    if tuning == Tuning.FULL:
        raise InvalidInput(
            "All weights cannot begin with an adapter.",
            field="init_revision",
            remedy="Train an adapter, or leave it out.",
        )
    return start


def _check_notes(*, suffix: str, metadata: Mapping[str, str]) -> None:
    """What is kept for the asker alone. Raises InvalidInput."""
    if not SUFFIX.fullmatch(suffix):
        raise InvalidInput(
            f"{suffix!r} cannot be part of a model's name.",
            field="suffix",
            remedy="Use at most 64 letters, digits, dots, hyphens and underscores.",
        )
    fits = len(metadata) <= MAX_NOTES and all(
        isinstance(key, str)
        and isinstance(value, str)
        and len(key) <= MAX_KEY
        and len(value) <= MAX_VALUE
        and "\0" not in key + value
        for key, value in metadata.items()
    )
    if not fits:
        raise InvalidInput(
            "This is more metadata than is kept, or other than text.",
            field="metadata",
            remedy=f"Give up to {MAX_NOTES} texts of {MAX_VALUE} characters, named in {MAX_KEY}.",
        )
