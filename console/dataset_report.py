"""A version's report as its page shows it: figures, histogram, balance of labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.utils.translation import gettext as _

from console import charts
from training.models import DatasetSplit, DatasetVersion

VALUES_SHOWN = 8
FIELDS_SHOWN = 12
LIMITS: tuple[int, ...] = tuple(
    1 << power for power in range(8, 16)
)  # tokens; counting tells what is longer
USUAL_LIMIT = 2048
LEAKS = ("leak", "leak_near", "leak_question")


@dataclass(frozen=True)
class Value:
    text: str
    count: int
    share: float


@dataclass(frozen=True)
class LabelField:
    """`distinct` is None for free text, which has no values to show."""

    name: str
    present: int
    distinct: int | None
    values: list[Value]
    more: int


def histogram(split: DatasetSplit, figures: dict[str, Any]) -> charts.Chart | None:
    """Examples by length in tokens; None where they were not counted."""
    bars = figures.get("histogram")
    if not bars:
        return None
    low, high = bars[0][0], bars[-1][0]
    counts = dict(map(tuple, bars))
    bounds = [low]
    while bounds[-1] < high:
        bounds.append(bounds[-1] * 2)
    return charts.bar_chart(
        title=_("Length of examples in %(split)s") % {"split": split.name},
        x_title=_("Tokens, up to"),
        y_title=_("Examples"),
        label=_("Examples"),
        bars=[(_short(bound), float(counts.get(bound, 0))) for bound in bounds],
    )


def _short(bound: int) -> str:
    """Powers of two as they are spoken of: 512, 1k, 32k."""
    return f"{bound // 1024}k" if bound >= 1024 else str(bound)


@dataclass(frozen=True)
class Cut:
    """What a length limit would take away from a split."""

    examples: int
    share: float
    tokens_lost: int
    token_share: float


def cut_at(examples: int, figures: dict[str, Any], limit: int) -> Cut | None:
    """At one of `LIMITS`; None where the tokens were not counted."""
    over, kept = (dict(map(tuple, figures.get(name, ()))) for name in ("over", "kept"))
    if limit not in over:
        return None
    total = figures.get("token_count") or 0
    lost = max(total - kept.get(limit, total), 0)
    return Cut(over[limit], over[limit] / max(1, examples), lost, lost / max(1, total))


@dataclass(frozen=True)
class Leak:
    """Examples that two splits of the version share; `kind` leads to their lines."""

    left: str
    right: str
    examples: int
    kind: str


def leaks(version: DatasetVersion) -> list[Leak]:
    names = {split.name for split in version.splits.all()}
    counts = version.report.get("findings", {})
    kind = next((one for one in LEAKS if counts.get(one)), "")
    return [
        Leak(one["splits"][0], one["splits"][1], one["examples"], kind)
        for one in version.report.get("leakage", ())
        if set(one["splits"]) <= names
    ]


def label_fields(version: DatasetVersion, split: str) -> list[LabelField]:
    """Fields of JSON answers with the values that they have most."""
    fields = version.report.get("labels", {}).get(split, {}).get("fields", {})
    return [
        LabelField(
            name=name,
            present=one["present"],
            distinct=one["distinct"],
            values=_values(one["values"], one["present"]),
            more=max(0, (one["distinct"] or 0) - VALUES_SHOWN),
        )
        for name, one in list(fields.items())[:FIELDS_SHOWN]
    ]


def _values(values: Sequence[Sequence[Any]], present: int) -> list[Value]:
    return [Value(text, count, count / max(1, present)) for text, count in values[:VALUES_SHOWN]]


@dataclass(frozen=True)
class Turn:
    """One message as the lines page shows it."""

    role: str
    text: str
    note: str = ""


def turns(row: dict[str, Any]) -> list[Turn]:
    """Who says what in a canonical line of any kind."""
    if "input" in row:
        return [
            *(_turn(one) for one in row["input"]["messages"]),
            *(_turn(one, _("preferred")) for one in row["preferred_output"]),
            *(_turn(one, _("not preferred")) for one in row["non_preferred_output"]),
        ]
    said = [_turn(one) for one in row["messages"]]
    if "label" in row:
        note = _("to learn") if row["label"] else _("to unlearn")
        said[-1] = Turn(said[-1].role, said[-1].text, note)
    return said


def _turn(message: dict[str, Any], note: str = "") -> Turn:
    calls = [
        f"{call['function']['name']}({call['function']['arguments']})"
        for call in message.get("tool_calls", ())
    ]
    text = "\n".join([message["content"] or "", *calls]).strip()
    if message.get("weight") == 0:
        note = _("not learnt")
    return Turn(message["role"], text, note)
