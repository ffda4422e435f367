"""How long pages and statements take once the ledger is full.

`python benchmarks/ledger.py [--requests 5000000] [--quick]`. Fills the ledger of one organization
with a month of requests (40 keys, 12 models; a twentieth as many again of a second one), written
with COPY, and lets the platform's own roll-up seal their hours. Then asks for every page, statement
and export that reads the ledger, `--rounds` times each, through Django's whole stack, and takes the
slowest but the first, which warms the caches, as well as that first one. Real PostgreSQL and Redis.
The last line is one JSON object; the exit status is 1 if anything takes longer than the target.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

TARGET_SECONDS = 1.0
KEYS, MODELS = 40, 12
DAYS = 30
COLUMNS = (
    "organization_id", "request_id", "at", "key_id", "key_name", "model_name", "deployment_name",
    "endpoint", "input_tokens", "cached_input_tokens", "output_tokens", "status_code",
    "is_interrupted", "is_streamed", "is_batch", "first_token_milliseconds",
    "duration_milliseconds",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="a hundredth of the requests")
    options = parser.parse_args()
    if options.quick:
        options.requests //= 100
    data = Path(tempfile.mkdtemp(prefix="ledger-")) / "data"
    data.mkdir()
    os.environ.pop("DATABASE_URL", None)
    os.environ.pop("REDIS_URL", None)
    os.environ |= {"FACTORY_DATA": str(data), "DJANGO_SETTINGS_MODULE": "factory.settings.dev"}
    from factory import embedded

    embedded.start(data)
    try:
        result = run(options.requests, options.rounds)
    finally:
        embedded.stop(data)
        shutil.rmtree(data.parent, ignore_errors=True)
    for name, found in result["answers"].items():
        mark = "" if found["worst_s"] <= TARGET_SECONDS else "  too slow"
        print(f"{name:44} first {found['first_s']:7.3f} s  worst {found['worst_s']:7.3f} s{mark}")
    print(json.dumps(result))
    return 0 if result["met"] else 1


def run(requests: int, rounds: int) -> dict[str, Any]:
    subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, check=True)
    import django

    django.setup()
    from django.conf import settings

    settings.ALLOWED_HOSTS = ["*"]
    from accounts.tests.make import make_key, make_member, make_organization

    now = datetime.now(UTC)
    retail, bank = make_organization("retail"), make_organization("bank")
    secret, person = make_key(retail), make_member(retail, "ada")
    _price_all(now)

    def fill_both() -> None:
        _fill(retail, requests, now)
        _fill(bank, requests // 20, now)

    filled = _timed(fill_both)
    sealed = _timed(lambda: _roll_up([retail, bank], now))
    from usage.models import UsageEvent, UsageRecord

    answers = {
        name: _measure(ask, rounds) for name, ask in _questions(secret, person, retail, now).items()
    }
    worst = max(found["worst_s"] for found in answers.values())
    return {
        "requests": UsageEvent.objects.count(),
        "records": UsageRecord.objects.count(),
        "fill_s": round(filled, 1),
        "roll_up_s": round(sealed, 1),
        "answers": answers,
        "worst_s": worst,
        "target_s": TARGET_SECONDS,
        "met": worst <= TARGET_SECONDS,
    }


def _price_all(now: datetime) -> None:
    """Prices that change within the month, so that statements have to tell spans apart."""
    from chips.choices import PriceItem
    from usage.tests.make import make_price

    for item in (PriceItem.INPUT_TOKENS, PriceItem.CACHED_INPUT_TOKENS, PriceItem.OUTPUT_TOKENS):
        make_price(item, "2", valid_from=now - timedelta(days=90))
        make_price(item, "3", valid_from=now - timedelta(days=9))


def _fill(organization: Any, requests: int, now: datetime) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        names = ", ".join(COLUMNS)
        with cursor.copy(f"COPY usage_usageevent ({names}) FROM STDIN") as copy:
            for row in _rows(organization, requests, now):
                copy.write_row(row)
        cursor.execute("ANALYZE usage_usageevent")


def _rows(organization: Any, requests: int, now: datetime) -> Iterator[tuple[Any, ...]]:
    """In the order of their times, as they would have come."""
    chance = random.Random(5)
    step = timedelta(days=DAYS) / requests
    at = now - timedelta(days=DAYS)
    for number in range(requests):
        at += step
        key = chance.randrange(KEYS)
        model = f"model-{chance.randrange(MODELS)}"
        tokens = chance.randrange(4000)
        yield (
            organization.pk, f"{organization.slug}-{number}", at, UUID(int=key + 1), f"key {key}",
            model, model, "chat/completions", tokens, tokens // 3, chance.randrange(800), 200,
            False, number % 2 == 0, False, 80.5, 900.25,
        )  # fmt: skip


def _roll_up(organizations: list[Any], now: datetime) -> None:
    from django.db import connection

    from usage import rollups

    for organization in organizations:
        rollups.roll_up_open(organization=organization, now=now)
    with connection.cursor() as cursor:
        cursor.execute("VACUUM ANALYZE usage_usagerecord")
        cursor.execute("VACUUM ANALYZE usage_usageevent")


def _questions(
    secret: str, person: Any, organization: Any, now: datetime
) -> dict[str, Callable[[], Any]]:
    """Each page and each answer that reads the ledger."""
    from django.test import Client

    from usage import periods
    from usage.models import UsageEvent

    program = Client(headers={"Authorization": f"Bearer {secret}"})
    browser = Client()
    browser.force_login(person)
    # The month before this one and this one: between them they hold all requests.
    this = periods.month_of(organization, now)
    before = periods.month_of(organization, now - timedelta(days=DAYS))
    days = f"from={now - timedelta(days=DAYS):%Y-%m-%d}&to={now:%Y-%m-%d}"
    events = UsageEvent.objects.of(organization).order_by("pk")
    middle = events.values_list("pk", flat=True)[events.count() // 2]
    by_rest = {
        **{f"usage by {by}": f"usage/?{days}&group_by={by}" for by in ("model", "key", "hour")},
        "statement": f"statement/?{days}",
        **{
            f"statement by {by}": f"statement/?{days}&by={by}"
            for by in ("key", "model", "cost_centre", "day")
        },
        "statement as CSV": f"statement.csv?{days}",
        "statement as PDF": f"statement.pdf?{days}",
        "export, first page": "usage-events/?limit=1000",
        "export, from the middle": f"usage-events/?limit=1000&after={middle}",
        "export of one day": "usage-events/?limit=1000&output=csv"
        f"&from={now - timedelta(days=2):%Y-%m-%d}&to={now - timedelta(days=2):%Y-%m-%d}",
        "export, nothing new": f"usage-events/?after={10**17}",
    }
    pages = {
        f"{page} page of {month}": f"/{page}/?month={month}"
        for page in ("usage", "statement")
        for month in sorted({this, before})
    }
    return {
        **{f"REST: {name}": _get(program, f"/api/v1/{path}") for name, path in by_rest.items()},
        **{f"console: {name}": _get(browser, path) for name, path in pages.items()},
    }


def _get(client: Any, path: str) -> Callable[[], Any]:
    def ask() -> None:
        answer = client.get(path)
        body = b"".join(answer.streaming_content) if answer.streaming else answer.content
        if answer.status_code != 200 or not body:
            raise SystemExit(f"{path} answered {answer.status_code}: {body[:300]!r}")

    return ask


def _measure(ask: Callable[[], Any], rounds: int) -> dict[str, float]:
    first, *more = (round(_timed(ask), 4) for _ in range(rounds + 1))
    return {"first_s": first, "worst_s": max(more)}


def _timed(work: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    raise SystemExit(main())
