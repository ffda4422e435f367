"""What a run has cost so far: accelerators held by time, and tokens, by the prices of each start."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from chips import selectors as chips
from chips.choices import PriceItem
from chips.models import Allocation
from training.models import TrainingRun

MILLION = Decimal(10**6)


@dataclass(frozen=True)
class Cost:
    """`amount` is None where nothing is priced, or in more than one currency."""

    accelerator_seconds: Decimal
    amount: Decimal | None
    currency: str


def so_far(run: TrainingRun, *, now: datetime) -> Cost:
    """An estimate until the hours are sealed: the statement has the last word."""
    seconds, amount, currencies = Decimal(0), Decimal(0), set()
    for row in Allocation.objects.of(run.organization).filter(holder_id=run.pk):
        held = Decimal(str(((row.released_at or now) - row.held_at).total_seconds()))
        share = held * row.accelerator_share
        seconds += share
        price = chips.price_at(
            item=PriceItem.ACCELERATOR_HOUR,
            at=row.held_at,
            organization=run.organization,
            accelerator_type_slug=row.accelerator_type_slug,
            pool_name=row.pool_name,
        )
        if price is not None:
            amount += price.unit_price * share / 3600
            currencies.add(price.currency)
    tokens = chips.price_at(
        item=PriceItem.TRAINING_TOKENS,
        at=run.ended_at or now,
        organization=run.organization,
        model_name=run.base_revision.registered_model.name,
    )
    if tokens is not None:
        amount += tokens.unit_price * run.tokens_total / MILLION
        currencies.add(tokens.currency)
    if len(currencies) != 1:
        return Cost(seconds, None, "")
    return Cost(seconds, amount, currencies.pop())
