import time
from datetime import datetime, timedelta

import pytest
from django.db import connection
from django.utils import timezone

from accounts.tests.make import NOW, make_organization
from common import leases
from models_registry.models import RevisionImport

pytestmark = pytest.mark.django_db


@pytest.fixture
def row() -> RevisionImport:
    return RevisionImport.objects.create(
        organization=make_organization(),
        name="x",
        source_kind="huggingface",
        source="a/b",
        created_at=NOW,
    )


def test_one_worker_at_a_time_until_the_lease_runs_out(row: RevisionImport) -> None:
    rows = RevisionImport.objects.all()
    first = leases.take(rows, row.pk, now=NOW, seconds=10)
    assert first is not None
    assert leases.take(rows, row.pk, now=NOW + timedelta(seconds=9)) is None
    second = leases.take(rows, row.pk, now=NOW + timedelta(seconds=11))
    assert second is not None
    with pytest.raises(leases.LeaseLost):
        _rename(first, "written by the one who was late")
    row.refresh_from_db()
    assert row.name == "x"


def _rename(taken: RevisionImport, name: str) -> None:
    with leases.finish(taken) as current:
        current.name = name
        current.save()


def test_a_finished_lease_is_free_at_once(row: RevisionImport) -> None:
    taken = leases.take(RevisionImport.objects.all(), row.pk, now=NOW)
    assert taken is not None
    with leases.finish(taken) as current:
        current.name = "y"
        current.save()
    assert leases.take(RevisionImport.objects.filter(name="y"), row.pk, now=NOW) is not None


def test_a_row_that_is_not_among_the_rows_is_left_alone(row: RevisionImport) -> None:
    assert leases.take(RevisionImport.objects.filter(name="other"), row.pk, now=NOW) is None
    row.refresh_from_db()
    assert row.lease_token is None


def test_an_extended_lease_holds_longer_and_a_lost_one_cannot_be_extended(
    row: RevisionImport,
) -> None:
    rows = RevisionImport.objects.all()
    first = leases.take(rows, row.pk, now=NOW, seconds=10)
    assert first is not None
    leases.extend(first, now=NOW + timedelta(seconds=5), seconds=60)
    assert leases.take(rows, row.pk, now=NOW + timedelta(seconds=30)) is None
    assert leases.take(rows, row.pk, now=NOW + timedelta(seconds=70)) is not None
    with pytest.raises(leases.LeaseLost):
        leases.extend(first, now=NOW + timedelta(seconds=71))


@pytest.mark.django_db(transaction=True)
def test_a_kept_lease_survives_its_connection() -> None:
    row = RevisionImport.objects.create(
        organization=make_organization(),
        name="x",
        source_kind="huggingface",
        source="a/b",
        created_at=NOW,
    )
    taken = leases.take(RevisionImport.objects.all(), row.pk, now=NOW, seconds=0.3)
    assert taken is not None
    with leases.kept(taken, seconds=0.3):
        _wait_for_an_extension(row, after=NOW)
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        _wait_for_an_extension(row, after=timezone.now() + timedelta(seconds=0.3))


def _wait_for_an_extension(row: RevisionImport, *, after: datetime) -> None:
    for _ in range(100):
        row.refresh_from_db()
        if row.leased_until is not None and row.leased_until > after + timedelta(seconds=0.3):
            return
        time.sleep(0.05)
    raise AssertionError("the lease is not extended any more")
