"""What was used, added up for people and programs."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from django.db.models import Max, Sum

from accounts.models import Organization
from usage.models import UsageRecord

GROUPS = {"model": "model_name", "key": "key_id", "hour": "hour", "item": "item"}


@dataclass(slots=True)
class UsageRow:
    """One group, with its quantities by item."""

    group: str
    name: str
    quantities: dict[str, Decimal] = field(default_factory=dict)


def list_usage(
    *, organization: Organization, start: datetime, end: datetime, group_by: str
) -> list[UsageRow]:
    """Records of the hours from `start` until before `end`, added up by model, key, hour or item.

    What does not belong to a model or a key, such as accelerators held, is in the group "".
    """
    column = GROUPS[group_by]
    rows = (
        UsageRecord.objects.of(organization)
        .filter(hour__gte=start, hour__lt=end)
        .order_by()
        .values(*{column, "item"})
        .annotate(total=Sum("quantity"), named=Max("key_name"))
    )
    found: dict[str, UsageRow] = {}
    for row in rows:
        value = row[column]
        group = value.isoformat() if isinstance(value, datetime) else str(value or "")
        name = (row["named"] if group_by == "key" else group) or group
        entry = found.setdefault(group, UsageRow(group, name))
        entry.quantities[row["item"]] = row["total"]
    return [found[group] for group in sorted(found)]
