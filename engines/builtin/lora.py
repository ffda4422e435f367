"""LoRA adapters over the projections of a decoder: each row of a step may have its own.

An adapter adds (rows @ down.T) @ up.T to what a projection makes of its rows (Hu et al., "LoRA",
arXiv:2106.09685, section 4.1), with alpha / r already multiplied into `up`. Where stored matrices
are joined into one projection their pairs are stacked the same way: one `down` of all ranks
together, and an `up` that is zero where a rank belongs to another part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

import torch
from torch.nn import functional as F  # noqa: N812 (everybody's name for it)

from engines.builtin.projection import DenseFeedForward, Projection
from engines.builtin.weights import Weights

Rows: TypeAlias = slice | torch.Tensor  # of a step: a stretch of them, or their indices


@dataclass(frozen=True, slots=True)
class Pair:
    """What one adapter adds to one projection."""

    down: torch.Tensor  # [rank, inputs]
    up: torch.Tensor  # [outputs, rank], scaled


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """One adapter's matrices on the device. `digest` tells its content: cached keys and values
    are its own, and are shared by equal adapters only."""

    digest: str
    pairs: Mapping[int, Pair]  # by site
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Site:
    """A projection that adapters may add to, and the layer it is in."""

    layer: int
    projection: Projection


def list_sites(weights: Weights) -> list[Site]:
    """Every projection of the layers, in order. Feed-forwards of experts have none."""
    sites: list[Site] = []
    for index, layer in enumerate(weights.layers):
        inside = [layer.qkv, layer.output]
        if isinstance(layer.feed_forward, DenseFeedForward):
            inside += [layer.feed_forward.gate_up, layer.feed_forward.down]
        sites += [Site(index, projection) for projection in inside]
    return sites


class Adaptations:
    """Sits on every site and adds, in each step, what the rows' adapters make of them."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self.groups: list[tuple[Adapter, Rows]] = []
        for index, site in enumerate(sites):
            site.projection.adaptation = _AtSite(self, index)

    def begin(self, owners: Sequence[Adapter | None], *, device: torch.device) -> None:
        """Says whose each row of the coming step is: one adapter, or None for the base alone."""
        self.groups = []
        if any(owners):
            self.groups = _group(owners, device)


class _AtSite:
    """One site's share: what `Projection` knows as its adaptation."""

    def __init__(self, owner: Adaptations, site: int) -> None:
        self._owner = owner
        self._site = site

    @property
    def active(self) -> bool:
        return bool(self._owner.groups)

    def add(self, rows: torch.Tensor, out: torch.Tensor) -> None:
        for adapter, which in self._owner.groups:
            pair = adapter.pairs.get(self._site)
            if pair is None:
                continue
            if isinstance(which, slice):
                low = F.linear(rows[which], pair.down)
                out[which].addmm_(low, pair.up.t())
            else:
                low = F.linear(rows.index_select(0, which), pair.down)
                out.index_add_(0, which, F.linear(low, pair.up))


def _group(owners: Sequence[Adapter | None], device: torch.device) -> list[tuple[Adapter, Rows]]:
    """Each adapter once, with its rows: a slice where they lie together."""
    stretches: dict[Adapter, list[range]] = {}
    first = 0
    for adapter, run in groupby(owners):
        count = len(list(run))
        if adapter is not None:
            stretches.setdefault(adapter, []).append(range(first, first + count))
        first += count
    groups: list[tuple[Adapter, Rows]] = []
    for adapter, found in stretches.items():
        if len(found) == 1:
            groups.append((adapter, slice(found[0].start, found[0].stop)))
        else:
            indices = [index for stretch in found for index in stretch]
            groups.append((adapter, torch.tensor(indices, dtype=torch.long, device=device)))
    return groups
