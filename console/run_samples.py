"""What a run answered to its fixed prompts on the way, each answer beside the one before it."""

from dataclasses import dataclass

from console import differences
from console.differences import Part
from training import selectors
from training.models import TrainingRun

READ_STEPS = 24
SHOWN_ANSWERS = 4  # of a prompt, each other than the one before
MOST_CHARACTERS = 4000  # of one answer


@dataclass(frozen=True)
class Answer:
    """Given at all steps from `first` to `last`. `parts` mark what is other than in the answer
    before it."""

    first: int
    last: int
    parts: list[Part]


@dataclass(frozen=True)
class Prompt:
    """The latest answer first."""

    text: str
    answers: list[Answer]


def latest(run: TrainingRun) -> list[Prompt]:
    """By prompt, in the run's order: its last answers."""
    newest = list(selectors.list_samples(run).order_by("-step")[:READ_STEPS])
    said: dict[str, list[tuple[int, str]]] = {}
    for sample in reversed(newest):
        for one in sample.answers:
            answer = str(one.get("answer", ""))[:MOST_CHARACTERS]
            said.setdefault(str(one.get("prompt", "")), []).append((sample.step, answer))
    return [Prompt(prompt, _answers(told)) for prompt, told in said.items()]


def _answers(told: list[tuple[int, str]]) -> list[Answer]:
    """Steps that answer alike are told of once."""
    alike: list[tuple[str, list[int]]] = []
    for step, answer in told:
        if not alike or alike[-1][0] != answer:
            alike.append((answer, []))
        alike[-1][1].append(step)
    found = []
    for place, (answer, steps) in enumerate(alike):
        parts = differences.parts(alike[place - 1][0], answer) if place else []
        found.append(Answer(steps[0], steps[-1], parts or [Part("same", answer)]))
    return found[::-1][:SHOWN_ANSWERS]
