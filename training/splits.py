"""Holding lines out: which part, reproducibly, with all lines of one key on the same side.

Every line has a 64-bit key: of the named field's value, or of its own content where none is named,
so that repeated lines are never on both sides. Keys are put in the order of their hash with the seed
and given to the held-out splits one after the other until each has its lines; what is left is the
split to learn from. The same lines, settings and seed give the same splits on any machine.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import numpy as np

from common.texts import Text

TRAIN = "train"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,39}")
MAX_HELD_OUT = 8
FIELD_CHARACTERS = 200
U64 = np.ndarray[Any, np.dtype[np.uint64]]
I16 = np.ndarray[Any, np.dtype[np.int16]]


class PlanInvalid(ValueError):
    """Settings that cannot be followed; `field` names the one at fault."""

    def __init__(self, field: str, message: str, remedy: str) -> None:
        super().__init__(message)
        self.field, self.message, self.remedy = field, message, remedy


@dataclass(frozen=True, kw_only=True)
class SplitPlan:
    """`held_out`: by split, a share of the lines (below 1) or a count (a whole number from 1)."""

    held_out: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
    group_by: str = ""  # dotted path of a field in the source rows

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Raises PlanInvalid."""
        unknown = sorted(data.keys() - {"held_out", "seed", "group_by"})
        if unknown:
            raise PlanInvalid(
                unknown[0], Text("This is no setting."), Text("Use held_out, seed, group_by.")
            )
        held_out, seed = data.get("held_out", {}), data.get("seed", 0)
        group_by = data.get("group_by") or ""
        if not isinstance(held_out, Mapping) or not 1 <= len(held_out) <= MAX_HELD_OUT:
            raise PlanInvalid(
                "held_out",
                Text("No split is held out."),
                Text('Give such as {"heldout": 0.1}, or a count.'),
            )
        for name, amount in held_out.items():
            _check_amount(name, amount)
        if sum(amount for amount in held_out.values() if amount < 1) >= 1:
            raise PlanInvalid(
                "held_out", Text("Nothing is left to learn from."), Text("Hold out less.")
            )
        if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**63:
            raise PlanInvalid(
                "seed", Text("A seed is a whole number from 0."), Text("Give such as 7.")
            )
        if not isinstance(group_by, str) or len(group_by) > FIELD_CHARACTERS:
            raise PlanInvalid(
                "group_by", Text("This is no field's name."), Text("Give such as customer_id.")
            )
        return cls(held_out=dict(held_out), seed=seed, group_by=group_by)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class TooFewGroups(ValueError):
    """The lines cannot be held out as asked without breaking a group."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def key_of(value: object) -> int:
    """A line's key: 64 bits of its group's value, or of its canonical bytes."""
    data = value if isinstance(value, bytes) else repr(value).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def value_at(row: Any, path: str) -> Any:
    """What a row has at a dotted path; None for nothing."""
    if isinstance(row, dict) and path in row:
        return row[path]
    for part in path.split("."):
        if not isinstance(row, dict):
            return None
        row = row.get(part)
    return row


def assign(keys: U64, plan: SplitPlan) -> tuple[list[str], I16]:
    """The names of the splits, the one to learn from first, and for each line which of them.

    Held-out splits come as near to what was asked as whole groups allow and never past it, but for a
    group each. Raises TooFewGroups where one of them, or what is left, would be empty.
    """
    names = [TRAIN, *sorted(plan.held_out)]
    groups, group_of, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    order = np.argsort(_mixed(groups, plan.seed), kind="stable")
    side = np.zeros(len(groups), dtype=np.int16)
    for number, name in enumerate(names[1:], start=1):
        amount = plan.held_out[name]
        wanted = int(amount) if amount >= 1 else max(1, round(amount * len(keys)))
        if not _take(order, sizes, side, number, wanted):
            raise TooFewGroups(
                Text(
                    "%(groups)s groups in %(keys)s lines are too few to hold out %(name)s.",
                    groups=f"{len(groups):,}",
                    keys=f"{len(keys):,}",
                    name=name,
                )
            )
    if not (side == 0).any():
        raise TooFewGroups(Text("Nothing is left to learn from."))
    return names, side[group_of.reshape(-1)]


def _take(order: Any, sizes: Any, side: I16, number: int, wanted: int) -> bool:
    """Mark free groups with `number` until there are `wanted` lines; false if there are none."""
    free = order[side[order] == 0]
    taken, smallest = 0, None
    for group in free:
        size = int(sizes[group])
        if taken + size <= wanted:
            side[group] = number
            taken += size
            if taken == wanted:
                break
        elif smallest is None or size < sizes[smallest]:
            smallest = group
    if not taken and smallest is not None:  # every group is larger than what was asked for
        side[smallest] = number
        taken = int(sizes[smallest])
    return taken > 0


def _mixed(keys: U64, seed: int) -> U64:
    """A bijection of 64 bits for each seed (SplitMix64's finalizer)."""
    mixed = keys ^ np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64)
    with np.errstate(over="ignore"):
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _check_amount(name: Any, amount: Any) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name) or name == TRAIN:
        raise PlanInvalid(
            "held_out",
            Text("%(name)s cannot be the name of a held-out split.", name=repr(name)),
            Text("Use small letters, digits, hyphens and underscores, not train."),
        )
    is_number = isinstance(amount, int | float) and not isinstance(amount, bool)
    if not is_number or not amount > 0 or (amount > 1 and amount != int(amount)):
        raise PlanInvalid(
            "held_out",
            Text("%(amount)s of the lines cannot be held out.", amount=repr(amount)),
            Text("Give a share below 1, such as 0.1, or a count of lines."),
        )
