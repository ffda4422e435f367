"""Templates with choices: "[Where is|Where's] my [order|parcel|] {order}?"

Square brackets choose one of their alternatives (which may be empty, or hold brackets of their
own); names in braces are slots, filled in later by whoever asked for the text.
"""

import itertools
import re
from collections.abc import Iterator
from random import Random

INNERMOST_CHOICE = re.compile(r"\[([^\[\]]*)\]")
SPACES = re.compile(r" {2,}")


def expand(template: str, rng: Random) -> str:
    """One text of the template; slots stay as they are."""
    while choice := INNERMOST_CHOICE.search(template):
        picked = rng.choice(choice[1].split("|"))
        template = template[: choice.start()] + picked + template[choice.end() :]
    return tidy(template)


def expansions(template: str) -> Iterator[str]:
    """Every text the template can give, some of them perhaps more than once."""
    choice = INNERMOST_CHOICE.search(template)
    if choice is None:
        yield tidy(template)
        return
    for picked in choice[1].split("|"):
        yield from expansions(template[: choice.start()] + picked + template[choice.end() :])


def all_expansions(templates: tuple[str, ...]) -> list[str]:
    """Every text of any of the templates, in their order, each once."""
    texts = itertools.chain.from_iterable(expansions(template) for template in templates)
    return list(dict.fromkeys(texts))


def tidy(text: str) -> str:
    """Single spaces, none at the ends or before a punctuation mark: empty choices leave gaps."""
    text = SPACES.sub(" ", text).strip()
    return re.sub(r" ([.,!?])", r"\1", text)
