"""What becomes of each tensor of a base: kept as it is, replaced, or added to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest

from trainer.merge.adapter import Adapter, Module
from trainer.merge.refusals import NotMergeable
from trainer.merge.tensors import Stored

HEAD, EMBEDDING = "lm_head.weight", "embed_tokens.weight"
# Joined projections and the rows of which others they hold, in this order.
JOINED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
FITTING = "Merge it into the revision that it was trained on."


@dataclass(frozen=True)
class Part:
    """Rows of a tensor that a module adds to: `count` of them from `first`, the module's own from
    `own_first`."""

    module: Module
    first: int
    own_first: int
    count: int


@dataclass
class Change:
    """A tensor of the result: where its rows come from, and what is added to them."""

    source: Stored
    parts: list[Part] = field(default_factory=list)


@dataclass
class Plan:
    """`changes` by the name of the tensor; what is not named stays. `unties`: the head becomes a
    tensor of its own beside the embedding, which it shared."""

    changes: dict[str, Change]
    unties: bool = False
    embedding: str = ""


def make_plan(stored: Mapping[str, Stored], adapter: Adapter, *, tied: bool) -> Plan:
    """Raises NotMergeable where the adapter does not fit these tensors."""
    plan = _Planner(stored)
    for name, tensor in adapter.replaced.items():
        plan.replace(name, tensor)
    for module in adapter.modules:
        plan.add(module)
    return plan.finish(tied=tied)


class _Planner:
    def __init__(self, stored: Mapping[str, Stored]) -> None:
        self._stored = stored
        self._names = _by_plain_name(stored)
        self._changes: dict[str, Change] = {}
        self._own_head: Change | None = None  # of a head that is not stored, being tied

    def replace(self, name: str, tensor: Stored) -> None:
        target = self._names.get(_plain(name))
        if target is None and _plain(name) == HEAD and self._embedding:
            self._own_head = Change(tensor)
            target = self._embedding
        elif target is not None:
            self._changes[target] = Change(tensor)
        if target is None:
            raise _misfit(f"it has a tensor {name}, and the base has none of that name")
        if self._stored[target].shape != tensor.shape:
            raise _misfit(
                f"{name} is {_sides(tensor)} and the base's is {_sides(self._stored[target])}"
            )

    def add(self, module: Module) -> None:
        stem, _, last = module.name.rpartition(".")
        stem = f"{stem}." if stem else ""
        if (target := self._find(module.name)) is not None:
            self._join(target, module, first=0, whole=True)
        elif _plain(f"{module.name}.weight") == HEAD and self._embedding:
            self._own_head = self._own_head or Change(self._stored[self._embedding])
            self._own_head.parts.append(Part(module, 0, 0, module.rows))
            _check_shape(module, self._stored[self._embedding])
        elif last in JOINED and all(self._find(stem + part) for part in JOINED[last]):
            self._split(module, [self._find(stem + part) or "" for part in JOINED[last]])
        else:
            self._into_joined(module, stem, last)

    def finish(self, *, tied: bool) -> Plan:
        head = self._names.get(HEAD)
        own = self._own_head if head is None else self._changes.get(head)
        if not tied or not self._embedding:
            if self._own_head is not None:
                raise _misfit("it adapts lm_head, and the base has none")
            return Plan(self._changes, embedding=self._embedding)
        embedding = self._changes.get(self._embedding)
        if embedding is None and own is None:
            return Plan(self._changes, embedding=self._embedding)
        if embedding is not None and own is not None and _are_equal(embedding, own):
            if head is not None:
                self._changes[head] = embedding
            return Plan(self._changes, embedding=self._embedding)
        # As trained: adapters and saved copies of one of the two leave the other as it was.
        self._changes[head or HEAD] = own or Change(self._stored[self._embedding])
        return Plan(self._changes, unties=True, embedding=self._embedding)

    @property
    def _embedding(self) -> str:
        return self._names.get(EMBEDDING, "")

    def _find(self, module: str) -> str | None:
        return self._names.get(_plain(f"{module}.weight"))

    def _join(self, target: str, module: Module, *, first: int, whole: bool) -> None:
        stored = self._stored[target]
        if whole:
            _check_shape(module, stored)
        self._part(target, Part(module, first, 0, module.rows))

    def _part(self, target: str, part: Part) -> None:
        stored = self._stored[target]
        if not stored.is_float:
            raise NotMergeable(
                f"{target} of the base is quantized ({stored.dtype}).",
                remedy="Merge it into the base's original weights.",
            )
        if part.module.columns != stored.shape[-1] or part.first + part.count > stored.rows:
            raise _misfit(f"{part.module.name} does not fit {target}, which is {_sides(stored)}")
        self._changes.setdefault(target, Change(stored)).parts.append(part)

    def _split(self, module: Module, targets: Iterable[str]) -> None:
        """A joined module over tensors that are stored apart."""
        own_first = 0
        for target in targets:
            count = self._stored[target].rows
            self._part(target, Part(module, 0, own_first, count))
            own_first += count
        if own_first != module.rows:
            raise _misfit(f"{module.name} has {module.rows} rows and the base {own_first}")

    def _into_joined(self, module: Module, stem: str, last: str) -> None:
        """A module of its own over a part of a tensor that holds several."""
        for joined, parts in JOINED.items():
            target = self._find(stem + joined)
            if target is None or last not in parts:
                continue
            total = self._stored[target].rows
            behind = len(parts) - parts.index(last)  # those from this one on are equally tall
            first = 0 if last == parts[0] else total - behind * module.rows
            if first < 0:
                raise _misfit(f"{module.name} does not fit {target}")
            self._join(target, module, first=first, whole=False)
            return
        raise _misfit(f"it adapts {module.name}, and the base has no such layer")


def _by_plain_name(stored: Mapping[str, Stored]) -> dict[str, str]:
    """Full names by the plain one; those that two would share are left out."""
    found: dict[str, str] = {}
    shared: set[str] = set()
    for name in stored:
        plain = _plain(name)
        if plain in found:
            shared.add(plain)
        found[plain] = name
    return {plain: name for plain, name in found.items() if plain not in shared}


def _plain(name: str) -> str:
    """Without the wrappers that classes of one architecture put around the decoder: files of a
    model that also sees say `model.language_model.layers`, its decoder's class `model.layers`."""
    while True:
        first, _, rest = name.partition(".")
        if first not in ("model", "language_model") or not rest:
            return name
        name = rest


def _check_shape(module: Module, stored: Stored) -> None:
    if stored.shape != (module.rows, module.columns):
        raise _misfit(
            f"{module.name} adapts {module.rows} x {module.columns} weights, "
            f"and the base has {_sides(stored)}"
        )


def _are_equal(one: Change, other: Change) -> bool:
    """Whether both are the same numbers without anything added."""
    if one.parts or other.parts or one.source.size_bytes != other.source.size_bytes:
        return False
    pairs = zip_longest(one.source.chunks(), other.source.chunks())
    return all(first == second for first, second in pairs)


def _sides(stored: Stored) -> str:
    return " x ".join(str(side) for side in stored.shape)


def _misfit(reason: str) -> NotMergeable:
    return NotMergeable(f"This adapter does not fit its base: {reason}.", remedy=FITTING)
