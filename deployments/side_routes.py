"""Names for either side of a rollout whose gate waits for an evaluation.

`support@rollout-3` leads to the new replicas of rollout 3 alone and `support@before-3` to the old
ones, both for the deployment's organization alone, and only while the gate waits. So the new side
is asked through the same gateway as ever before it has any share of the requests.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

from deployments.choices import ROLLOUT_ACTIVE
from deployments.models import Rollout

if TYPE_CHECKING:
    from deployments.selectors import TargetRow


def names_of(rollout: Rollout) -> tuple[str, str]:
    """Of the new side and of the old one."""
    name = rollout.deployment.name
    return f"{name}@rollout-{rollout.number}", f"{name}@before-{rollout.number}"


def awaits_gate(rollout: Rollout) -> bool:
    """Whether an evaluation decides about it, and has not yet."""
    is_going = rollout.status in ROLLOUT_ACTIVE and not rollout.turned_back
    has_gate = rollout.plan.get("gate") is not None
    return has_gate and is_going and not rollout.verdict and rollout.promote_requested_at is None


def list_sides(
    targets: Sequence["TargetRow"], rollouts: Mapping[UUID, Rollout]
) -> Iterator[tuple[str, "TargetRow"]]:
    """By name, the sides of the deployments behind these targets. A target has all the replicas of
    its deployment."""
    for row in targets:
        rollout = rollouts.get(row.deployment_id)
        if rollout is None or not awaits_gate(rollout):
            continue
        variant = rollout.to_variant
        new_name, old_name = names_of(rollout)
        fresh = tuple(each for each in row.replicas if each.variant_id == variant.pk)
        before = tuple(each for each in row.replicas if each.variant_id != variant.pk)
        revision = variant.revision
        side = replace(row, weight=100, scales=False, is_asleep=False, is_coming=True)
        yield (
            new_name,
            replace(
                side,
                replicas=fresh,
                variant_id=variant.pk,
                revision_id=revision.pk,
                revision_name=str(revision),
            ),
        )
        yield (
            old_name,
            replace(side, replicas=before, variant_id=before[0].variant_id if before else None),
        )
