"""Pretraining conversations: copying, finding, and reading fields out of notes of many kinds.

No conversation is about a support desk, and none asks for the fields or holds the labels of the
demo's datasets: what the base model brings along is reading and copying in general.
"""

import json
import re
from collections.abc import Iterator
from random import Random

from demo.data.grammar import expand
from demo.data.messages import mistype
from demo.tiny_qwen3 import topics
from demo.tiny_qwen3.topics import TOPICS, Topic
from demo.tiny_qwen3.words import COMMON_WORDS, FIELD_NAMES, SENTENCES, made_up_word, value

Messages = list[dict[str, str]]

SLOT = re.compile(r"\{(\w+)\}")
VALUE_KINDS = ("name", "town", "thing", "colour", "day", "small", "code", "code", "code", "word")

# Any word may name a field, but those that do so in the demo's datasets.
OTHER_FIELD_NAMES = [word for word in COMMON_WORDS if word not in ("intent", "urgency", "order")]


def conversations(seed: int) -> Iterator[Messages]:
    """An endless stream of conversations, the same for the same seed."""
    rng = Random(seed)
    kinds = [read_note, read_list, repeat, find, change_case]
    while True:
        (kind,) = rng.choices(kinds, weights=[48, 20, 16, 11, 5])
        system, user, assistant = kind(rng)
        messages = [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
        if rng.random() < 0.85:
            messages.insert(0, {"role": "system", "content": system})
        else:
            messages[0]["content"] = f"{system}\n{user}"
        yield messages


def read_note(rng: Random) -> tuple[str, str, str]:
    """A note with details and things to understand; fields it does not mention are null."""
    topic = rng.choice(TOPICS)
    facts: dict[str, str | None] = {}
    sentences = []
    for field, (kind, templates) in topic.details.items():
        facts[field] = None
        if rng.random() < 0.6:
            facts[field] = detail = value(kind, rng)
            sentences.append(fill(rng.choice(templates), rng, it=detail))
    for field, labels in topic.labels.items():
        facts[field] = None
        if rng.random() < 0.75:
            facts[field] = label = rng.choice(list(labels))
            sentences.append(fill(rng.choice(labels[label]), rng))
    if rng.random() < 0.4:
        sentences.append(fill(rng.choice(topics.ASIDES), rng))
    if rng.random() < 0.2:
        sentences.append(fill(rng.choice(SENTENCES), rng))
    if rng.random() < 0.3 and sentences:
        at = rng.randrange(len(sentences))
        if not re.search(r"\d|[A-Z].*[A-Z]", sentences[at]):
            sentences[at] = mistype(sentences[at], rng)
    rng.shuffle(sentences)
    if rng.random() < 0.5:
        sentences.insert(0, fill(rng.choice(topics.OPENINGS), rng))
    if rng.random() < 0.4 or not sentences:
        sentences.append(fill(rng.choice(topics.CLOSINGS), rng))
    asked = rng.sample(list(facts), rng.randint(2, min(5, len(facts))))
    text = rng.choices([" ", "\n"], [9, 1])[0].join(sentences)
    return (
        instruction(topic, asked, rng),
        careless(text, rng),
        compact({f: facts[f] for f in asked}),
    )


def careless(text: str, rng: Random) -> str:
    """The text, sometimes in small letters; codes keep theirs."""
    if rng.random() > 0.15:
        return text
    return re.sub(
        r"\S+", lambda word: word[0] if re.search(r"\d", word[0]) else word[0].lower(), text
    )


def instruction(topic: Topic, fields: list[str], rng: Random) -> str:
    listed = ", ".join(fields)
    form = expand(
        "[{topic}. |{topic} note. |][Give|Read|Find|Extract|Write|Return] {fields} as JSON."
        if rng.random() < 0.85
        else "{topic}. JSON with {fields}[, please|].",
        rng,
    )
    return form.replace("{topic}", topic.name).replace("{fields}", listed)


def read_list(rng: Random) -> tuple[str, str, str]:
    """Fields of any name, some of them made up, and their values, in some plain notation."""
    names = rng.sample([*FIELD_NAMES, *rng.sample(OTHER_FIELD_NAMES, 60)], rng.randint(2, 5))
    names = [made_up_word(rng) if rng.random() < 0.1 else name for name in names]
    facts: dict[str, str | None] = {name: value(rng.choice(VALUE_KINDS), rng) for name in names}
    entry, gap = rng.choice(
        [
            ("{}: {}", "\n"),
            ("{} = {}", ", "),
            ("{} is {}", ", "),
            ("The {} is {}.", " "),
            ("{}: {}", "; "),
        ]
    )
    text = gap.join(entry.format(name, fact) for name, fact in facts.items())
    asked = rng.sample(names, rng.randint(1, len(names)))
    if rng.random() < 0.3:
        absent = rng.choice(FIELD_NAMES)
        facts.setdefault(absent, None)
        asked = list(dict.fromkeys([*asked, absent]))
    verb = rng.choice(["Give", "Read", "Find", "Extract", "Write", "Return"])
    return (
        f"{verb} {', '.join(asked)} as JSON.",
        text,
        compact({name: facts[name] for name in asked}),
    )


def repeat(rng: Random) -> tuple[str, str, str]:
    """A text to be said again as it is."""
    shape = rng.random()
    if shape < 0.3:
        text = fill(rng.choice(SENTENCES), rng)
    elif shape < 0.55:
        words = [rng.choice(COMMON_WORDS) for _ in range(rng.randint(2, 10))]
        words = [word.title() for word in words] if rng.random() < 0.2 else words
        gap = rng.choice([" ", " ", " ", ", ", "\n", "_", '","'])
        text = gap.join(words)
    elif shape < 0.75:
        text = " ".join(value(rng.choice(VALUE_KINDS), rng) for _ in range(rng.randint(2, 6)))
    else:
        text = " ".join(value("code", rng) for _ in range(rng.randint(1, 4)))
    system = expand("[Repeat|Copy|Say again|Echo] [the text|this|what you read].", rng)
    return system, text, text


def find(rng: Random) -> tuple[str, str, str]:
    """One value among sentences that hold others."""
    kind, asked, holder = rng.choice(
        [
            ("code", "number", "[The|My|Our] [number|code] is {it}."),
            ("code", "number", "[It is|Look for|I mean|Write down|Use] [no. |number |#|]{it}."),
            ("town", "town", "[I live|We are|The house is|It is] in {it}."),
            ("town", "town", "[We go|It goes|She travels|Send it] to {it}."),
            ("town", "town", "[We go|It goes|She travels] from {origin} to {it}."),
            ("name", "name", "[My name is|I am|This is|Ask for] {it}."),
            ("colour", "colour", "[It is|I want|She likes] {it}."),
            ("day", "day", "[Come|See you|It starts] on {it}."),
        ]
    )
    found = value(kind, rng)
    others = [
        fill(rng.choice(topics.ASIDES), rng)
        if kind in ("colour", "town", "name") and rng.random() < 0.5
        else fill(rng.choice(SENTENCES[:4]), rng)
        for _ in range(rng.randint(0, 2))
    ]
    others = [other for other in others if not (kind == "colour" and "have a" in other)]
    sentences = [fill(holder, rng, it=found), *others]
    rng.shuffle(sentences)
    system = expand(f"[Which {asked} is it?|Find the {asked}.|Give the {asked}.|The {asked}?]", rng)
    return system, careless(" ".join(sentences), rng), found


def change_case(rng: Random) -> tuple[str, str, str]:
    """Names of towns and people as they are written, from careless spelling."""
    words = [value(rng.choice(["town", "town", "name"]), rng) for _ in range(rng.randint(1, 4))]
    text = ", ".join(words)
    how = rng.choice(["lower", "upper", "title"])
    if how == "lower":
        return "Write in small letters.", text, text.lower()
    if how == "upper":
        return "Write in capital letters.", text, text.upper()
    return "Write as names.", text.lower(), text


def fill(template: str, rng: Random, *, it: str = "") -> str:
    """A text of the template with its slots filled at random, {it} with what is given."""
    text = expand(template, rng)
    return SLOT.sub(lambda slot: it if slot[1] == "it" else value(slot[1], rng), text)


def compact(facts: dict[str, str | None]) -> str:
    return json.dumps(facts, ensure_ascii=False, separators=(",", ":"))
