"""The explorer's sums are the ledger's."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import pytest

from accounts.models import Organization
from accounts.tests.make import NOW, make_organization
from chips.choices import PriceItem
from common.errors import InvalidInput
from usage import explorer, periods, statements
from usage.explorer import Question
from usage.models import UsageEvent
from usage.tests.make import make_event, make_price, tell

pytestmark = pytest.mark.django_db

START, END = periods.month(Organization(time_zone="UTC"), f"{NOW:%Y-%m}")
BY_MODEL = Question(measure="tokens", by="model", step="day", start=START, end=END)
KEYS = [UUID(int=1), UUID(int=2)]


def tell_some() -> Organization:
    """Three models, two keys, over four days, at prices that change once."""
    make_price(PriceItem.INPUT_TOKENS, "2", valid_until=NOW - timedelta(days=2))
    make_price(PriceItem.INPUT_TOKENS, "7", valid_from=NOW - timedelta(days=2))
    make_price(PriceItem.CACHED_INPUT_TOKENS, "0.5")
    make_price(PriceItem.OUTPUT_TOKENS, "11")
    make_price(PriceItem.OUTPUT_TOKENS, "90", model_name="big")
    organization = make_organization()
    for number in range(40):
        tell(
            make_event(
                organization,
                at=(NOW - timedelta(hours=number * 2)).timestamp(),
                model_name=["tiny", "big", "chat"][number % 3],
                key_id=str(KEYS[number % 2]),
                key_name=f"key {number % 2}",
                input_tokens=1000 + number,
                cached_input_tokens=300,
                output_tokens=10 * number,
            )
        )
    statements.refresh(organization=organization, now=NOW + timedelta(minutes=5))
    return organization


@pytest.mark.parametrize("by", ["model", "key", "cost_centre"])
@pytest.mark.parametrize("step", ["day", "hour"])
def test_tokens_and_money_are_the_statements(by, step):
    organization = tell_some()
    question = replace(
        BY_MODEL, by=by, step=step, start=NOW - timedelta(days=5), end=NOW + timedelta(hours=1)
    )
    owed = statements.computed(organization=organization, start=question.start, end=question.end)
    tokens = explorer.explore(organization, question)
    requests = explorer.explore(organization, replace(question, measure="requests"))
    money = explorer.explore(organization, replace(question, measure="money"))
    assert tokens.total == sum(1000 + number + 10 * number for number in range(40))
    assert requests.total == 40
    assert money.currency == "USD"
    # each step rounds its own lines to a millionth
    assert abs(money.total - owed.total) < Decimal("0.000001") * len(money.steps) * 20
    for answer in (tokens, requests, money):
        for group in answer.groups:
            assert sum(value or 0 for value in group.values) == pytest.approx(
                float(group.total or 0)
            )


def test_groups_are_named_and_the_largest_first():
    organization = tell_some()
    by_key = explorer.explore(organization, replace(BY_MODEL, by="key"))
    assert {group.label for group in by_key.groups} == {"key 0", "key 1"}
    totals = [group.total or 0 for group in by_key.groups]
    assert totals == sorted(totals, reverse=True)
    narrow = explorer.explore(organization, replace(BY_MODEL, key_id=KEYS[0], model_name="tiny"))
    assert [group.label for group in narrow.groups] == ["tiny"]
    assert narrow.total < by_key.total


def test_what_there_is_no_room_for_is_one_group():
    organization = make_organization()
    tell(*(make_event(organization, model_name=f"m{n}", input_tokens=n) for n in range(1, 13)))
    statements.refresh(organization=organization, now=NOW + timedelta(minutes=5))
    answer = explorer.explore(organization, BY_MODEL)
    assert len(answer.groups) == explorer.MOST_GROUPS
    assert answer.groups[-1].is_rest
    assert answer.total == sum(range(1, 13)) + 12 * 10


def test_days_begin_where_the_organization_is():
    organization = make_organization(time_zone="Asia/Shanghai")
    late = datetime(2026, 11, 22, 16, 30, tzinfo=UTC)  # half past midnight of the 23rd there
    tell(make_event(organization, at=late.timestamp()))
    statements.refresh(organization=organization, now=NOW)
    question = replace(BY_MODEL, start=late - timedelta(days=2), end=NOW)
    answer = explorer.explore(organization, question)
    (group,) = answer.groups
    by_day = {
        f"{step:%m-%d}": value for step, value in zip(answer.steps, group.values, strict=True)
    }
    assert by_day["11-23"] == 110
    assert by_day["11-22"] == 0


def make_row(minutes: int, **fields) -> UsageEvent:
    values = {
        "organization": make_organization(),
        "request_id": str(uuid4()),
        "model_name": "tiny",
        "at": NOW - timedelta(minutes=minutes),
        "is_streamed": True,
    }
    return UsageEvent.objects.create(**(values | fields))


def test_errors_and_times_come_from_single_requests():
    for number in range(100):
        make_row(1 + number % 50, first_token_milliseconds=float(number))
    for status in (500, 503, 429, 499):
        make_row(3, status_code=status, is_streamed=False)
    question = replace(
        BY_MODEL,
        measure="errors",
        step="hour",
        start=NOW - timedelta(hours=2),
        end=NOW + timedelta(hours=1),
    )
    errors = explorer.explore(make_organization(), question)
    assert errors.total == 3
    times = explorer.explore(make_organization(), replace(question, measure="first_token"))
    (group,) = times.groups
    assert (group.total, group.values) == (None, [None, pytest.approx(94.05), None])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"measure": "beauty"}, "measure"),
        ({"by": "mood"}, "by"),
        ({"step": "hour"}, "step"),
        ({"measure": "errors"}, "from"),
        (
            {"measure": "errors", "by": "cost_centre", "start": END - timedelta(days=2)},
            "by",
        ),
    ],
)
def test_what_cannot_be_shown_is_refused_with_its_field(changes, field):
    with pytest.raises(InvalidInput) as refused:
        explorer.explore(make_organization(), replace(BY_MODEL, **changes))
    assert refused.value.field == field
