"""Datasets as files of OpenAI chat lines."""

import json
from pathlib import Path
from random import Random

from demo.data.domain import Domain, Phrasebook
from demo.data.logistics import LOGISTICS
from demo.data.messages import Facts, draw_facts, write_message
from demo.data.retail import RETAIL

DOMAINS: dict[str, Domain] = {domain.name: domain for domain in (RETAIL, LOGISTICS)}
DATASETS = tuple(DOMAINS)

TRAIN_EXAMPLES = 6000
HELDOUT_EXAMPLES = 300
HARDER_EXAMPLES = 150


def write_dataset(
    name: str,
    folder: Path,
    *,
    train: int = TRAIN_EXAMPLES,
    heldout: int = HELDOUT_EXAMPLES,
    harder: int = HARDER_EXAMPLES,
    seed: int = 0,
) -> dict[str, Path]:
    """Write train.jsonl, heldout.jsonl and harder.jsonl of a dataset of DATASETS into the folder.

    The same arguments give the same bytes. heldout and harder do not depend on `train`; no
    message occurs twice in a dataset, case aside. Returns the paths by split.
    """
    domain = DOMAINS[name]
    folder.mkdir(parents=True, exist_ok=True)
    taken: set[str] = set()
    paths = {}
    for split, phrases, count in (
        ("heldout", domain.known, heldout),
        ("harder", domain.harder, harder),
        ("train", domain.known, train),
    ):
        rng = Random(f"{seed}/{name}/{split}")
        examples = draw_examples(domain, phrases, count=count, taken=taken, rng=rng)
        paths[split] = folder / f"{split}.jsonl"
        lines = (chat_line(domain, message, facts) + "\n" for message, facts in examples)
        paths[split].write_text("".join(lines), encoding="utf-8")
    return paths


def draw_examples(
    domain: Domain, phrases: Phrasebook, *, count: int, taken: set[str], rng: Random
) -> list[tuple[str, Facts]]:
    """Messages and their facts, none of which is in `taken` yet; adds them to it."""
    examples: list[tuple[str, Facts]] = []
    while len(examples) < count:
        facts = draw_facts(domain, rng)
        message = write_message(domain, phrases, facts, rng)
        if message.casefold() not in taken:
            taken.add(message.casefold())
            examples.append((message, facts))
    return examples


def chat_line(domain: Domain, message: str, facts: Facts) -> str:
    """One example in OpenAI's chat format."""
    messages = [
        {"role": "system", "content": domain.instruction},
        {"role": "user", "content": message},
        {"role": "assistant", "content": facts.as_json()},
    ]
    return json.dumps({"messages": messages}, ensure_ascii=False)
