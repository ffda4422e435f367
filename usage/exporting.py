"""Usage events for somebody else's books: page after page, none twice and none left out.

Events are numbered as they reach the ledger, and only one process at a time puts them there; so a
reader that goes on after the last number it saw misses none, however late one came.
"""

from dataclasses import dataclass
from datetime import datetime

from accounts.models import Organization
from common.errors import InvalidInput
from usage.models import UsageEvent

MOST = 10_000


@dataclass(frozen=True)
class Page:
    """`cursor` is what to go on after; `is_last` says that there is no more at the moment."""

    events: list[UsageEvent]
    cursor: str
    is_last: bool


def list_events(
    organization: Organization,
    *,
    after: str = "",
    limit: int = 1000,
    start: datetime | None = None,
    end: datetime | None = None,
) -> Page:
    """At most `limit` events, in the order in which they came; `start` and `end` (excluded) bound
    when they ended. Raises InvalidInput."""
    if not 1 <= limit <= MOST:
        raise InvalidInput(
            f"{limit} is no page.", field="limit", remedy=f"Ask for 1 to {MOST} events."
        )
    if after and not (after.isdigit() and len(after) < 19):
        raise InvalidInput(
            "No such cursor.", field="after", remedy="Send the cursor of the page before."
        )
    rows = UsageEvent.objects.of(organization).order_by("pk").filter(pk__gt=int(after or 0))
    if start is not None:
        rows = rows.filter(at__gte=start)
    if end is not None:
        rows = rows.filter(at__lt=end)
    events = list(rows[: limit + 1])
    is_last, events = len(events) <= limit, events[:limit]
    return Page(
        events=events, cursor=str(events[-1].pk) if events else after or "0", is_last=is_last
    )
