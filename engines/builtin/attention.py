"""Attention over blocks of the cache in plain torch, for any device and dtype.

Keys and values of several sequences are first copied side by side. Sequences of like length go
together, so that one long one does not make all others as long.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 (everybody's name for it)

from engines.builtin.blocks import BLOCK_TOKENS, blocks_for


class Gathered:
    """Whole sequences side by side, copied out of the cache: the same places for every layer."""

    def __init__(self, rows: torch.Tensor, *, sequences: int, longest: int) -> None:
        self._rows = rows  # [sequences * kv_heads * blocks], of the cache as one head's blocks
        self._sequences = sequences
        self._longest = longest  # tokens looked at
        self._copies: tuple[torch.Tensor, torch.Tensor] | None = None

    def copy(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """From one layer's [blocks, kv_heads, BLOCK_TOKENS, head_size] to
        [sequences, kv_heads, longest, head_size]; valid until the next call."""
        if self._copies is None:  # the same memory for all layers: new pages are dear
            size = (len(self._rows), BLOCK_TOKENS * keys.shape[-1])
            self._copies = keys.new_empty(size), values.new_empty(size)
        into_keys, into_values = self._copies
        return self._copied(keys, into_keys), self._copied(values, into_values)

    def _copied(self, stored: torch.Tensor, into: torch.Tensor) -> torch.Tensor:
        _, heads, tokens, size = stored.shape
        torch.index_select(stored.view(-1, tokens * size), 0, self._rows, out=into)
        return into.view(self._sequences, heads, -1, size)[:, :, : self._longest]


@dataclass(frozen=True)
class Group:
    """Single tokens of sequences of like length."""

    members: torch.Tensor  # which of the single tokens
    sequences: Gathered
    mask: torch.Tensor | None  # [members, 1, 1, longest], added to the scores; None: all full


class Singles:
    """The step's single tokens, one a sequence, and where their sequences lie."""

    def __init__(
        self, tables: np.ndarray, lengths: np.ndarray, *, kv_heads: int, like: torch.Tensor
    ) -> None:
        self.tables = tables  # [singles, most blocks], int64; meaningless past a sequence's end
        self.lengths = lengths  # [singles], int64, the token itself included
        self._kv_heads = kv_heads
        self._like = like
        self._groups: list[Group] | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    def attend(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """One query a sequence, [singles, heads, head_size], against all of its sequence."""
        if self._groups is None:
            self._groups = self._make_groups()
        if len(self._groups) == 1:
            return _attend_group(self._groups[0], queries, keys, values)
        attended = torch.empty_like(queries)
        for group in self._groups:
            own = _attend_group(group, queries[group.members], keys, values)
            attended.index_copy_(0, group.members, own)
        return attended

    def _make_groups(self) -> list[Group]:
        """Those that take up to 4, 8, 16 ... blocks: at most half of what is copied is unused."""
        blocks = -(-self.lengths // BLOCK_TOKENS)
        kinds = np.ceil(np.log2(np.maximum(blocks, 4))).astype(np.int64)
        return [self._group(np.flatnonzero(kinds == kind)) for kind in np.unique(kinds)]

    def _group(self, members: np.ndarray) -> Group:
        lengths = self.lengths[members]
        longest = int(lengths.max())
        sequences = gathered(
            self.tables[members], longest, kv_heads=self._kv_heads, device=self._like.device
        )
        members_there = _tensor(members, self._like.device)
        return Group(members_there, sequences, self._mask(lengths, longest))

    def _mask(self, lengths: np.ndarray, longest: int) -> torch.Tensor | None:
        if int(lengths.min()) == longest:
            return None
        ends = _tensor(lengths, self._like.device)
        hidden = torch.arange(longest, device=self._like.device) >= ends[:, None]
        mask = self._like.new_zeros(hidden.shape)
        return mask.masked_fill_(hidden, -torch.inf)[:, None, None]


@dataclass(frozen=True)
class Chunk:
    """Several tokens of one sequence: `count` of them from flat index `first`, after `start`."""

    start: int  # tokens of the sequence already in the cache
    first: int
    count: int
    sequence: Gathered | None  # None where nothing lies before them: start is 0
    mask: torch.Tensor | None  # None where the plain causal one is right: start is 0

    def attend(
        self,
        queries: torch.Tensor,
        own_keys: torch.Tensor,
        own_values: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        """Against their sequence up to themselves; `own_*` are the step's, [tokens, heads, size].

        Gives [count, heads, head_size].
        """
        own = slice(self.first, self.first + self.count)
        if self.sequence is None:
            seen_keys = own_keys[own].transpose(0, 1)[None]
            seen_values = own_values[own].transpose(0, 1)[None]
        else:
            seen_keys, seen_values = self.sequence.copy(keys, values)
        attended = F.scaled_dot_product_attention(
            queries[own].transpose(0, 1)[None],
            seen_keys,
            seen_values,
            attn_mask=self.mask,
            is_causal=self.mask is None,
            enable_gqa=True,
        )
        return attended[0].transpose(0, 1)


def gathered(tables: np.ndarray, longest: int, *, kv_heads: int, device: torch.device) -> Gathered:
    """The sequences whose blocks these are [sequences, blocks or more], up to `longest` tokens."""
    blocks = tables[:, None, : blocks_for(longest)] * kv_heads
    rows = blocks + np.arange(kv_heads)[:, None]
    return Gathered(_tensor(rows.ravel(), device), sequences=len(tables), longest=longest)


def _attend_group(
    group: Group, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    seen_keys, seen_values = group.sequences.copy(keys, values)
    # The queries that share a key head go in as rows of one matrix. On CPUs that is up to five
    # times faster in bfloat16 than leaving the sharing to `enable_gqa`, and never slower.
    rows = queries.reshape(len(queries), keys.shape[1], -1, queries.shape[-1])
    attended = F.scaled_dot_product_attention(rows, seen_keys, seen_values, attn_mask=group.mask)
    return attended.reshape(queries.shape)


def _tensor(values: np.ndarray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)
