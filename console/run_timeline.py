"""Where a run's time went: what it waited for, prepared, trained and rested, from what happened."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from training import selectors
from training.models import TrainingRun

WIDTH = 1000.0
MOST_EVENTS = 2000

LABELS: dict[str, str | Promise] = {
    "waiting": _("Waiting for accelerators"),
    "starting": _("Starting"),
    "training": _("Training"),
    "paused": _("Paused"),
    "publishing": _("Publishing"),
}
# What a run is at from an event of this kind on; other events change nothing.
AFTER = {
    "placed": "starting",
    "restart": "starting",
    "started": "training",
    "finished": "publishing",
    "paused": "paused",
    "resumed": "waiting",
    "yielded": "waiting",
    "node_lost": "waiting",
    "starts_anew": "waiting",
}


@dataclass(frozen=True)
class Stretch:
    """One piece of the bar, 0 to 1000."""

    kind: str
    x: float
    width: float


@dataclass(frozen=True)
class Share:
    """All time of one kind."""

    kind: str
    label: str
    seconds: float


@dataclass(frozen=True)
class Timeline:
    stretches: Sequence[Stretch]
    shares: Sequence[Share]

    def mean_speed(self, tokens: int) -> float | None:
        """Tokens a second of training, without what came between; None before there are any."""
        seconds = sum(share.seconds for share in self.shares if share.kind == "training")
        return tokens / seconds if tokens and seconds else None


def draw(run: TrainingRun, *, now: datetime) -> Timeline:
    """From creation to the end, or to now."""
    events = selectors.list_events(run).filter(kind__in=AFTER)
    turns = [(run.created_at, "waiting")]
    for at, kind in events.values_list("at", "kind")[:MOST_EVENTS]:
        if AFTER[kind] != turns[-1][1]:
            turns.append((max(at, turns[-1][0]), AFTER[kind]))
    end = max(run.ended_at or now, turns[-1][0])
    total = max((end - run.created_at).total_seconds(), 1e-3)
    seconds = dict.fromkeys(LABELS, 0.0)
    stretches = []
    for (since, kind), (until, _next) in zip(turns, [*turns[1:], (end, "")], strict=True):
        x = WIDTH * (since - run.created_at).total_seconds() / total
        length = (until - since).total_seconds()
        stretches.append(Stretch(kind, x, WIDTH * length / total))
        seconds[kind] += length
    return Timeline(
        stretches,
        [Share(kind, str(LABELS[kind]), amount) for kind, amount in seconds.items() if amount],
    )
