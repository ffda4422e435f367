"""A limit set by a person is kept by a running gateway, and shown where people look."""

import time
from decimal import Decimal

import openai
import pytest
from django.conf import settings
from django.db import connections
from django.utils import timezone

from accounts import limit_usage, limits
from accounts.choices import LimitKind
from accounts.tests.make import make_organization
from gateway.limits import Limits
from gateway.limits.ledger import DatabaseLedger
from gateway.limits.shared import SharedLimits
from gateway.tests.make import make_replica, make_target

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.processes]

HELLO = [{"role": "user", "content": "hello there"}]


class Closing(DatabaseLedger):
    """Leaves no connection open that a test's database would wait for."""

    def load_rules(self):
        try:
            return super().load_rules()
        finally:
            connections.close_all()

    def load_spent(self, rule, start, end):
        try:
            return super().load_spent(rule, start, end)
        finally:
            connections.close_all()


def test_a_limit_that_is_set_is_kept_within_a_second(engine, start_gateway, secret):
    limiter = SharedLimits(Closing(), redis_url=settings.REDIS_URL, inner=Limits())
    gateway = start_gateway(make_target(make_replica(engine)), limiter=limiter)
    gateway.directory.on_limits = limiter.changed.set
    client = gateway.client(secret)
    ask = client.chat.completions.with_raw_response.create
    assert "x-ratelimit-limit-requests" not in ask(model="tiny", messages=HELLO).headers
    row = limits.create_limit(
        organization=make_organization(),
        wanted=limits.Wanted(kind=LimitKind.REQUESTS_PER_DAY, amount=Decimal(2)),
        now=timezone.now(),
    )
    told: list[object] = []
    deadline = time.monotonic() + 1
    while not told and time.monotonic() < deadline:
        answer = client.models.with_raw_response.list()  # costs nothing
        assert answer.status_code == 200
        told = [each for each in limiter._rules.values() if each.rules]
    assert told
    first = ask(model="tiny", messages=HELLO, max_tokens=1)
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    ask(model="tiny", messages=HELLO, max_tokens=1)
    with pytest.raises(openai.RateLimitError) as refused:
        ask(model="tiny", messages=HELLO, max_tokens=1)
    assert refused.value.code == "insufficient_quota"
    assert int(refused.value.response.headers["retry-after"]) <= 86_400
    assert refused.value.response.headers["x-ratelimit-remaining-requests"] == "0"
    used = limit_usage.read([row], now=timezone.now())[row.pk]
    assert used.amount == 2
