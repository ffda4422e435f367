"""Where a replica would fit: pool by pool, with the planner's own reasons. Holds nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal

from accounts.models import Organization, Quota
from chips import planning as chip_planning
from chips import selectors as chips
from chips.choices import PriceItem
from chips.models import AcceleratorType, Node
from deployments import planning
from deployments.models import Variant
from deployments.services import checks
from deployments.variants import Content
from models_registry.models import Revision
from planner import placement
from planner.placement import AcceleratorRequest, CandidateNode, CandidatePool, Placement, Refusal


@dataclass(frozen=True, kw_only=True)
class PoolOption:
    """One pool's answer. Where nothing fits, `reasons` say why, the nearest to fitting first, and
    `may_wait` whether the same request may fit later without anybody changing it."""

    pool_name: str
    replicas_now: int  # that find room at this moment, at most as many as were asked for
    accelerator_type: str = ""  # its name for people
    accelerator_type_slug: str = ""
    node_name: str = ""  # of the first one
    accelerators_per_replica: Decimal = Decimal(0)  # held by each; 0.25 is a slot of four
    price_per_hour: Decimal | None = None  # of one replica; None where no price is set
    currency: str = ""
    reasons: Sequence[str] = ()
    may_wait: bool = False

    @property
    def fits(self) -> bool:
        return self.replicas_now > 0


@dataclass(frozen=True, kw_only=True)
class ServingPlan:
    """What one replica needs, and what each pool says to it: those that fit first, the cheapest
    of them before all others."""

    memory_bytes: int | None  # the least that a replica does with; None where nobody knows
    context_tokens: int
    options: Sequence[PoolOption]


def plan_serving(
    *,
    organization: Organization,
    revision: Revision,
    content: Content,
    replicas: int,
    now: datetime,
) -> ServingPlan:
    """Every pool that the organization may use, asked for `replicas` copies of `content`.

    Raises what creating such a deployment would: InvalidInput by field, NotServable.
    """
    checks.check_replicas(replicas)
    checks.check_content(content, revision)
    wanted = Variant(
        revision=revision,
        engine=content.engine,
        slots_per_replica=content.slots_per_replica,
        accelerators_per_replica=content.accelerators_per_replica,
        pool_name=content.pool_name,
        settings=dict(content.settings),
    )
    request = planning.accelerator_request(wanted)
    pools = list(chips.list_pools(organization))
    quotas = list(Quota.objects.of(organization))
    held = chips.get_held_shares(organization) if quotas else {}
    nodes = chip_planning.candidate_nodes(Node.objects.filter(pool__in=pools))
    names = dict(AcceleratorType.objects.values_list("slug", "model"))
    options = [
        _ask(
            pool,
            [node for node in nodes if node.pool_name == pool.name],
            request,
            organization=organization,
            replicas=max(replicas, 1),
            names=names,
            now=now,
        )
        for pool in chip_planning.candidate_pools(pools, quotas=quotas, held=held)
    ]
    return ServingPlan(
        memory_bytes=request.memory_bytes,
        context_tokens=planning.context_tokens(wanted),
        options=sorted(options, key=_rank),
    )


def _rank(option: PoolOption) -> tuple[bool, int, bool, Decimal, str]:
    price = option.price_per_hour
    return (
        not option.fits,
        -option.replicas_now,
        price is None,
        price if price is not None else Decimal(0),
        option.pool_name,
    )


def _ask(
    pool: CandidatePool,
    nodes: list[CandidateNode],
    request: AcceleratorRequest,
    *,
    organization: Organization,
    replicas: int,
    names: dict[str, str],
    now: datetime,
) -> PoolOption:
    first = placement.place(request, pools=[pool], nodes=nodes)
    if isinstance(first, Refusal):
        return PoolOption(
            pool_name=pool.name,
            replicas_now=0,
            reasons=[str(line["message"]) for line in first.by_pool()],
            may_wait=first.is_passing,
        )
    answer: Placement | Refusal = first
    found = 0
    while found < replicas and isinstance(answer, Placement):
        found += 1
        nodes = [_without(node, answer) for node in nodes]
        if pool.accelerators_left is not None:
            pool = replace(pool, accelerators_left=pool.accelerators_left - answer.share)
        answer = placement.place(request, pools=[pool], nodes=nodes)
    price = chips.price_at(
        item=PriceItem.ACCELERATOR_HOUR,
        at=now,
        organization=organization,
        accelerator_type_slug=first.type_slug,
        pool_name=pool.name,
    )
    share = Decimal(first.share.numerator) / Decimal(first.share.denominator)
    return PoolOption(
        pool_name=pool.name,
        replicas_now=found,
        accelerator_type=names.get(first.type_slug, first.type_slug),
        accelerator_type_slug=first.type_slug,
        node_name=first.node_name,
        accelerators_per_replica=share,
        price_per_hour=None if price is None else price.unit_price * share,
        currency="" if price is None else price.currency,
    )


def _without(node: CandidateNode, taken: Placement) -> CandidateNode:
    """The node once the placement's slots are held."""
    if node.id != taken.node_id:
        return node
    slots = set(taken.slots)
    return replace(
        node,
        accelerators=[
            replace(
                each, free_slots=frozenset(s for s in each.free_slots if (each.id, s) not in slots)
            )
            for each in node.accelerators
        ],
    )
