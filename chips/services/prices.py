"""The price book: entries are added and end, they never change."""

from datetime import datetime
from decimal import Decimal

from django.db import transaction
from django.db.models import Q

from accounts import audit
from accounts.models import Organization
from chips.choices import PriceItem
from chips.models import AcceleratorType, Pool, PriceEntry
from common import locks
from common.errors import DomainError, InvalidInput

TOKEN_ITEMS = frozenset(PriceItem.values) - {PriceItem.ACCELERATOR_HOUR, PriceItem.STORAGE}


class PriceExists(DomainError):
    code = "price_exists"


@transaction.atomic
def set_price(
    *,
    item: str,
    unit_price: Decimal,
    currency: str = "USD",
    accelerator_type: AcceleratorType | None = None,
    pool: Pool | None = None,
    model_name: str = "",
    provider_name: str = "",
    organization: Organization | None = None,
    valid_from: datetime,
    note: str = "",
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> PriceEntry:
    """A price from a time on, until the next one for the same item and scope.

    The entry valid before ends there. The same price as already holds from then adds nothing.
    Raises InvalidInput, PriceExists if another price starts at that very time.
    """
    _check(item=item, unit_price=unit_price, currency=currency, model_name=model_name)
    locks.lock_until_commit("chips.prices")
    scope = {
        "item": item,
        "accelerator_type": accelerator_type,
        "pool": pool,
        "model_name": model_name,
        "provider_name": provider_name,
        "organization": organization,
    }
    rows = PriceEntry.objects.filter(**scope).order_by("valid_from")
    running = rows.filter(
        Q(valid_until__isnull=True) | Q(valid_until__gt=valid_from), valid_from__lte=valid_from
    ).first()
    if running is not None and running.unit_price == unit_price and running.currency == currency:
        return running
    if running is not None and running.valid_from == valid_from:
        raise PriceExists(
            f"Another price starts at {valid_from.isoformat()}.",
            field="valid_from",
            remedy="Choose a later start; that entry will end there.",
        )
    following = rows.filter(valid_from__gt=valid_from).first()
    if running is not None:
        running.valid_until = valid_from
        running.save(update_fields=["valid_until"])
    entry = PriceEntry.objects.create(
        **scope,
        unit_price=unit_price,
        currency=currency,
        valid_from=valid_from,
        valid_until=following.valid_from if following else None,
        note=note[:200],
    )
    audit.record(
        organization=organization,
        actor=actor,
        action="price.set",
        object_id=entry.pk,
        object_name=str(PriceItem(item).value),
        before={"unit_price": str(running.unit_price)} if running else {},
        after={
            "unit_price": str(unit_price),
            "currency": currency,
            "accelerator_type": accelerator_type.slug if accelerator_type else "",
            "pool": pool.name if pool else "",
            "model_name": model_name,
            "provider_name": provider_name,
            "valid_from": valid_from.isoformat(),
        },
        now=now,
    )
    return entry


def _check(*, item: str, unit_price: Decimal, currency: str, model_name: str) -> None:
    if item not in PriceItem.values:
        raise InvalidInput(
            f"{item} is not priced.", field="item", remedy=f"Use {', '.join(PriceItem.values)}."
        )
    if not unit_price.is_finite() or not 0 <= unit_price < 10**10:
        raise InvalidInput(
            f"{unit_price} is no price.", field="unit_price", remedy="Give an amount from 0 on."
        )
    if len(currency) != 3 or not currency.isascii() or not currency.isupper():
        raise InvalidInput(
            f"{currency} is no currency.", field="currency", remedy="Give its ISO 4217 code."
        )
    if model_name and item not in TOKEN_ITEMS:
        raise InvalidInput(
            "Accelerators are priced by type and pool, storage by size.",
            field="model_name",
            remedy="Leave it out.",
        )
