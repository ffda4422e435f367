"""Issued statements, their PDF, and events for other books."""

import base64
import csv
import io
import re
import zlib
from datetime import timedelta
from decimal import Decimal

import pytest
from django.test import Client
from django.utils import translation

from accounts.choices import Scope
from accounts.models import AuditEvent
from accounts.tests.make import NOW, make_key, make_organization
from chips.choices import PriceItem
from common.errors import InvalidInput
from usage import issuing, paper, periods, statements
from usage.models import IssuedStatement, UsageEvent
from usage.tests.make import make_event, make_price, tell

pytestmark = pytest.mark.django_db

MONTH = f"{NOW:%Y-%m}"
LATER = NOW + timedelta(days=40)


def issued(**fields) -> IssuedStatement:
    """Of a month in which 100 tokens came in and 10 went out, unless `fields` say otherwise."""
    make_price(PriceItem.INPUT_TOKENS, "2")
    make_price(PriceItem.OUTPUT_TOKENS, "10")
    tell(make_event(**fields))
    return issuing.issue(organization=make_organization(), month=MONTH, now=LATER)


def get(secret: str, path: str, **query: str):
    return Client().get(f"/api/v1/{path}", query, headers={"Authorization": f"Bearer {secret}"})


def test_an_issued_statement_stays_as_it_was():
    row = issued()
    assert (row.name, row.total) == ("retail-00001", Decimal("0.0003"))
    before = issuing.of_month(organization=row.organization, month=MONTH, now=LATER)
    assert (before.number, before.is_final, before.total) == (row.name, True, row.total)
    make_price(PriceItem.INPUT_TOKENS, "500", valid_from=NOW - timedelta(days=29))
    tell(make_event())
    again = issuing.of_month(
        organization=row.organization, month=MONTH, now=LATER + timedelta(hours=1)
    )
    assert again == before
    assert issuing.issue(organization=row.organization, month=MONTH, now=LATER) == row
    assert IssuedStatement.objects.count() == 1


def test_what_is_read_is_what_was_computed():
    row = issued()
    start, end = periods.month(row.organization, MONTH)
    computed = statements.computed(organization=row.organization, start=start, end=end)
    frozen = issuing.read(row)
    assert frozen.lines == computed.lines
    assert frozen.parts == computed.parts
    assert [each.quantities for each in frozen.shares("day")] == [
        each.quantities for each in computed.shares("day")
    ]


def test_a_month_that_goes_on_is_not_issued():
    organization = make_organization()
    tell(make_event())
    with pytest.raises(issuing.NotSealed) as refused:
        issuing.issue(organization=organization, month=MONTH, now=NOW)
    assert refused.value.field == "month"
    with pytest.raises(InvalidInput):
        issuing.issue(organization=organization, month="november", now=NOW)


def test_what_comes_late_stands_on_a_later_statement():
    row = issued()
    tell(make_event())  # of the month that was issued
    statements.refresh(organization=row.organization, now=LATER + timedelta(hours=1))
    following = f"{LATER:%Y-%m}"
    much_later = LATER + timedelta(days=40)
    later = issuing.issue(organization=row.organization, month=following, now=much_later)
    lines = issuing.read(later).lines
    assert {line.what.of_month for line in lines} == {MONTH}
    assert later.total == row.total
    assert later.number == 2


def test_a_statement_that_was_tampered_with_is_not_shown():
    row = issued()
    row.body["lines"][0]["quantity"] = "1"
    row.save(update_fields=["body"])
    with pytest.raises(issuing.Altered):
        issuing.of_month(organization=row.organization, month=MONTH, now=LATER)


def test_the_audit_log_knows_its_digest():
    row = issued()
    event = AuditEvent.objects.get(action="statement.issue")
    assert event.after["digest"] == row.digest


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_a_pdf_has_all_lines_in_the_readers_language(language):
    row = issued(model_name="客服 <tiny> & co")
    with translation.override(language):
        data = paper.render(issuing.read(row))
        word = translation.gettext("To be paid")
    text = text_of(data)
    assert data.startswith(b"%PDF-")
    assert "客服 <tiny> & co" in text
    assert row.name in text
    assert word in text


def test_a_pdf_of_many_lines_has_pages():
    make_price(PriceItem.INPUT_TOKENS, "2")
    tell(*(make_event(model_name=f"model-{number}") for number in range(60)))
    start, end = periods.month(make_organization(), MONTH)
    found = statements.statement(organization=make_organization(), start=start, end=end, now=NOW)
    text = text_of(paper.render(found))
    assert all(f"model-{number}" in text for number in range(60))
    assert "not issued" in text


def text_of(pdf: bytes) -> str:
    """What its pages say: UCS-2 strings, as the fonts for Chinese take them."""
    found = []
    for raw in re.findall(rb"stream\r?\n(.*?)endstream", pdf, re.DOTALL):
        page = zlib.decompress(
            base64.a85decode(raw.strip(), adobe=False)
            if b"~>" not in raw
            else base64.a85decode(b"<~" + raw.strip(), adobe=True)
        )
        for text in re.findall(rb"\(((?:\\.|[^\\)])*)\) Tj", page, re.DOTALL):
            plain = re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8)]), text)
            plain = re.sub(rb"\\(.)", rb"\1", plain, flags=re.DOTALL)
            found.append(plain.decode("utf-16-be", "replace"))
    return "".join(found)


def test_statements_over_rest():
    secret = make_key(make_organization())
    row = issued()
    listed = get(secret, "issued-statements/").json()["results"]
    assert [(each["number"], each["month"]) for each in listed] == [(row.name, MONTH)]
    told = get(secret, "statement/", month=MONTH, by="model").json()
    assert (told["number"], told["total"], told["payable"]) == (row.name, "0.000300", "0.000000")
    assert [share["group"] for share in told["shares"]] == ["tiny"]
    assert told["lines"][0]["free_quantity"] == "0.000000"
    assert get(secret, "statement/", month=MONTH, by="mood").status_code == 400
    pdf = get(secret, "statement.pdf", month=MONTH)
    assert pdf["Content-Type"] == "application/pdf"
    assert row.name in pdf["Content-Disposition"]


def test_only_operators_issue():
    organization = make_organization()
    tell(make_event())
    body = {"month": MONTH}

    def post(secret: str):
        return Client().post(
            "/api/v1/issued-statements/",
            body,
            content_type="application/json",
            headers={"Authorization": f"Bearer {secret}"},
        )

    assert post(make_key(organization)).status_code == 403
    operator = make_key(organization, scopes=(Scope.READ, Scope.WRITE, Scope.OPERATE))
    assert post(operator).status_code == 409  # the month goes on


def test_events_are_told_once_each_however_they_come():
    organization = make_organization()
    secret = make_key(organization)
    for number in range(7):
        UsageEvent.objects.create(
            organization=organization,
            request_id=f"r-{number}",
            model_name="tiny",
            at=NOW - timedelta(minutes=number),  # the latest to come is the oldest
        )
    UsageEvent.objects.create(
        organization=make_organization("bank"), request_id="theirs", model_name="tiny", at=NOW
    )
    seen, after, last = [], "", False
    while not last:
        page = get(secret, "usage-events/", limit="3", after=after).json()
        seen += [each["request_id"] for each in page["results"]]
        after, last = page["cursor"], page["is_last"]
    assert seen == [f"r-{number}" for number in range(7)]
    assert get(secret, "usage-events/", after=after).json()["results"] == []
    UsageEvent.objects.create(
        organization=organization, request_id="r-7", model_name="tiny", at=NOW
    )
    new = get(secret, "usage-events/", after=after, output="csv")
    rows = list(csv.DictReader(io.StringIO(new.content.decode())))
    assert [row["request_id"] for row in rows] == ["r-7"]
    assert int(new["X-Cursor"]) > int(after)


@pytest.mark.parametrize(
    ("query", "field"),
    [({"limit": "0"}, "limit"), ({"limit": "many"}, "limit"), ({"after": "x"}, "after")],
)
def test_what_is_no_page_is_refused(query, field):
    answer = get(make_key(make_organization()), "usage-events/", **query)
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, field)
