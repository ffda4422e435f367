"""One customer's message and the answer it deserves."""

import json
import re
from dataclasses import dataclass
from random import Random

from demo.data.common_phrases import FIRST_NAMES
from demo.data.domain import Domain, Phrasebook
from demo.data.grammar import expand

ORDER_SHARE = 0.8
CITY_SHARE = 0.75
URGENCY_SHARE = {"high": 0.25, "medium": 0.15, "low": 0.15}
OPENING_SHARE = 0.5
ASIDE_SHARE = 0.25
CLOSING_SHARE = 0.4
LOWERCASE_SHARE = 0.12
NEW_LINE_SHARE = 0.1
TYPO_SHARE = 0.15

SLOT = re.compile(r"\{(\w+)\}")
LONG_WORD = re.compile(r"(?<![\w{])[a-z]{5,}(?![\w}])")


@dataclass(frozen=True)
class Facts:
    """What a message says; None where it says nothing about it."""

    intent: str
    order_number: str | None
    city: str | None
    urgency: str | None

    def as_json(self) -> str:
        """The compact JSON object an assistant answers with."""
        return json.dumps(vars(self), ensure_ascii=False, separators=(",", ":"))


def draw_facts(domain: Domain, rng: Random) -> Facts:
    """Facts of a random customer; intents are equally likely."""
    intent = rng.choice(list(domain.known.requests))
    order_number = domain.order_number(rng) if rng.random() < ORDER_SHARE else None
    city = rng.choice(domain.cities) if rng.random() < CITY_SHARE else None
    levels = [*URGENCY_SHARE, None]
    shares = [*URGENCY_SHARE.values(), 1 - sum(URGENCY_SHARE.values())]
    return Facts(intent, order_number, city, rng.choices(levels, shares)[0])


def write_message(domain: Domain, phrases: Phrasebook, facts: Facts, rng: Random) -> str:
    """A message that says just these facts, in phrases of the book, sometimes carelessly typed.

    Typing errors never touch an order number, a city or what tells the urgency.
    """
    slots = {
        "name": rng.choice(FIRST_NAMES),
        "small": str(rng.randrange(2, 60)),
    }
    if facts.order_number:
        slots["order"] = facts.order_number
    if facts.city:
        slots["city"] = facts.city
        slots["origin"] = rng.choice([city for city in domain.cities if city != facts.city])
    sentences = choose_sentences(phrases, facts, set(slots), rng)
    gap = "\n" if rng.random() < NEW_LINE_SHARE else " "
    text = gap.join(sentences)
    if rng.random() < LOWERCASE_SHARE:
        text = text.lower()
        slots = {key: value if key == "order" else value.lower() for key, value in slots.items()}
    return SLOT.sub(lambda slot: slots[slot[1]], text)


def choose_sentences(phrases: Phrasebook, facts: Facts, slots: set[str], rng: Random) -> list[str]:
    """Sentences with open slots: opening, then request and details in some order, closing."""
    request = pick(phrases.requests[facts.intent], slots, rng)
    if rng.random() < TYPO_SHARE:
        request = mistype(request, rng)
    details = []
    if facts.order_number and "{order}" not in request:
        details.append(pick(phrases.order_mentions, slots, rng))
    if facts.city and "{city}" not in request:
        details.append(pick(phrases.city_mentions, slots, rng))
    if facts.urgency:
        details.append(pick(phrases.urgency_cues[facts.urgency], slots, rng))
    if rng.random() < ASIDE_SHARE:
        details.append(pick(phrases.asides, slots, rng))
    rng.shuffle(details)
    details.insert(0 if rng.random() < 0.75 else rng.randint(0, len(details)), request)
    opening = [pick(phrases.openings, slots, rng)] if rng.random() < OPENING_SHARE else []
    closing = [pick(phrases.closings, slots, rng)] if rng.random() < CLOSING_SHARE else []
    return opening + details + closing


def pick(templates: tuple[str, ...], slots: set[str], rng: Random) -> str:
    """A text of one of the templates that needs no slot but these."""
    while True:
        text = expand(rng.choice(templates), rng)
        if slots.issuperset(SLOT.findall(text)):
            return text


def mistype(text: str, rng: Random) -> str:
    """The text with one of its longer words misspelt: a letter lost, doubled or swapped."""
    words = list(LONG_WORD.finditer(text))
    if not words:
        return text
    word = rng.choice(words)
    at = rng.randrange(word.start() + 1, word.end() - 1)
    mishap = rng.choice(["lost", "doubled", "swapped"])
    if mishap == "lost":
        return text[:at] + text[at + 1 :]
    if mishap == "doubled":
        return text[:at] + text[at] + text[at:]
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
