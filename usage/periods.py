"""Spans of time as people write them."""

import re
import zoneinfo
from datetime import UTC, date, datetime, time, timedelta

from accounts.models import Organization
from common.errors import InvalidInput
from usage.sealing import HOUR, hour_of

MONTH = re.compile(r"(\d{4})-(\d{2})")
LONGEST = timedelta(days=400)


def month(organization: Organization, text: str) -> tuple[datetime, datetime]:
    """From the first midnight of `YYYY-MM` to that of the next month, where the organization is."""
    found = MONTH.fullmatch(text)
    try:
        if found is None:
            raise ValueError
        first = date(int(found[1]), int(found[2]), 1)
    except ValueError:
        raise InvalidInput(
            f"{text!r} is no month.", field="month", remedy="Write it YYYY-MM."
        ) from None
    following = date(first.year + first.month // 12, first.month % 12 + 1, 1)
    return _midnight(organization, first), _midnight(organization, following)


def month_of(organization: Organization, at: datetime) -> str:
    """The month in which `at` is, where the organization is, as YYYY-MM."""
    return f"{at.astimezone(zoneinfo.ZoneInfo(organization.time_zone)):%Y-%m}"


def span(
    organization: Organization, *, start: str, end: str, now: datetime, days: int
) -> tuple[datetime, datetime]:
    """Full hours around `start` to `end`, ISO dates or times; what is empty is `days` ago, and now.

    A date alone is midnight where the organization is, and as an end includes that day. Raises
    InvalidInput.
    """
    last = _moment(organization, end, field="to", whole_day=True) if end else now
    first = _moment(organization, start, field="from") if start else last - timedelta(days=days)
    if first >= last:
        raise InvalidInput("The span is empty.", field="from", remedy="Begin before its end.")
    if last - first > LONGEST:
        raise InvalidInput(f"At most {LONGEST.days} days at once.", field="from")
    return hour_of(first), hour_of(last - timedelta(microseconds=1)) + HOUR


def _moment(
    organization: Organization, text: str, *, field: str, whole_day: bool = False
) -> datetime:
    try:
        if len(text) == len("YYYY-MM-DD"):
            day = date.fromisoformat(text)
            return _midnight(organization, day + timedelta(days=1) if whole_day else day)
        at = datetime.fromisoformat(text.replace(" ", "+"))  # an unescaped + in a URL
    except (ValueError, OverflowError):
        raise InvalidInput(
            f"{text!r} is no time.", field=field, remedy="Write it like 2026-11-23T14:00:00Z."
        ) from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _midnight(organization: Organization, day: date) -> datetime:
    zone = zoneinfo.ZoneInfo(organization.time_zone)
    return datetime.combine(day, time(), zone).astimezone(UTC)
