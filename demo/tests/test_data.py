import json
import re
from pathlib import Path

import pytest

from demo.data import DATASETS, write_dataset
from demo.data.domain import Domain, Phrasebook
from demo.data.grammar import all_expansions
from demo.data.write import DOMAINS

SIZES = {"train": 1500, "heldout": 200, "harder": 100}
FIELDS = ["intent", "order_number", "city", "urgency"]


def make_splits(name: str, folder: Path, *, seed: int = 0) -> dict[str, list[tuple[str, dict]]]:
    """By split: (message, answer) of every line, after a look at the line's shape."""
    splits = {}
    for split, path in write_dataset(name, folder, **SIZES, seed=seed).items():
        rows = []
        for line in path.read_text(encoding="utf-8").splitlines():
            messages = json.loads(line)["messages"]
            assert [message["role"] for message in messages] == ["system", "user", "assistant"]
            assert messages[0]["content"] == DOMAINS[name].instruction
            answer = json.loads(messages[2]["content"])
            assert json.dumps(answer, separators=(",", ":")) == messages[2]["content"]
            rows.append((messages[1]["content"], answer))
        assert len(rows) == SIZES[split]
        splits[split] = rows
    return splits


def phrases_of(book: Phrasebook) -> list[str]:
    cues = [cue for level in book.urgency_cues.values() for cue in level]
    requests = [request for intent in book.requests.values() for request in intent]
    banks = (book.openings, book.order_mentions, book.city_mentions, book.asides, book.closings)
    return all_expansions((*requests, *cues, *(text for bank in banks for text in bank)))


def wording(text: str) -> str:
    """The words alone: case and punctuation make no new phrasing."""
    return " ".join(re.findall(r"[\w{}]+", text.casefold()))


def cities_in(domain: Domain, message: str) -> list[str]:
    return [city for city in domain.cities if re.search(rf"\b{city}\b", message, re.IGNORECASE)]


def destinations(domain: Domain, message: str) -> list[str]:
    """Where it goes: of two cities the one that it does not come from."""
    named = cities_in(domain, message)
    if len(named) < 2:
        return named
    start = r"\b(from|out of) "
    return [city for city in named if not re.search(start + city, message, re.IGNORECASE)]


@pytest.mark.parametrize("name", DATASETS)
def test_same_seed_gives_same_bytes_and_another_seed_other_ones(name: str, tmp_path: Path) -> None:
    first = write_dataset(name, tmp_path / "a", **SIZES)
    again = write_dataset(name, tmp_path / "b", **SIZES)
    other = write_dataset(name, tmp_path / "c", **SIZES, seed=1)
    for split, path in first.items():
        assert path.read_bytes() == again[split].read_bytes()
        assert path.read_bytes() != other[split].read_bytes()


@pytest.mark.parametrize("name", DATASETS)
def test_evaluation_does_not_depend_on_how_much_is_trained(name: str, tmp_path: Path) -> None:
    small = write_dataset(name, tmp_path / "a", train=10)
    large = write_dataset(name, tmp_path / "b", train=500)
    assert small["heldout"].read_bytes() == large["heldout"].read_bytes()
    assert small["harder"].read_bytes() == large["harder"].read_bytes()


@pytest.mark.parametrize("name", DATASETS)
def test_no_message_occurs_twice(name: str, tmp_path: Path) -> None:
    splits = make_splits(name, tmp_path)
    messages = [message.casefold() for rows in splits.values() for message, _ in rows]
    assert len(set(messages)) == sum(SIZES.values())


@pytest.mark.parametrize("name", DATASETS)
def test_every_answer_can_be_read_from_its_message(name: str, tmp_path: Path) -> None:
    domain = DOMAINS[name]
    splits = make_splits(name, tmp_path)
    for split, rows in splits.items():
        book = domain.harder if split == "harder" else domain.known
        cues = {
            level: [wording(cue) for cue in all_expansions(templates)]
            for level, templates in book.urgency_cues.items()
        }
        for message, answer in rows:
            assert list(answer) == FIELDS
            assert answer["intent"] in book.requests
            orders = re.findall(r"\b(?:[A-Z]{2})?\d{6}\b", message)
            assert orders == [answer["order_number"]] * len(orders)
            assert bool(orders) == (answer["order_number"] is not None)
            assert destinations(domain, message) == ([answer["city"]] if answer["city"] else [])
            said = wording(message)
            found = [(len(cue), level) for level in cues for cue in cues[level] if cue in said]
            assert (max(found)[1] if found else None) == answer["urgency"]


@pytest.mark.parametrize("name", DATASETS)
def test_splits_are_varied(name: str, tmp_path: Path) -> None:
    domain = DOMAINS[name]
    train = make_splits(name, tmp_path)["train"]
    assert {answer["intent"] for _, answer in train} == set(domain.known.requests)
    assert {answer["city"] for _, answer in train} == {*domain.cities, None}
    assert {answer["urgency"] for _, answer in train} == {"high", "medium", "low", None}
    assert any(message.islower() for message, _ in train)
    numbers = [answer["order_number"] for _, answer in train if answer["order_number"]]
    assert len(set(numbers)) > 0.99 * len(numbers)


@pytest.mark.parametrize("name", DATASETS)
def test_intent_follows_from_the_request(name: str) -> None:
    for book in (DOMAINS[name].known, DOMAINS[name].harder):
        intents: dict[str, str] = {}
        for intent, templates in book.requests.items():
            for request in all_expansions(templates):
                assert intents.setdefault(wording(request), intent) == intent


@pytest.mark.parametrize("name", DATASETS)
def test_harder_phrases_do_not_occur_in_training(name: str, tmp_path: Path) -> None:
    domain = DOMAINS[name]
    known = {wording(phrase) for phrase in phrases_of(domain.known)}
    harder = [wording(phrase) for phrase in phrases_of(domain.harder)]
    assert not known.intersection(harder)
    trained = [wording(message) for message, _ in make_splits(name, tmp_path)["train"]]
    fixed = [phrase for phrase in harder if "{" not in phrase]
    assert len(fixed) > 40
    for message in trained:
        assert not any(phrase in message for phrase in fixed)
