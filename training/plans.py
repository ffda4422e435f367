"""What a run would take before anybody pays for it: memory, steps, and pool by pool whether it
fits, how long it takes and what it costs. Holds nothing; what is not known stays None."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.db.models import Avg

from accounts.models import Organization, Quota
from chips import planning as chip_planning
from chips import selectors as chips
from chips.choices import PriceItem
from chips.models import AcceleratorType, Node
from models_registry.models import Revision
from planner import placement, training
from planner.memory import TrainingMemory
from planner.placement import AcceleratorRequest, CandidateNode, CandidatePool, Refusal
from planner.shapes import ModelShape
from planner.training import Job, Span
from training.choices import Tuning
from training.models import DatasetSplit, TrainingRun
from training.services import settling
from training.services.settling import Asked

EARLIER_RUNS = 20
MEASURED, FROM_RATE = "measured", "rate"
MILLION = Decimal(10**6)


@dataclass(frozen=True, kw_only=True)
class Money:
    """From `low` to `high`, in one currency."""

    low: Decimal
    high: Decimal
    currency: str


@dataclass(frozen=True, kw_only=True)
class RunOption:
    """One pool's answer. Where it does not fit now, `reasons` say why, and `may_wait` whether it
    may fit later without anybody changing it."""

    pool_name: str
    fits: bool
    accelerator_type: str = ""  # its name for people
    accelerator_type_slug: str = ""
    node_name: str = ""
    accelerators: int = 0
    speed: Span | None = None  # tokens a second
    speed_from: str = ""  # "measured" of earlier runs, "rate" of the data sheet, "" not known
    seconds: Span | None = None  # of training; loading and publishing come on top
    price_per_hour: Decimal | None = None
    price: Money | None = None  # of accelerators and tokens together
    currency: str = ""
    reasons: Sequence[str] = ()
    may_wait: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """`tokens` are those trained on, over all epochs."""

    asked: Asked
    examples: int
    tokens: int | None
    steps: int | None  # None with packing: it depends on lengths that only the trainer sees
    memory: TrainingMemory | None  # None where the base's files do not tell its shape
    options: Sequence[RunOption]


def plan_training(
    *,
    organization: Organization,
    base_revision_id: UUID,
    dataset_version_id: UUID,
    train_split: str = "train",
    method: str = "sft",
    tuning: str = Tuning.LORA,
    recipe: str = "",
    hyperparameters: Mapping[str, Any] | None = None,
    accelerators: int = 1,
    pool_name: str = "",
    now: datetime,
) -> TrainingPlan:
    """Every pool that the organization may use, or the one named. Raises what creating such a run
    would: InvalidInput by field, NotFound."""
    asked = settling.check_asked(
        organization=organization,
        base_revision_id=base_revision_id,
        dataset_version_id=dataset_version_id,
        train_split=train_split,
        method=method,
        tuning=tuning,
        recipe=recipe,
        hyperparameters=hyperparameters or {},
        accelerators=accelerators,
    )
    split = DatasetSplit.objects.get(version=asked.version, name=train_split)
    job = _job(asked, split, method=method, tuning=tuning)
    shape = shape_of(asked.base)
    needed = training.memory_needed(shape, job) if shape is not None else None
    steps = _steps(asked, split)
    work = _Work(
        organization=organization,
        base=asked.base,
        shape=shape,
        job=job,
        tokens=_tokens(asked, split, steps),
        accelerators=accelerators,
        max_seconds=asked.hyperparameters["max_seconds"],
        now=now,
    )
    request = AcceleratorRequest(
        accelerators=accelerators,
        memory_bytes=needed.total_bytes * accelerators if needed is not None else None,
        pool_name=pool_name or None,
    )
    return TrainingPlan(
        asked=asked,
        examples=split.examples,
        tokens=work.tokens,
        steps=steps,
        memory=needed,
        options=_options(work, request),
    )


def shape_of(base: Revision) -> ModelShape | None:
    return ModelShape.from_facts(
        parameter_count=base.parameter_count, dtype=base.dtype, facts=base.facts
    )


@dataclass(frozen=True, kw_only=True)
class _Work:
    organization: Organization
    base: Revision
    shape: ModelShape | None
    job: Job
    tokens: int | None
    accelerators: int
    max_seconds: float | None
    now: datetime


def _job(asked: Asked, split: DatasetSplit, *, method: str, tuning: str) -> Job:
    given = asked.hyperparameters
    return Job(
        method=method,
        tuning=tuning,
        batch_size=given["batch_size"],
        gradient_accumulation=given["gradient_accumulation"],
        max_length_tokens=given["max_length_tokens"],
        longest_tokens=None if given["packing"] else split.longest_tokens,
        lora_rank=given["lora_rank"],
    )


def _steps(asked: Asked, split: DatasetSplit) -> int | None:
    given = asked.hyperparameters
    if given["packing"]:
        return None
    return training.count_steps(
        split.examples,
        epochs=given["epochs"],
        examples_a_step=given["batch_size"] * given["gradient_accumulation"],
        max_steps=given["max_steps"],
    )


def _tokens(asked: Asked, split: DatasetSplit, steps: int | None) -> int | None:
    """As counted at upload; what is cut at the length limit is still among them."""
    if split.token_count is None:
        return None
    given = asked.hyperparameters
    whole = split.token_count * given["epochs"]
    if steps is not None and given["max_steps"]:
        a_step = given["batch_size"] * given["gradient_accumulation"]
        whole = min(whole, split.token_count / split.examples * a_step * steps)
    tokens: int = round(whole)
    return tokens


def _options(work: _Work, request: AcceleratorRequest) -> list[RunOption]:
    pools = [
        pool
        for pool in chips.list_pools(work.organization)
        if request.pool_name in (None, pool.name)
    ]
    quotas = list(Quota.objects.of(work.organization))
    held = chips.get_held_shares(work.organization) if quotas else {}
    nodes = chip_planning.candidate_nodes(Node.objects.filter(pool__in=pools))
    types = {row.slug: row for row in AcceleratorType.objects.all()}
    found = [
        _ask(
            pool,
            [node for node in nodes if node.pool_name == pool.name],
            request,
            work=work,
            types=types,
        )
        for pool in chip_planning.candidate_pools(pools, quotas=quotas, held=held)
    ]
    return sorted(found, key=_rank)


def _rank(option: RunOption) -> tuple[bool, bool, Decimal, str]:
    price = option.price.high if option.price is not None else option.price_per_hour
    return (not option.fits, price is None, price or Decimal(0), option.pool_name)


def _ask(
    pool: CandidatePool,
    nodes: list[CandidateNode],
    request: AcceleratorRequest,
    *,
    work: _Work,
    types: Mapping[str, AcceleratorType],
) -> RunOption:
    found = placement.place(request, pools=[pool], nodes=nodes)
    if isinstance(found, Refusal):
        return RunOption(
            pool_name=pool.name,
            fits=False,
            reasons=[str(line["message"]) for line in found.by_pool()],
            may_wait=found.is_passing,
        )
    kind = types[found.type_slug]
    speed, source = _speed(work, kind)
    seconds = None
    if work.tokens is not None:
        seconds = training.seconds_for(work.tokens, speed, max_seconds=work.max_seconds)
    price = chips.price_at(
        item=PriceItem.ACCELERATOR_HOUR,
        at=work.now,
        organization=work.organization,
        accelerator_type_slug=kind.slug,
        pool_name=pool.name,
    )
    hourly = None if price is None else price.unit_price * work.accelerators
    currency = "" if price is None else price.currency
    return RunOption(
        pool_name=pool.name,
        fits=True,
        accelerator_type=str(kind),
        accelerator_type_slug=kind.slug,
        node_name=found.node_name,
        accelerators=work.accelerators,
        speed=speed,
        speed_from=source,
        seconds=seconds,
        price_per_hour=hourly,
        price=_price(work, seconds, hourly, currency),
        currency=currency,
    )


def _speed(work: _Work, kind: AcceleratorType) -> tuple[Span | None, str]:
    """Measured speeds come before what a data sheet lets one hope for."""
    measured = training.speed_from_runs(_earlier_speeds(work, kind.slug))
    if measured is not None:
        return measured, MEASURED
    if work.shape is None:
        return None, ""
    rated = training.speed_from_rate(work.shape, work.job, bf16_flops=kind.bf16_flops)
    return (None, "") if rated is None else (rated.times(work.accelerators), FROM_RATE)


def _earlier_speeds(work: _Work, slug: str) -> list[float]:
    """Mean tokens a second of the newest runs on as many accelerators of the type, with a base of
    the same shape, trained the same way. Anybody's: a speed is the platform's, and tells of no
    row; whose it was, and on what data, is not told."""
    rows = (
        TrainingRun.objects.filter(
            method=work.job.method,
            tuning=work.job.tuning,
            base_revision__model_type=work.base.model_type,
            base_revision__parameter_count=work.base.parameter_count,
            allocation__accelerator_type_slug=slug,
            accelerators_wanted=work.accelerators,
        )
        .annotate(speed=Avg("metrics__tokens_per_second"))
        .filter(speed__isnull=False)
        .order_by("-created_at")
    )
    return list(rows.values_list("speed", flat=True)[:EARLIER_RUNS])


def _price(
    work: _Work, seconds: Span | None, hourly: Decimal | None, currency: str
) -> Money | None:
    """Of accelerators by time and of tokens; None where a part is priced and its amount not known,
    or where the parts are priced in different currencies."""
    low = high = Decimal(0)
    if hourly is not None:
        if seconds is None:
            return None
        low, high = (hourly * Decimal(each) / 3600 for each in (seconds.low, seconds.high))
    tokens = chips.price_at(
        item=PriceItem.TRAINING_TOKENS,
        at=work.now,
        organization=work.organization,
        model_name=work.base.registered_model.name,
    )
    if tokens is not None:
        if work.tokens is None or (currency and tokens.currency != currency):
            return None
        added = tokens.unit_price * work.tokens / MILLION
        low, high, currency = low + added, high + added, tokens.currency
    return Money(low=low, high=high, currency=currency) if currency else None
