"""Fine-tuning jobs: what is wanted, checked as far as that is quick; files are read afterwards."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import transaction

from accounts import audit
from accounts.models import Organization
from common import jobs
from common.errors import DomainError, InvalidInput, NotFound
from models_registry.models import Revision
from openai_api import base_models, names, selectors
from openai_api.choices import JOB_OVER, Method, Purpose
from openai_api.models import File, FineTuningJob, JobEvent
from training import services as training
from training.choices import TERMINAL
from training.models import TrainingRun

MOST_METADATA = 16
LONGEST_KEY, LONGEST_VALUE = 64, 512
SEEDS = 2**31 - 1
# The numbers that a job may give, and their ranges: those of OpenAI's, and some more room.
LIMITS: dict[str, tuple[type, float, float]] = {
    "n_epochs": (int, 1, 100),
    "batch_size": (int, 1, 1024),
    "learning_rate_multiplier": (float, 1e-4, 1e4),
    "beta": (float, 1e-4, 2.0),
}
AUTO = "auto"


class JobIsOver(DomainError):
    code = "job_is_over"


class JobNotReady(DomainError):
    """Its files are still being checked."""

    code = "job_not_ready"


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A job as a client describes it. `hyperparameters` are OpenAI's, "auto" or a number;
    `platform` has what OpenAI's API has no word for: `tuning`, `hyperparameters` of the trainer,
    `accelerators`, `pool_name`."""

    model: str
    training_file: str
    validation_file: str = ""
    method: str = Method.SUPERVISED
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    platform: Mapping[str, Any] = field(default_factory=dict)
    suffix: str = ""
    seed: int | None = None
    metadata: Mapping[str, str] | None = None


def create_job(
    *,
    organization: Organization,
    wanted: Wanted,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> FineTuningJob:
    """Want a model fine-tuned. Raises InvalidInput by field; base_models.NoSuchModel."""
    method = _read_method(wanted.method)
    values = _read_hyperparameters(wanted.hyperparameters, method)
    base, init = base_models.find(organization, wanted.model)
    training_file = _find_file(organization, "training_file", wanted.training_file, now)
    validation_file = (
        _find_file(organization, "validation_file", wanted.validation_file, now)
        if wanted.validation_file
        else None
    )
    if len(wanted.suffix) > names.LONGEST_SUFFIX:
        raise InvalidInput(
            f"A suffix has at most {names.LONGEST_SUFFIX} characters.", field="suffix"
        )
    if wanted.seed is not None and not 0 <= wanted.seed <= SEEDS:
        raise InvalidInput(f"A seed is a number from 0 to {SEEDS}.", field="seed")
    check_metadata(wanted.metadata)
    with transaction.atomic():
        job = FineTuningJob.objects.create(
            organization=organization,
            model_name=wanted.model,
            base_revision=base,
            init_revision=init,
            training_file=training_file,
            validation_file=validation_file,
            method=method,
            hyperparameters=values,
            platform=dict(wanted.platform),
            suffix=wanted.suffix,
            seed=wanted.seed if wanted.seed is not None else secrets.randbelow(SEEDS),
            metadata=dict(wanted.metadata) if wanted.metadata is not None else None,
            fine_tuned_model=names.fine_tuned_name(
                base=_root_name(base),
                organization=organization.slug,
                suffix=wanted.suffix,
            ),
            requested_by=actor.name[:150],
            status_changed_at=now,
            created_at=now,
        )
        tell(job, f"Created fine-tuning job: {names.public_id(names.JOB, job.pk)}", now=now)
        given = [file for file in (training_file, validation_file) if file is not None]
        said = " and ".join(names.public_id(names.FILE, file.pk) for file in given)
        tell(job, f"Validating files: {said}", now=now)
        audit.record(
            organization=organization,
            actor=actor,
            action="fine_tuning_job.create",
            object_id=job.pk,
            object_name=job.fine_tuned_model,
            after={"model": wanted.model, "method": method, "base_revision": str(base)},
            now=now,
        )
        jobs.enqueue("openai_api.step_job", job_id=str(job.pk))
    return job


@transaction.atomic
def cancel_job(
    *,
    organization: Organization,
    job_id: UUID | None,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> FineTuningJob:
    """Want the job no more. Asking twice changes nothing. Raises NotFound, JobIsOver."""
    job = _take(organization, job_id)
    if job.cancel_requested_at is not None:
        return job
    if job.status in JOB_OVER or (job.run is not None and job.run.status in TERMINAL):
        raise JobIsOver(f"The job is over already: {selectors.status_of(job)}.")
    if job.run is not None:
        training.cancel_training_run(
            organization=organization, run_id=job.run.pk, actor=actor, now=now
        )
    job.cancel_requested_at = now
    job.save(update_fields=["cancel_requested_at"])
    tell(job, "The job is being cancelled, as was asked.", now=now)
    jobs.enqueue("openai_api.step_job", job_id=str(job.pk))
    return selectors.get_job(organization, job.pk)


@transaction.atomic
def pause_job(
    *,
    organization: Organization,
    job_id: UUID | None,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> FineTuningJob:
    """Let the job give its accelerators back until it is resumed. Raises NotFound, JobIsOver,
    JobNotReady, what training raises."""
    run = _run_of(_take(organization, job_id), "paused")
    training.pause_training_run(organization=organization, run_id=run.pk, actor=actor, now=now)
    return selectors.get_job(organization, job_id)


@transaction.atomic
def resume_job(
    *,
    organization: Organization,
    job_id: UUID | None,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> FineTuningJob:
    """Let a paused job go on from its last checkpoint. Raises NotFound, JobIsOver, JobNotReady,
    what training raises."""
    run = _run_of(_take(organization, job_id), "resumed")
    training.resume_training_run(organization=organization, run_id=run.pk, actor=actor, now=now)
    return selectors.get_job(organization, job_id)


def tell(
    job: FineTuningJob, message: str, *, level: str = "info", now: datetime, **data: object
) -> None:
    """Add to the events of the job."""
    JobEvent.objects.create(job=job, at=now, level=level, message=message, data=data)


def _take(organization: Organization, job_id: UUID | None) -> FineTuningJob:
    rows = FineTuningJob.objects.of(organization).select_for_update(no_key=True, of=("self",))
    job = rows.select_related("run", "organization").filter(pk=job_id).first() if job_id else None
    if job is None:
        raise NotFound("No such fine-tuning job.", field="fine_tuning_job_id")
    return job


def _run_of(job: FineTuningJob, what: str) -> TrainingRun:
    if job.status in JOB_OVER:
        raise JobIsOver(f"The job is over already: {selectors.status_of(job)}.")
    if job.run is None:
        raise JobNotReady(
            f"A job whose files are still checked cannot be {what}.",
            remedy="Ask again once its status is `queued` or `running`.",
        )
    return job.run


def _read_method(name: str) -> Method:
    if name not in Method.values:
        raise InvalidInput(
            f"The method '{name}' is not offered here.",
            field="method.type",
            remedy=f"Use one of {', '.join(Method.values)}.",
        )
    return Method(name)


def _read_hyperparameters(given: Mapping[str, Any], method: Method) -> dict[str, Any]:
    """Those that are not left to the platform."""
    known = [name for name in LIMITS if name != "beta" or method is Method.DPO]
    found: dict[str, Any] = {}
    for name, value in given.items():
        where = f"method.{method.value}.hyperparameters.{name}"
        if name not in known:
            raise InvalidInput(
                f"'{name}' is no hyperparameter of the method {method.value}.",
                field=where,
                remedy=f"Use {', '.join(known)}.",
            )
        if value == AUTO or value is None:
            continue
        kind, low, high = LIMITS[name]
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or (kind is int and int(value) != value) or not low <= value <= high:
            wanted = "a whole number" if kind is int else "a number"
            raise InvalidInput(
                f'{value!r} is neither "auto" nor {wanted} from {low:g} to {high:g}.', field=where
            )
        found[name] = kind(value)
    return found


def _find_file(organization: Organization, field: str, given: str, now: datetime) -> File:
    file_id = names.read_id(names.FILE, given)
    rows = selectors.list_files(organization, now=now)
    row = rows.filter(pk=file_id).first() if file_id else None
    if row is None:
        raise InvalidInput(f"invalid {field}: {given}: there is no such file.", field=field)
    if row.purpose != Purpose.FINE_TUNE:
        raise InvalidInput(
            f"The file {given} was uploaded with the purpose '{row.purpose}'.",
            field=field,
            remedy="Upload it with the purpose 'fine-tune'.",
        )
    return row


def check_metadata(metadata: Mapping[str, str] | None) -> None:
    if metadata is None:
        return
    if len(metadata) > MOST_METADATA:
        raise InvalidInput(f"At most {MOST_METADATA} pairs are kept.", field="metadata")
    for key, value in metadata.items():
        if not isinstance(value, str) or len(value) > LONGEST_VALUE or len(key) > LONGEST_KEY:
            raise InvalidInput(
                f"A key is a text of at most {LONGEST_KEY} characters, a value one of at most "
                f"{LONGEST_VALUE}.",
                field=f"metadata.{key[:LONGEST_KEY]}",
            )
        if "\0" in key or "\0" in value:
            raise InvalidInput("It holds a NUL character.", field="metadata")


def _root_name(revision: Revision) -> str:
    """The name of the base that all of it began with, as OpenAI's names have it."""
    while revision.parent is not None:
        revision = revision.parent
    return revision.registered_model.name
