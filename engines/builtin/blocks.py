"""Which blocks of the cache are held, by how many answers, and what the full ones contain.

The cache is cut into blocks of BLOCK_TOKENS tokens. An answer holds as many as its tokens fill,
so that memory follows what is really in use and not the longest answer that might come: a context
of 32,000 tokens costs nothing until somebody fills it. Full blocks are known by a key, a digest of
all tokens up to their end and of the adapter that read them. Answers with the same beginning hold
the same blocks; a block that nobody holds stays known until its memory is needed, longest unused
first.

Blocks, and not dense slots which grow: a slot that grows must be copied to a larger place, a
shared beginning must be copied to each slot, and free memory in the wrong places is of no use.
What blocks cost is one more look-up for every BLOCK_TOKENS keys in the attention kernel, or where
no kernel can be built one copy of the keys and values a step (measured on two cores, 28 layers of
32 sequences of 160 tokens: 97 ms as slots, 123 ms as blocks).
"""

from array import array
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

BLOCK_TOKENS = 32


class Blocks:
    """The books over `count` blocks. Not safe to use from two threads at once."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._holders = [0] * count
        self._unheld = OrderedDict.fromkeys(range(count))  # the first to be taken first
        self._key_of: dict[int, bytes] = {}
        self._block_of: dict[bytes, int] = {}

    @property
    def unheld(self) -> int:
        return len(self._unheld)

    @property
    def used(self) -> float:
        """The part that answers hold, 0 to 1."""
        return 1 - len(self._unheld) / self.count

    def find(self, keys: Sequence[bytes]) -> list[int]:
        """The blocks of the longest known beginning of these keys."""
        found: list[int] = []
        for key in keys:
            block = self._block_of.get(key)
            if block is None:
                break
            found.append(block)
        return found

    def can_take(self, more: int, *, known: Sequence[int] = ()) -> bool:
        """Whether `take` of the same would find enough."""
        return more + sum(not self._holders[block] for block in known) <= len(self._unheld)

    def take(self, more: int, *, known: Sequence[int] = ()) -> list[int]:
        """Holds the known blocks and `more` others, which forget what they had."""
        for block in known:
            self._hold(block)
        taken: list[int] = []
        for _ in range(more):
            block = next(iter(self._unheld))
            self._forget(block)
            self._hold(block)
            taken.append(block)
        return [*known, *taken]

    def give_back(self, blocks: Sequence[int]) -> None:
        """Ends one hold on each. The later ones of a sequence are the first to be taken again."""
        for block in reversed(blocks):
            self._holders[block] -= 1
            if not self._holders[block]:
                self._unheld[block] = None
                if block not in self._key_of:
                    self._unheld.move_to_end(block, last=False)

    def remember(self, block: int, key: bytes) -> None:
        """Says what a full block contains. The first of two equal ones is the known one."""
        if key not in self._block_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def _hold(self, block: int) -> None:
        self._holders[block] += 1
        self._unheld.pop(block, None)

    def _forget(self, block: int) -> None:
        key = self._key_of.pop(block, None)
        if key is not None:
            del self._block_of[key]


def blocks_for(tokens: int) -> int:
    """How many blocks hold so many tokens."""
    return -(-tokens // BLOCK_TOKENS)


def extend_keys(keys: list[bytes], tokens: Sequence[int], *, salt: str) -> None:
    """Adds the keys of full blocks that are not in the list yet; `salt` names who reads them."""
    for index in range(len(keys), len(tokens) // BLOCK_TOKENS):
        before = keys[-1] if keys else salt.encode()
        own = array("q", tokens[index * BLOCK_TOKENS : (index + 1) * BLOCK_TOKENS]).tobytes()
        keys.append(blake2b(own, key=blake2b(before, digest_size=32).digest()).digest())
