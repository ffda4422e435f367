"""What the dataset check finds, in the reader's words: by group, with how bad it is and a remedy."""

from collections.abc import Mapping
from dataclasses import dataclass

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from training.doctor.findings import KINDS

GROUPS: dict[str, str | Promise] = {
    "errors": _("Errors"),
    "leakage": _("Leakage"),
    "duplicates": _("Repeated examples"),
    "answers": _("Answers"),
    "labels": _("Labels"),
    "privacy": _("Personal data and secrets"),
    "texts": _("Texts"),
}
# (what it is, what to do)
WORDS: dict[str, tuple[str | Promise, str | Promise]] = {
    "error": (_("Lines that cannot be trained on"), _("Mend the lines and upload them again.")),
    "leak": (
        _("Examples that are in another split as well"),
        _("Take them out of what is learnt from, or let the splits be made here."),
    ),
    "leak_near": (
        _("Examples nearly like one in another split"),
        _("Hold out by a key that such examples share, such as a customer."),
    ),
    "leak_question": (
        _("Questions that another split answers otherwise"),
        _("Hold out by a key that repeated questions share."),
    ),
    "evaluation_leak": (
        _("Examples from a set that your evaluations ask"),
        _("Take them out: a model that has learnt them proves nothing on that set."),
    ),
    "evaluation_leak_near": (
        _("Examples nearly like one that your evaluations ask"),
        _("Look at both, and take out what asks the same thing."),
    ),
    "duplicate": (
        _("Examples that are there more than once"),
        _("Keep one of each, unless it is meant to weigh more."),
    ),
    "near_duplicate": (
        _("Examples nearly like an earlier one"),
        _("Keep the better one where both teach the same."),
    ),
    "contradiction": (
        _("Questions with different answers"),
        _("Decide for one answer, or add to the question what makes the cases different."),
    ),
    "same_outputs": (
        _("Pairs whose two answers are the same"),
        _("Remove them: nothing can be preferred there."),
    ),
    "unbalanced": (
        _("Fields where one value is nearly everything"),
        _("Add examples of other values, or a model may learn to say this one always."),
    ),
    "rare_value": (
        _("Values that very few answers have"),
        _("Add examples of them, or leave them out on purpose."),
    ),
    "secret": (
        _("What looks like keys or passwords"),
        _("Revoke and replace them: models repeat what they learn."),
    ),
    "card": (_("What looks like numbers of payment cards"), _("Replace them with made-up ones.")),
    "national_id": (
        _("What looks like Chinese identity numbers"),
        _("Replace them with made-up ones."),
    ),
    "iban": (_("What looks like bank accounts (IBAN)"), _("Replace them with made-up ones.")),
    "email": (_("E-mail addresses"), _("Replace those of real people.")),
    "phone": (_("What looks like telephone numbers"), _("Replace those of real people.")),
    "ip": (_("IP addresses"), _("Replace those that lead to real people or machines.")),
    "encoding": (
        _("Texts that look wrongly decoded"),
        _("Read the source with its own encoding, and write UTF-8."),
    ),
    "control_characters": (
        _("Texts with control characters"),
        _("Remove them: a model would learn to write them."),
    ),
    "huge_turn": (
        _("Very long messages"),
        _("Cut them: what lies beyond the length limit of training is not learnt."),
    ),
    "longest": (
        _("The longest examples, in tokens"),
        _("Set the length limit of training above them, or shorten them."),
    ),
}
TONES = {"bad": "bad", "warn": "warn", "info": ""}
SEVERITIES: dict[str, str | Promise] = {
    "bad": _("Serious"),
    "warn": _("Look at it"),
    "info": _("For information"),
}
ICONS = {"bad": "cross", "warn": "alert", "info": "info"}
SHOWS_BOTH = {
    "leak",
    "leak_near",
    "leak_question",
    "evaluation_leak",
    "evaluation_leak_near",
    "duplicate",
    "near_duplicate",
    "contradiction",
}


@dataclass(frozen=True)
class Row:
    """One kind, as a page tells it. `count` is of all, even where fewer are listed."""

    kind: str
    title: str | Promise
    remedy: str | Promise
    severity: str | Promise
    tone: str
    icon: str
    count: int


@dataclass(frozen=True)
class Group:
    title: str | Promise
    rows: list[Row]


def row_of(kind: str, count: int) -> Row:
    title, remedy = WORDS[kind]
    severity = KINDS[kind].severity
    return Row(kind, title, remedy, SEVERITIES[severity], TONES[severity], ICONS[severity], count)


def grouped(counts: Mapping[str, int]) -> list[Group]:
    """Groups that have something, in their order."""
    groups = []
    for name, title in GROUPS.items():
        rows = [
            row_of(kind, counts[kind])
            for kind in WORDS
            if KINDS[kind].group == name and counts.get(kind)
        ]
        if rows:
            groups.append(Group(title, rows))
    return groups
