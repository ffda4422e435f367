"""Carrying out load tests: a level at a time, each by a client process of its own."""

import json
import logging
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import Q, QuerySet

from accounts import services as accounts
from accounts.choices import Scope
from common import leases
from deployments import adapters
from deployments.choices import LOAD_TEST_OVER, AttachmentStatus, LoadTestStatus, ReplicaStatus
from deployments.models import Deployment, LoadTest, Replica
from engines.load_client import LoadResult, LoadSpec

logger = logging.getLogger(__name__)

L = LoadTestStatus
LEASE_SECONDS = 20.0
GRACE_SECONDS = 60.0  # for answers that have begun when a level's time is up
KEY_LIFE = timedelta(minutes=10)
MOST_FAILURES = 0.05  # of a level's requests; past it the target is beyond what it can carry


def list_due(*, now: datetime) -> QuerySet[LoadTest]:
    """Those that nobody is at work on."""
    return list_open().filter(Q(leased_until__isnull=True) | Q(leased_until__lt=now))


def list_open() -> QuerySet[LoadTest]:
    """Those not over yet."""
    return LoadTest.objects.exclude(status__in=LOAD_TEST_OVER)


def step_load_test(load_test_id: UUID, *, now: datetime) -> bool:
    """Runs one level; true if another should follow at once. A level that a killed worker had begun
    is run again."""
    test = leases.take(list_open(), load_test_id, now=now, seconds=LEASE_SECONDS)
    if test is None:
        return False
    with leases.kept(test, seconds=LEASE_SECONDS):
        if test.cancel_requested_at is not None:
            return _end(test, L.CANCELLED, "cancelled", "", now=now)
        if test.status == L.PENDING:
            return _begin(test, now=now)
        level = test.clients[len(test.results)]
        result = _run_level(test, level, now=now)
        if isinstance(result, str):
            return _end(test, L.FAILED, "client_failed", result, now=now)
        return _note(test, result, now=now)


def _begin(test: LoadTest, *, now: datetime) -> bool:
    rows = list(_list_serving(test.deployment).select_related("allocation"))
    if not rows:
        message = (
            "No replica of the deployment is ready. Scale it to 1 or more, or send it a request if "
            "it sleeps until one comes; then test again."
        )
        return _end(test, L.FAILED, "no_replica", message, now=now)
    held: dict[str, Decimal] = {}
    for row in rows:
        if row.allocation is not None:
            slug = row.allocation.accelerator_type_slug
            held[slug] = held.get(slug, Decimal(0)) + row.allocation.accelerator_share
    with leases.finish(test) as current:
        current.replicas = len(rows)
        current.accelerators = {slug: float(share) for slug, share in held.items()}
        current.save(update_fields=["replicas", "accelerators"])
        current.transition(L.RUNNING, now=now, reason="began")
    return True


def _list_serving(deployment: Deployment) -> QuerySet[Replica]:
    """The replicas that answer for it; an adapter's are those that have it loaded."""
    rows = Replica.objects.filter(status=ReplicaStatus.READY, wanted=True)
    if not adapters.is_adapter(deployment.revision):
        return rows.filter(deployment=deployment)
    return rows.filter(
        attachments__deployment=deployment, attachments__status=AttachmentStatus.ATTACHED
    )


def _run_level(test: LoadTest, level: int, *, now: datetime) -> LoadResult | str:
    """What the client process measured, or why it did not."""
    key = accounts.issue_api_key(
        organization=test.organization,
        name=f"load test of {test.deployment_name}"[:80],
        scopes=[Scope.INFERENCE],
        allowed_models=[test.deployment_name],
        expires_at=now + KEY_LIFE,
        is_internal=True,
        now=now,
    )
    spec = LoadSpec(
        base_url=settings.FACTORY_GATEWAY_URL,
        key=key.secret,
        model=test.deployment_name,
        clients=level,
        seconds=test.seconds_per_level,
        prompt_words=test.prompt_words,
        output_tokens=test.output_tokens,
        grace_seconds=GRACE_SECONDS,
    )
    try:
        done = subprocess.run(
            [sys.executable, "-m", "engines.load_client"],
            cwd=settings.BASE_DIR,
            input=json.dumps(asdict(spec)),
            capture_output=True,
            text=True,
            timeout=test.seconds_per_level + GRACE_SECONDS + 30,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "The load client did not end in time."
    finally:
        accounts.revoke_api_key(organization=test.organization, key_id=key.row.pk, now=now)
    if done.returncode:
        logger.error("the load client failed: %s", done.stderr[-2000:])
        return "The load client failed; the control worker's log has its words."
    return LoadResult.read(done.stdout.splitlines()[-1])


def _note(test: LoadTest, result: LoadResult, *, now: datetime) -> bool:
    row = asdict(result) | {"within_limits": is_within(test, asdict(result))}
    with leases.finish(test) as current:
        current.results = [*current.results, row]
        fitting = [each["clients"] for each in current.results if each["within_limits"]]
        current.largest_clients = max(fitting, default=None)
        current.save(update_fields=["results", "largest_clients"])
        is_beyond = result.failures > result.requests * MOST_FAILURES
        if is_beyond:
            message = f"At {result.clients} clients {result.failures} of {result.requests} requests failed."
            told = f"{message} {' '.join(result.problems[:1])}".strip()
            _close(current, L.FAILED if not fitting else L.SUCCEEDED, "beyond", told, now=now)
        elif len(current.results) == len(current.clients):
            _close(current, L.SUCCEEDED, "measured", "", now=now)
        return current.status == L.RUNNING


def is_within(test: LoadTest, result: Mapping[str, Any]) -> bool:
    """Whether nothing failed and both limits, where set, hold for 95 % of the samples."""
    limits = (
        (test.limit_ttft_milliseconds, result["ttft_p95_milliseconds"]),
        (test.limit_itl_milliseconds, result["itl_p95_milliseconds"]),
    )
    within = all(limit is None or seen is None or seen <= limit for limit, seen in limits)
    return within and not result["failures"] and result["output_tokens"] > 0


def _end(test: LoadTest, status: L, reason: str, message: str, *, now: datetime) -> bool:
    with leases.finish(test) as current:
        _close(current, status, reason, message, now=now)
    return False


def _close(test: LoadTest, status: L, reason: str, message: str, *, now: datetime) -> None:
    test.ended_at = now
    test.save(update_fields=["ended_at"])
    test.transition(status, now=now, reason=reason, message=message)
