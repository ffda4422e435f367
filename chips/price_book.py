"""The price book as one organization sees it, read once and looked up as often as wanted."""

from collections import defaultdict
from datetime import datetime

from django.db.models import Q

from accounts.models import Organization
from chips.models import FreeAllowance, PriceEntry


class PriceBook:
    """What `selectors.price_at` answers, without asking the database again."""

    def __init__(self, organization: Organization) -> None:
        mine = Q(organization=None) | Q(organization=organization)
        rows = PriceEntry.objects.filter(mine).select_related("accelerator_type", "pool")
        self._entries: dict[str, list[PriceEntry]] = defaultdict(list)
        for row in sorted(rows, key=_how_specific, reverse=True):
            self._entries[row.item].append(row)
        self._allowances = list(FreeAllowance.objects.filter(mine))

    def at(
        self,
        *,
        item: str,
        at: datetime,
        accelerator_type_slug: str = "",
        pool_name: str = "",
        model_name: str = "",
        provider_name: str = "",
    ) -> PriceEntry | None:
        """The most specific price valid at a time, or None where the price book has none. What a
        provider answered has that provider's prices alone."""
        for row in self._entries.get(item, ()):
            if (
                row.valid_from <= at
                and (row.valid_until is None or at < row.valid_until)
                and row.provider_name == provider_name
                and row.model_name in ("", model_name)
                and (row.pool is None or row.pool.name == pool_name)
                and (
                    row.accelerator_type is None
                    or row.accelerator_type.slug == accelerator_type_slug
                )
            ):
                return row
        return None

    def changes(self) -> list[datetime]:
        """When any price begins or ends, in order."""
        ends = (
            (row.valid_from, row.valid_until) for rows in self._entries.values() for row in rows
        )
        return sorted({at for pair in ends for at in pair if at is not None})

    def allowances(self, *, start: datetime, end: datetime) -> list[FreeAllowance]:
        """What is free in a month: of each item and model the one that began last, an
        organization's own instead of those for all; those that name a model first."""
        valid = [
            row
            for row in self._allowances
            if row.valid_from < end and (row.valid_until is None or row.valid_until > start)
        ]
        own = {row.item for row in valid if row.organization_id is not None}
        found: dict[tuple[str, str], FreeAllowance] = {}
        for row in sorted(valid, key=lambda row: (row.valid_from, row.pk)):
            if row.item not in own or row.organization_id is not None:
                found[row.item, row.model_name] = row
        return sorted(
            found.values(), key=lambda row: (row.item, not row.model_name, row.model_name)
        )


def _how_specific(row: PriceEntry) -> tuple[int, datetime, object]:
    named = (
        4 * (row.organization_id is not None)
        + bool(row.model_name)
        + (row.pool_id is not None)
        + (row.accelerator_type_id is not None)
    )
    return named, row.valid_from, row.pk
