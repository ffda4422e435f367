"""What the doctor may find: a word for it, how bad it is, and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from common.texts import storable

KEPT = 1000  # of each kind, by line
EXCERPT_CHARACTERS = 200

BAD, WARN, INFO = "bad", "warn", "info"


@dataclass(frozen=True)
class Kind:
    """`group` says under which heading it is shown."""

    name: str
    group: str
    severity: str
    message: str
    remedy: str


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("error", "errors", BAD, "The line cannot be trained on.", "Mend the line."),
        Kind(
            "leak",
            "leakage",
            BAD,
            "The example is in another split as well.",
            "Take it out of the split that is learnt from, or let the splits be made here.",
        ),
        Kind(
            "leak_near",
            "leakage",
            WARN,
            "Nearly the same example is in another split.",
            "Hold out by a key that such examples share, such as a customer or a template.",
        ),
        Kind(
            "leak_question",
            "leakage",
            WARN,
            "The question is in another split as well, with another answer.",
            "Hold out by a key that repeated questions share.",
        ),
        Kind(
            "evaluation_leak",
            "leakage",
            BAD,
            "The example is in a set that evaluations of this organization ask.",
            "Take it out: a model that has learnt it proves nothing on that set.",
        ),
        Kind(
            "evaluation_leak_near",
            "leakage",
            WARN,
            "Nearly the same example is in a set that evaluations ask.",
            "Look at both, and take it out if they ask the same thing.",
        ),
        Kind(
            "duplicate",
            "duplicates",
            WARN,
            "The example is there already.",
            "Keep one, unless it is meant to weigh more.",
        ),
        Kind(
            "near_duplicate",
            "duplicates",
            INFO,
            "Nearly the same example is there already.",
            "Keep the better one if they teach the same.",
        ),
        Kind(
            "contradiction",
            "answers",
            WARN,
            "The same question has another answer elsewhere in this split.",
            "Decide for one answer, or add what makes the two cases different to the question.",
        ),
        Kind(
            "same_outputs",
            "answers",
            WARN,
            "The preferred and the other answer are the same.",
            "Remove the line: nothing can be preferred here.",
        ),
        Kind(
            "unbalanced",
            "labels",
            WARN,
            "One value of a field makes up nearly all answers.",
            "Add examples of the other values, or a model may learn to say this one always.",
        ),
        Kind(
            "rare_value",
            "labels",
            INFO,
            "A value of a field is in very few answers.",
            "Add examples of it, or leave it out on purpose.",
        ),
        Kind(
            "secret",
            "privacy",
            BAD,
            "The text looks like it holds a key or a password.",
            "Revoke the secret and replace it in the line: models repeat what they learn.",
        ),
        Kind(
            "card",
            "privacy",
            WARN,
            "The text looks like it holds the number of a payment card.",
            "Replace the number with a made-up one.",
        ),
        Kind(
            "national_id",
            "privacy",
            WARN,
            "The text looks like it holds a Chinese resident identity number.",
            "Replace the number with a made-up one.",
        ),
        Kind(
            "iban",
            "privacy",
            WARN,
            "The text looks like it holds the number of a bank account.",
            "Replace the number with a made-up one.",
        ),
        Kind(
            "email",
            "privacy",
            INFO,
            "The text holds an e-mail address.",
            "Replace it if it is a real person's.",
        ),
        Kind(
            "phone",
            "privacy",
            INFO,
            "The text looks like it holds a telephone number.",
            "Replace it if it is a real person's.",
        ),
        Kind(
            "ip",
            "privacy",
            INFO,
            "The text holds an IP address.",
            "Replace it if it leads to a real person or machine.",
        ),
        Kind(
            "encoding",
            "texts",
            WARN,
            "The text looks as if it was decoded wrongly.",
            "Read the source with its own encoding, and write UTF-8.",
        ),
        Kind(
            "control_characters",
            "texts",
            WARN,
            "The text holds control characters.",
            "Remove them: a model would learn to write them.",
        ),
        Kind(
            "huge_turn",
            "texts",
            WARN,
            "One message is very long.",
            "Cut it: what lies beyond the length limit of training is not learnt.",
        ),
        Kind(
            "longest",
            "texts",
            INFO,
            "One of the longest examples, in tokens.",
            "Set the length limit of training above it, or shorten it.",
        ),
    )
}


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a line (0: about the whole split). `other_*` names the line it is like."""

    kind: str
    split: str
    line: int
    field: str = ""
    excerpt: str = ""
    other_split: str = ""
    other_line: int = 0
    score: float | None = None


@dataclass
class Ledger:
    """All findings counted, the first thousand of each kind kept."""

    kept: dict[str, list[Finding]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, finding: Finding) -> None:
        self.counts[finding.kind] += 1
        kept = self.kept.setdefault(finding.kind, [])
        if len(kept) < KEPT:
            kept.append(finding)

    def merge(self, other: Ledger) -> None:
        """Take over what was found further on in the same files."""
        self.counts.update(other.counts)
        for kind, findings in other.kept.items():
            kept = self.kept.setdefault(kind, [])
            kept.extend(findings[: KEPT - len(kept)])

    def all(self) -> Iterable[Finding]:
        for kind in KINDS:
            yield from self.kept.get(kind, ())


def excerpt(text: str, begin: int = 0, end: int | None = None) -> str:
    """A piece of a text, fit for a row."""
    return storable(text[begin:end], limit=EXCERPT_CHARACTERS)
