"""What is free each month: entries are added and end, they never change."""

from datetime import datetime
from decimal import Decimal

from django.db import transaction
from django.db.models import Q

from accounts import audit
from accounts.models import Organization
from chips.choices import PriceItem
from chips.models import FreeAllowance
from chips.services.prices import TOKEN_ITEMS
from common import locks
from common.errors import InvalidInput


@transaction.atomic
def set_allowance(
    *,
    item: str,
    quantity: Decimal,
    model_name: str = "",
    organization: Organization | None = None,
    valid_from: datetime,
    note: str = "",
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> FreeAllowance:
    """So much of an item is free each month, from the month of `valid_from` on; 0 ends it.

    `quantity` is in the unit of the item's price. The entry before it, for the same item, model and
    organization, ends there. Raises InvalidInput.
    """
    _check(item=item, quantity=quantity, model_name=model_name)
    locks.lock_until_commit("chips.prices")
    scope = {"item": item, "model_name": model_name, "organization": organization}
    rows = FreeAllowance.objects.filter(**scope)
    if rows.filter(valid_from__gte=valid_from).exists():
        raise InvalidInput(
            "An allowance for the same starts then or later.",
            field="valid_from",
            remedy="Choose a later start.",
        )
    running = rows.filter(Q(valid_until__isnull=True) | Q(valid_until__gt=valid_from)).first()
    if running is not None:
        running.valid_until = valid_from
        running.save(update_fields=["valid_until"])
    entry = FreeAllowance.objects.create(
        **scope, quantity=quantity, valid_from=valid_from, note=note[:200]
    )
    audit.record(
        organization=organization,
        actor=actor,
        action="allowance.set",
        object_id=entry.pk,
        object_name=item,
        before={"quantity": str(running.quantity)} if running else {},
        after={
            "quantity": str(quantity),
            "model_name": model_name,
            "valid_from": valid_from.isoformat(),
        },
        now=now,
    )
    return entry


def _check(*, item: str, quantity: Decimal, model_name: str) -> None:
    if item not in PriceItem.values:
        raise InvalidInput(
            f"{item} is not priced.", field="item", remedy=f"Use {', '.join(PriceItem.values)}."
        )
    if not quantity.is_finite() or not 0 <= quantity < 10**12:
        raise InvalidInput(
            f"{quantity} is no quantity.", field="quantity", remedy="Give an amount from 0 on."
        )
    if model_name and item not in TOKEN_ITEMS:
        raise InvalidInput(
            "Only tokens are counted by model.", field="model_name", remedy="Leave it out."
        )
