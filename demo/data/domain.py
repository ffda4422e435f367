"""What one kind of support desk is made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True)
class Phrasebook:
    """How customers of a desk put things: templates of `grammar.py`, each list for one purpose.

    Slots: {order} the order number, {city} the city the answer names, {origin} another city,
    {name} a first name, {small} a number that is no order number.
    """

    openings: tuple[str, ...]
    requests: Mapping[str, tuple[str, ...]]  # by intent; may name {order} or {city}
    order_mentions: tuple[str, ...]
    city_mentions: tuple[str, ...]
    urgency_cues: Mapping[str, tuple[str, ...]]  # by level
    asides: tuple[str, ...]
    closings: tuple[str, ...]


@dataclass(frozen=True)
class Domain:
    """A desk: the constant instruction, its cities, its order numbers and two phrasebooks.

    `known` phrases training and held-out messages, `harder` those of the harder split; the two
    share no phrase.
    """

    name: str
    instruction: str
    cities: tuple[str, ...]
    order_number: Callable[[Random], str]
    known: Phrasebook
    harder: Phrasebook
