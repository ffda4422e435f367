"""Load tests that people want: checked here, carried out by `deployments.load_testing`."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from django.db import transaction

from accounts import audit
from accounts.models import Organization
from common import jobs
from common.errors import DomainError, InvalidInput, NotFound
from deployments.choices import LOAD_TEST_OVER, DeploymentStatus
from deployments.models import Deployment, LoadTest

DEFAULT_CLIENTS = (1, 2, 4, 8, 16)
MOST_CLIENTS = 512
MOST_LEVELS = 10
LIMITS = {
    "seconds_per_level": (3, 120),
    "prompt_words": (1, 100_000),
    "output_tokens": (1, 8192),
    "limit_ttft_milliseconds": (1, 600_000),
    "limit_itl_milliseconds": (1, 60_000),
}


class LoadTestRuns(DomainError):
    """One at a time a deployment: two would measure each other."""

    code = "load_test_runs"


@transaction.atomic
def start_load_test(
    *,
    organization: Organization,
    deployment_id: UUID,
    clients: Sequence[int] = DEFAULT_CLIENTS,
    seconds_per_level: int = 15,
    prompt_words: int = 64,
    output_tokens: int = 64,
    limit_ttft_milliseconds: int | None = None,
    limit_itl_milliseconds: int | None = None,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> LoadTest:
    """Want a deployment put under load, level by level; its tokens are metered as any others.

    Raises NotFound, InvalidInput by field, LoadTestRuns.
    """
    rows = Deployment.objects.of(organization).select_for_update(no_key=True, of=("self",))
    deployment = rows.filter(pk=deployment_id).exclude(status=DeploymentStatus.DELETED).first()
    if deployment is None:
        raise NotFound("No such deployment.")
    levels = _levels(clients)
    values = {
        "seconds_per_level": seconds_per_level,
        "prompt_words": prompt_words,
        "output_tokens": output_tokens,
        "limit_ttft_milliseconds": limit_ttft_milliseconds,
        "limit_itl_milliseconds": limit_itl_milliseconds,
    }
    for field, (low, high) in LIMITS.items():
        value = values[field]
        if value is not None and not low <= value <= high:
            raise InvalidInput(
                f"{value} is out of range.", field=field, remedy=f"Use {low} to {high}."
            )
    running = LoadTest.objects.filter(deployment=deployment).exclude(status__in=LOAD_TEST_OVER)
    if running.exists():
        raise LoadTestRuns(
            f"A load test of {deployment} is under way.",
            remedy="Wait for its end, or cancel it.",
        )
    test = LoadTest.objects.create(
        organization=organization,
        deployment=deployment,
        deployment_name=deployment.name,
        revision=deployment.revision,
        revision_name=str(deployment.revision),
        engine=deployment.engine,
        clients=levels,
        created_at=now,
        status_changed_at=now,
        **values,
    )
    audit.record(
        organization=organization,
        actor=actor,
        action="load_test.start",
        object_id=test.pk,
        object_name=deployment.name,
        after={"clients": levels, "seconds_per_level": seconds_per_level},
        now=now,
    )
    jobs.enqueue("deployments.load_test_step", load_test_id=str(test.pk))
    return test


@transaction.atomic
def cancel_load_test(
    *,
    organization: Organization,
    load_test_id: UUID,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> LoadTest:
    """Stop after the level that runs; what was measured stays. One that is over stays as it is.

    Raises NotFound.
    """
    rows = LoadTest.objects.of(organization).select_for_update(no_key=True, of=("self",))
    test = rows.filter(pk=load_test_id).first()
    if test is None:
        raise NotFound("No such load test.")
    if test.status in LOAD_TEST_OVER or test.cancel_requested_at is not None:
        return test
    test.cancel_requested_at = now
    test.save(update_fields=["cancel_requested_at"])
    audit.record(
        organization=organization,
        actor=actor,
        action="load_test.cancel",
        object_id=test.pk,
        object_name=test.deployment_name,
        now=now,
    )
    jobs.enqueue("deployments.load_test_step", load_test_id=str(test.pk))
    return test


def _levels(clients: Sequence[int]) -> list[int]:
    whole = all(isinstance(each, int) and not isinstance(each, bool) for each in clients)
    if not whole or not clients or not all(1 <= each <= MOST_CLIENTS for each in clients):
        raise InvalidInput(
            "Clients are whole numbers.",
            field="clients",
            remedy=f"Give 1 to {MOST_LEVELS} levels of 1 to {MOST_CLIENTS} clients, such as 1, 4, 16.",
        )
    levels = sorted(set(clients))
    if len(levels) > MOST_LEVELS:
        raise InvalidInput(
            f"{len(levels)} levels are too many.",
            field="clients",
            remedy=f"Give at most {MOST_LEVELS}.",
        )
    return levels
