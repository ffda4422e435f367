"""What transformers' modules remember of each sequence, kept in slots as our own cache keeps it.

Two ways. `SlotStates` holds keys, values and the state of linear-attention layers in one tensor a
layer, a row a slot: sequences step as one batch. `OwnCaches` leaves each sequence a cache of
transformers' own, whatever it holds: right for any module, and one sequence a pass.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeAlias

import torch
from transformers import DynamicCache
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
)

from engines.builtin.cache import lazy_zeros

PROBES = (2, 4)  # tokens; shorter than any attention window in use

Mask: TypeAlias = torch.Tensor | dict[str, torch.Tensor] | None


class Rows:
    """The sequences of one pass: `count` tokens each, at `positions` [sequences, count]."""

    def __init__(self, slots: Sequence[int], positions: torch.Tensor) -> None:
        self.slots = torch.tensor(slots, device=positions.device)
        self.positions = positions
        self.longest = int(positions[:, -1].max()) + 1
        self.fresh = [
            slot for slot, at in zip(slots, positions[:, 0].tolist(), strict=True) if not at
        ]
        self._first = slots[0]
        self._adjoin = list(slots) == list(range(slots[0], slots[0] + len(slots)))

    def of(self, storage: torch.Tensor) -> torch.Tensor:
        """Their rows of a tensor over all slots: itself where they adjoin, else a copy."""
        if self._adjoin:
            return storage[self._first : self._first + len(self.slots)]
        return storage[self.slots]

    def put_back(self, storage: torch.Tensor, rows: torch.Tensor) -> None:
        """Writes rows that `of` gave and the pass has changed."""
        if not self._adjoin:
            storage[self.slots] = rows


class ModulesCache(Protocol):
    """What the runner asks."""

    slots: int
    context: int
    batches: bool  # whether sequences may share a pass

    def begin(self, rows: Rows) -> tuple[Cache, Mask]:
        """The cache and the attention mask of a pass over these rows."""
        ...

    def end(self, rows: Rows) -> None:
        """The pass is over."""
        ...


def make_cache(
    probed: DynamicCache, config: Any, *, slots: int, context: int
) -> "SlotStates | OwnCaches":
    """The faster of the two that is right for modules whose cache came out as `probed`."""
    if _fits_slots(probed):
        return SlotStates(probed, slots=slots, context=context)
    return OwnCaches(config, slots=slots, context=context)


class SlotStates:
    """One tensor a layer and kind, [slots, ...], allocated once."""

    batches = True

    def __init__(self, probed: DynamicCache, *, slots: int, context: int) -> None:
        self.slots = slots
        self.context = context
        self._layers = [_slot_layer(layer, slots, context) for layer in probed.layers]
        self._cache = Cache(layers=list(self._layers))
        keeping = [layer for layer in self._layers if isinstance(layer, _KeyValues)]
        self._windows = {layer.window for layer in keeping}

    def begin(self, rows: Rows) -> tuple[Cache, Mask]:
        for layer in self._layers:
            layer.aim(rows)
        masks = {window: _mask(rows, window) for window in self._windows}
        if len(masks) < 2:  # one tensor does for all attention; linear layers pass it by
            return self._cache, next(iter(masks.values()), None)
        named = {"sliding_attention" if w else "full_attention": m for w, m in masks.items()}
        return self._cache, named

    def end(self, rows: Rows) -> None:
        for layer in self._layers:
            layer.settle(rows)


class OwnCaches:
    """A DynamicCache a sequence."""

    batches = False

    def __init__(self, config: Any, *, slots: int, context: int) -> None:
        self.slots = slots
        self.context = context
        self._config = config
        self._caches: dict[int, Cache] = {}

    def begin(self, rows: Rows) -> tuple[Cache, Mask]:
        slot = int(rows.slots[0])
        if rows.fresh:
            self._caches[slot] = DynamicCache(config=self._config)
        return self._caches[slot], None

    def end(self, rows: Rows) -> None:
        """Nothing to do: the cache was written where it lies."""


def _fits_slots(probed: DynamicCache) -> bool:
    """Whether every layer's memory is of a kind that SlotStates lays out."""
    kinds = {type(layer) for layer in probed.layers}
    known = {DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionLayer}
    many = any(
        layer.number_of_states > 1
        for layer in probed.layers
        if isinstance(layer, LinearAttentionLayer)
    )
    windows = {layer.sliding_window for layer in probed.layers if hasattr(layer, "sliding_window")}
    return kinds <= known and not many and len(windows) < 2


def slot_bytes(probes: Sequence[DynamicCache], context: int) -> int:
    """What one sequence of `context` tokens takes, from caches that have read PROBES tokens."""
    few, many = (sum(each.nbytes for each in _tensors(probe)) for probe in probes)
    per_token = -(-(many - few) // (PROBES[1] - PROBES[0]))
    fixed = max(0, few - per_token * PROBES[0])
    whole: int = per_token * context + fixed
    return whole


def _tensors(cache: DynamicCache) -> Iterator[torch.Tensor]:
    for layer in cache.layers:
        for value in vars(layer).values():
            held = value.values() if isinstance(value, dict) else [value]
            yield from (each for each in held if isinstance(each, torch.Tensor))


def _mask(rows: Rows, window: int | None) -> torch.Tensor:
    """True where a token may look: [sequences, 1, count, longest]."""
    columns = torch.arange(rows.longest, device=rows.positions.device)
    seen = columns <= rows.positions[:, :, None]
    if window is not None:
        seen &= columns > rows.positions[:, :, None] - window
    return seen[:, None]


def _slot_layer(probed: Any, slots: int, context: int) -> "_KeyValues | _States":
    if isinstance(probed, LinearAttentionLayer):
        return _States(probed, slots)
    return _KeyValues(probed, slots, context)


class _KeyValues(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of an attention layer. What lies past a sequence's end is masked, never NaN."""

    is_sliding = False  # whole sequences are kept; a window is the mask's

    def __init__(self, probed: DynamicLayer, slots: int, context: int) -> None:
        super().__init__()
        _, heads, _, size = probed.keys.shape
        value_size = probed.values.shape[-1]
        self.window: int | None = getattr(probed, "sliding_window", None)
        self.keys = _zeros(probed.keys, slots, heads, context, size)
        self.values = _zeros(probed.values, slots, heads, context, value_size)
        self.is_initialized = True
        self._rows: Rows

    def aim(self, rows: Rows) -> None:
        self._rows = rows

    def settle(self, rows: Rows) -> None:
        """Nothing to do: `update` wrote."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = self._rows
        where = (rows.slots[:, None], slice(None), rows.positions)
        self.keys[where] = key_states.transpose(1, 2)
        self.values[where] = value_states.transpose(1, 2)
        return (
            rows.of(self.keys)[:, :, : rows.longest],
            rows.of(self.values)[:, :, : rows.longest],
        )

    def lazy_initialization(self, *_: Any) -> None:
        """Nothing to do: allocated when made."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._rows.longest, 0

    def get_seq_length(self) -> int:
        return int(self._rows.positions[0, 0])

    def get_max_length(self) -> int:
        return int(self.keys.shape[2])


class _States(LinearAttentionLayer):  # type: ignore[misc]
    """The convolution's last inputs and the recurrent state of a linear-attention layer.

    A sequence that begins finds zeros, which is what modules without a state assume.
    """

    def __init__(self, probed: LinearAttentionLayer, slots: int) -> None:
        super().__init__()
        conv, recurrent = probed.conv_states[0], probed.recurrent_states[0]
        self._conv = _zeros(conv, slots, *conv.shape[1:])
        self._recurrent = _zeros(recurrent, slots, *recurrent.shape[1:])
        self.conv_kernel_size[0] = self._conv.shape[-1]
        for flags in (
            self.is_conv_states_initialized,
            self.is_recurrent_states_initialized,
            self.has_previous_state,
        ):
            flags[0] = True

    def aim(self, rows: Rows) -> None:
        if rows.fresh:
            self._conv[rows.fresh] = 0
            self._recurrent[rows.fresh] = 0
        self.conv_states[0] = rows.of(self._conv)
        self.recurrent_states[0] = rows.of(self._recurrent)

    def settle(self, rows: Rows) -> None:
        rows.put_back(self._conv, self.conv_states[0])
        rows.put_back(self._recurrent, self.recurrent_states[0])


def _zeros(like: torch.Tensor, *size: int) -> torch.Tensor:
    return lazy_zeros(size, device=str(like.device), dtype=like.dtype)
