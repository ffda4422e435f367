"""The end of a training run: its result compared with what will be served of it, and kept."""

import logging
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from chips import selectors as chips_selectors
from common import leases
from common.errors import DomainError
from models_registry import cache
from models_registry import services as registry
from models_registry.choices import RevisionKind, SourceKind
from trainer.host import CheckSighting, Seen, Sighting, TrainerHost
from training import parity, planning, snapshots
from training.choices import EventLevel, RunStatus, Tuning
from training.models import TrainingRun
from training.outcomes import (
    MAX_FAILURES,
    OBSERVED,
    STOP_SECONDS,
    as_ending,
    end,
    fail,
    release,
    tell,
)
from training.planning import RunFolders
from training.progress import Ending

logger = logging.getLogger(__name__)


def step_publishing(
    run: TrainingRun, host: TrainerHost, sighting: Sighting, *, now: datetime
) -> bool:
    """First the trainer must be gone, then its result is compared with what will be served of it,
    then the accelerators go back, then the result is kept."""
    since = run.status_changed_at or now
    if sighting.seen is Seen.RUNNING:
        if now - since > timedelta(seconds=STOP_SECONDS):
            host.stop(str(run.pk), force=True)
        leases.release(run)
        return False
    check = host.observe_check(str(run.pk))
    if run.allocation is not None and run.allocation.released_at is None:
        if _is_comparing(run, host, check, now=now):
            leases.release(run)
            return False
        with leases.finish(run) as current:
            release(current, reason="trained", now=now)
        return True
    if run.next_attempt_at is not None and now < run.next_attempt_at:
        leases.release(run)
        return False
    folders = RunFolders(host.folder(str(run.pk)))
    found = parity.record(run, check.report, now=now) if parity.is_recorded(folders) else {}
    try:
        snapshots.publish(run, folders, now=now)
        revision = registry.publish_folder(
            organization=run.organization,
            name=run.output_name,
            folder=folders.output,
            kind=RevisionKind.FULL if run.tuning == Tuning.FULL else RevisionKind.ADAPTER,
            source_kind=SourceKind.TRAINING_RUN,
            source=run.name,
            parent=run.base_revision,
            lineage=planning.lineage(run)
            | {"result_step": run.result_step, "result_is": planning.result_is(run)},
            parity=found,
            now=now,
        )
    except (DomainError, OSError) as error:
        logger.warning("the result of run %s cannot be published: %s", run.pk, error)
        _publish_again(run, as_ending(error), now=now)
        return False
    with leases.finish(run) as current:
        current.result_revision = revision
        end(current, RunStatus.SUCCEEDED, "published", now=now)
        _tell_parity(current, found, now=now)
        text = f"The result is {revision}: {planning.result_is(current)}"
        tell(current, "published", text, revision=str(revision.pk), now=now)
    return False


def _is_comparing(
    run: TrainingRun, host: TrainerHost, check: CheckSighting, *, now: datetime
) -> bool:
    """Start the comparison if there is one to make; false once it has ended, or never will."""
    name, folders = str(run.pk), RunFolders(host.folder(str(run.pk)))
    if check.seen is Seen.EXITED or not parity.is_recorded(folders):
        return False
    if now - (run.status_changed_at or now) > timedelta(seconds=parity.CHECK_SECONDS):
        host.stop_check(name)
        return False
    if check.seen is Seen.ABSENT and run.allocation is not None:
        try:
            devices = chips_selectors.list_devices(run.allocation)
            base = cache.materialize(run.base_revision, root=host.cache)
            asked = parity.spec(run, base=base, folders=folders, devices=devices)
            host.start_check(name, asked, environment=planning.environment(devices))
        except (DomainError, OSError, ValueError, KeyError) as error:
            logger.warning("the result of run %s cannot be compared: %s", run.pk, error)
            return False
    return True


def _tell_parity(run: TrainingRun, found: Mapping[str, Any], *, now: datetime) -> None:
    if not found or found["passed"]:
        return
    if found["passed"] is None:
        text, level = "Whether the served model is the trained one is not known", EventLevel.WARN
    else:
        text, level = "The served model is not the one that was trained", EventLevel.ERROR
    tell(run, "parity", f"{text}: {found['reason']}.", level=level, now=now)


def _publish_again(run: TrainingRun, ending: Ending, *, now: datetime) -> None:
    with leases.finish(run) as current:
        current.failures += 1
        current.next_attempt_at = now + timedelta(seconds=min(4**current.failures, 60))
        current.status_reason, current.message = "publish_failed", ending.message
        current.save(update_fields=OBSERVED)
        if current.failures >= MAX_FAILURES:
            fail(current, ending, now=now)
