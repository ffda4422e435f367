"""What a run on a dataset version would take: steps, tokens, time, price. Nothing is guessed: what is
not known is None, and `unknown` says why.

Steps follow from examples, batch and epochs; with packing, from tokens, as rows filled to the limit.
The rate is the median of what earlier runs of the same base measured; prices are the price book's.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from statistics import median
from typing import Any

from accounts.models import Organization
from chips import selectors as chips
from chips.choices import PriceItem
from models_registry.models import Revision
from trainer.spec import Hyperparameters
from training.choices import RunStatus
from training.models import DatasetSplit, DatasetVersion, TrainingRun

RUNS_ASKED = 5  # the newest
CENT = Decimal("0.01")


@dataclass
class Estimate:
    """`seconds` of training alone, without waiting for accelerators or loading weights."""

    examples: int
    steps: int | None = None
    tokens: int | None = None
    cut_examples: int | None = None  # longer than the limit
    cut_share: float | None = None
    tokens_per_second: float | None = None
    measured_by: list[str] = field(default_factory=list)  # names of runs
    seconds: float | None = None
    price: Decimal | None = None
    currency: str = ""
    unknown: list[str] = field(default_factory=list)


def estimate(
    *,
    organization: Organization,
    version: DatasetVersion,
    base: Revision | None,
    hyperparameters: Hyperparameters,
    split: str = "train",
    tuning: str = "lora",
    accelerators: int = 1,
    pool_name: str = "",
    now: datetime,
) -> Estimate:
    """For one split of a version that is ready."""
    row = next((one for one in version.splits.all() if one.name == split), None)
    if row is None:
        return Estimate(examples=0, unknown=[f"The version has no split {split}."])
    made = Estimate(examples=row.examples)
    figures = version.report.get("splits", {}).get(split, {})
    _add_tokens(made, row, figures, hyperparameters)
    _add_steps(made, hyperparameters)
    runs = _measured(organization, base, tuning, accelerators)
    if runs:
        made.tokens_per_second = median(run.tokens_per_second or 0.0 for run in runs)
        made.measured_by = [run.name for run in runs]
    else:
        made.unknown.append(
            "No finished run of this base, tuning and number of accelerators has measured a rate."
        )
    if made.tokens is not None and made.tokens_per_second:
        made.seconds = made.tokens / made.tokens_per_second
    _add_price(made, organization, base, runs, accelerators, pool_name, now)
    return made


def tokens_within(pairs: Sequence[Sequence[int]], length: int, total: int) -> int:
    """Tokens left if examples are cut to `length`; between measured lengths on the line between."""
    before, below = 0, 0
    for at, tokens in pairs:
        if at == length:
            return tokens
        if at > length:
            return below + (tokens - below) * (length - before) // (at - before)
        before, below = at, tokens
    return total


def _add_tokens(
    made: Estimate, row: DatasetSplit, figures: Mapping[str, Any], given: Hyperparameters
) -> None:
    if row.token_count is None or "kept" not in figures:
        made.unknown.append("The tokens of this version were not counted.")
        return
    limit = given.max_length_tokens
    over = [at for at, _examples in figures["over"] if at <= limit]
    if over and over[-1] == limit:
        made.cut_examples = dict(map(tuple, figures["over"]))[limit]
    elif (row.longest_tokens or 0) <= limit:
        made.cut_examples = 0
    if made.cut_examples is not None:
        made.cut_share = made.cut_examples / max(1, row.examples)
    once = tokens_within(figures["kept"], limit, row.token_count)
    made.tokens = math.ceil(once * given.epochs)


def _add_steps(made: Estimate, given: Hyperparameters) -> None:
    rows = given.batch_size * given.gradient_accumulation
    steps: int | None = math.ceil(math.ceil(made.examples / rows) * given.epochs)
    if given.packing:
        room = rows * given.max_length_tokens
        steps = None if made.tokens is None else max(1, math.ceil(made.tokens / room))
    if steps is not None and given.max_steps is not None and given.max_steps < steps:
        if made.tokens is not None:
            made.tokens = math.ceil(made.tokens * given.max_steps / steps)
        steps = given.max_steps
    made.steps = steps


def _measured(
    organization: Organization, base: Revision | None, tuning: str, accelerators: int
) -> list[TrainingRun]:
    if base is None:
        return []
    rows = TrainingRun.objects.of(organization).filter(
        base_revision=base,
        tuning=tuning,
        accelerators_wanted=accelerators,
        status=RunStatus.SUCCEEDED,
        tokens_per_second__gt=0,
    )
    return list(rows.select_related("allocation").order_by("-created_at")[:RUNS_ASKED])


def _add_price(
    made: Estimate,
    organization: Organization,
    base: Revision | None,
    runs: Sequence[TrainingRun],
    accelerators: int,
    pool_name: str,
    now: datetime,
) -> None:
    """What the price book asks for tokens and for accelerators, as far as it has prices."""
    allocation = next((run.allocation for run in runs if run.allocation is not None), None)
    slug = allocation.accelerator_type_slug if allocation else ""
    pool = pool_name or (allocation.pool_name if allocation else "")
    hourly = chips.price_at(
        item=PriceItem.ACCELERATOR_HOUR,
        at=now,
        organization=organization,
        accelerator_type_slug=slug,
        pool_name=pool,
    )
    by_token = chips.price_at(
        item=PriceItem.TRAINING_TOKENS,
        at=now,
        organization=organization,
        model_name=str(base.registered_model) if base else "",
        pool_name=pool,
    )
    if hourly is None and by_token is None:
        made.unknown.append("The price book has no price for training.")
        return
    if hourly is not None and by_token is not None and hourly.currency != by_token.currency:
        made.unknown.append("Tokens and accelerators are priced in different currencies.")
        return
    if (hourly and made.seconds is None) or (by_token and made.tokens is None):
        return  # the reason is told already
    price = Decimal(0)
    if hourly is not None and made.seconds is not None:
        held = allocation.accelerator_share if allocation else Decimal(accelerators)
        price += hourly.unit_price * held * Decimal(made.seconds) / 3600
        made.currency = hourly.currency
    if by_token is not None and made.tokens is not None:
        price += by_token.unit_price * Decimal(made.tokens) / 1_000_000
        made.currency = by_token.currency
    made.price = price.quantize(CENT, ROUND_HALF_UP)
