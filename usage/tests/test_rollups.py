from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from accounts.tests.make import NOW, make_organization
from chips.choices import Purpose
from usage import ingest, rollups, tasks
from usage.models import UsageRecord
from usage.tests.make import make_event, make_held, tell

pytestmark = pytest.mark.django_db


def quantities(organization, item):
    rows = UsageRecord.objects.of(organization).filter(item=item).order_by("hour")
    return [(row.hour.hour, float(row.quantity)) for row in rows]


def everything():
    names = [field.name for field in UsageRecord._meta.fields if field.name not in ("id",)]
    return sorted(map(str, UsageRecord.objects.values_list(*names)))


def test_tokens_add_up_by_hour_model_and_key() -> None:
    retail, bank = make_organization(), make_organization("bank")
    key = "018f0000-0000-7000-8000-000000000001"
    tell(
        make_event(retail),
        make_event(retail, key_id=key, key_name="ci"),
        make_event(retail, key_id=key, key_name="ci", cached_input_tokens=64),
        make_event(retail, model_name="big"),
        make_event(retail, at=NOW.timestamp() - 1),
        make_event(retail, status_code=400, input_tokens=0, output_tokens=0),
        make_event(bank),
    )
    ingest.ingest(now=NOW)
    rollups.roll_up_open(organization=retail, now=NOW)
    assert sorted(quantities(retail, "requests")) == [(11, 1), (12, 1), (12, 1), (12, 2)]
    by_key = UsageRecord.objects.get(key_id=key, item="input_tokens")
    assert (int(by_key.quantity), by_key.key_name) == (200, "ci")
    assert quantities(retail, "cached_input_tokens") == [(12, 64)]
    assert not UsageRecord.objects.of(bank).exists()


def test_accelerator_seconds_are_split_by_hour_and_weighed_by_share() -> None:
    retail = make_organization()
    make_held(retail, held_at=NOW + timedelta(minutes=50), seconds=80 * 60, share="0.5")
    make_held(retail, held_at=NOW + timedelta(minutes=150), subject_name="still held")
    now = NOW + timedelta(minutes=195)
    rollups.roll_up_open(organization=retail, now=now)
    held = UsageRecord.objects.filter(subject_name="support").order_by("hour")
    assert [(row.hour.hour, row.quantity) for row in held] == [
        (12, Decimal(300)),
        (13, Decimal(1800)),
        (14, Decimal(300)),
    ]
    still = UsageRecord.objects.filter(subject_name="still held").order_by("hour")
    assert [(row.hour.hour, int(row.quantity)) for row in still] == [(14, 1800), (15, 900)]
    assert {row.pool_name for row in still} == {"local"}


def test_training_tokens_count_in_the_hour_in_which_the_run_ended(tmp_path: Path) -> None:
    from models_registry.tests.make import make_revision
    from training.models import TrainingRun
    from training.tests.make import make_version

    retail = make_organization()
    fields = {
        "organization": retail,
        "base_revision": make_revision(tmp_path, retail),
        "dataset_version": make_version(retail),
        "output_name": "out",
        "created_at": NOW,
    }
    ended = NOW + timedelta(minutes=59)
    for number, status in enumerate(("succeeded", "cancelled")):
        TrainingRun.objects.create(
            name=f"run-{number}", status=status, tokens_total=1000, ended_at=ended, **fields
        )
    TrainingRun.objects.create(name="run-on", status="running", tokens_total=500, **fields)
    rollups.roll_up_open(organization=retail, now=ended)
    rows = UsageRecord.objects.filter(item="training_tokens").order_by("subject_name")
    assert [(row.subject_name, int(row.quantity), row.model_name) for row in rows] == [
        ("run-0", 1000, "tiny"),
        ("run-1", 1000, "tiny"),
    ]


def test_computing_again_gives_the_same_and_seals_what_is_old() -> None:
    retail = make_organization()
    tell(*[make_event(retail, at=NOW.timestamp() + 1800 * step) for step in range(8)])
    make_held(retail, seconds=3 * 3600 + 17)
    now = NOW + timedelta(hours=4)
    ingest.ingest(now=now)
    rollups.roll_up_open(organization=retail, now=now)
    first = everything()
    pks = set(UsageRecord.objects.values_list("pk", flat=True))
    rollups.roll_up_open(organization=retail, now=now)
    assert everything() == first
    assert set(UsageRecord.objects.values_list("pk", flat=True)) == pks
    sealed = UsageRecord.objects.filter(sealed_at__isnull=False)
    assert {row.hour.hour for row in sealed} == {12, 13}
    start = NOW - timedelta(hours=10)
    rollups.roll_up(organization=retail, start=start, end=now + timedelta(hours=1), now=now)
    assert everything() == first


def test_what_is_no_longer_true_of_an_open_hour_goes() -> None:
    retail = make_organization()
    held = make_held(retail)
    rollups.roll_up_open(organization=retail, now=NOW + timedelta(minutes=10))
    held.released_at = NOW + timedelta(minutes=5)
    held.subject_name = "renamed"
    held.save()
    rollups.roll_up_open(organization=retail, now=NOW + timedelta(minutes=20))
    row = UsageRecord.objects.get()
    assert (row.subject_name, int(row.quantity)) == ("renamed", 300)


def test_days_without_a_roll_up_are_made_up_for() -> None:
    retail = make_organization()
    make_held(retail, held_at=NOW - timedelta(days=3), purpose=Purpose.TRAINING)
    rollups.roll_up_open(organization=retail, now=NOW - timedelta(days=2, hours=20))
    rollups.roll_up_open(organization=retail, now=NOW)
    total = sum(row.quantity for row in UsageRecord.objects.all())
    assert total == 3 * 24 * 3600
    assert UsageRecord.objects.filter(sealed_at__isnull=True).count() == 2


def test_the_sweep_visits_those_who_did_something() -> None:
    retail, bank = make_organization(), make_organization("bank")
    make_organization("idle")
    make_held(retail)
    tell(make_event(bank))
    ingest.ingest(now=NOW)
    found = rollups.list_active_organizations(now=NOW)
    assert {each.slug for each in found} == {"retail", "bank"}
    tasks.roll_up()
    assert UsageRecord.objects.of(retail).exists()
