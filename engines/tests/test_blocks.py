"""The books over the cache's blocks."""

import random

import pytest

from engines.builtin.blocks import BLOCK_TOKENS, Blocks, blocks_for, extend_keys


def keys_of(tokens, *, salt=""):
    keys: list[bytes] = []
    extend_keys(keys, tokens, salt=salt)
    return keys


def filled(blocks, tokens):
    """Holds and remembers the full blocks of these tokens."""
    keys = keys_of(tokens)
    held = blocks.take(len(keys))
    for block, key in zip(held, keys, strict=True):
        blocks.remember(block, key)
    return held, keys


def test_keys_tell_everything_before_them():
    dice = random.Random(1)
    tokens = [dice.randrange(150_000) for _ in range(4 * BLOCK_TOKENS + 5)]
    keys = keys_of(tokens)
    assert len(keys) == len(set(keys)) == 4  # of full blocks alone
    assert keys_of(tokens[: 2 * BLOCK_TOKENS]) == keys[:2]
    other = [tokens[0] + 1, *tokens[1:]]
    assert not set(keys_of(other)) & set(keys)  # a later block is another after another beginning
    assert not set(keys_of(tokens, salt="adapter")) & set(keys)
    same = [7] * BLOCK_TOKENS * 2
    assert len(set(keys_of(same))) == 2
    grown = keys[:1]
    extend_keys(grown, tokens, salt="")
    assert grown == keys


def test_a_known_beginning_is_found_until_its_memory_is_needed():
    blocks = Blocks(4)
    held, keys = filled(blocks, list(range(3 * BLOCK_TOKENS)))
    assert blocks.find(keys) == held
    blocks.give_back(held)
    assert blocks.unheld == 4
    assert blocks.used == 0
    assert blocks.find(keys) == held
    blocks.take(2)  # the empty one, then the end of the sequence: its beginning is worth most
    assert blocks.find(keys) == held[:2]
    assert not blocks.can_take(3)
    assert not blocks.can_take(1, known=held[:2])
    assert blocks.take(0, known=held[:2]) == held[:2]
    assert blocks.used == 1


def test_a_shared_block_is_free_when_the_last_gives_it_back():
    blocks = Blocks(2)
    held, keys = filled(blocks, list(range(BLOCK_TOKENS)))
    assert blocks.take(0, known=held) == held
    blocks.give_back(held)
    assert blocks.unheld == 1
    blocks.give_back(held)
    assert blocks.unheld == 2
    assert blocks.find(keys) == held


def test_what_was_used_longest_ago_goes_first():
    blocks = Blocks(3)
    sequences = [filled(blocks, [n] * BLOCK_TOKENS) for n in range(3)]
    for held, _ in sequences:
        blocks.give_back(held)
    blocks.give_back(blocks.take(0, known=sequences[0][0]))  # used once more
    blocks.take(1)
    assert [bool(blocks.find(keys)) for _, keys in sequences] == [True, False, True]


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_lost_or_held_twice(seed):
    dice = random.Random(seed)
    blocks = Blocks(20)
    open_holds: list[list[int]] = []
    for _ in range(3000):
        if open_holds and dice.random() < 0.5:
            blocks.give_back(open_holds.pop(dice.randrange(len(open_holds))))
            continue
        keys = keys_of([dice.randrange(2)] * BLOCK_TOKENS * dice.randrange(1, 6))
        known = blocks.find(keys)
        if blocks.can_take(len(keys) - len(known), known=known):
            held = blocks.take(len(keys) - len(known), known=known)
            assert len(set(held)) == len(held)
            for block, key in zip(held, keys, strict=True):
                blocks.remember(block, key)
            open_holds.append(held)
        in_use = {block for held in open_holds for block in held}
        assert blocks.unheld == 20 - len(in_use)
    for held in open_holds:
        blocks.give_back(held)
    assert blocks.unheld == 20


def test_sizes():
    assert [blocks_for(n) for n in (0, 1, BLOCK_TOKENS, BLOCK_TOKENS + 1)] == [0, 1, 1, 2]
