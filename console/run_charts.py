"""The charts of a run, as a part of its page that asks for itself again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from django.urls import reverse
from django.utils.translation import gettext as _

from console import charts, formats
from console.charts import Chart, Point, Series
from training import curves
from training.choices import HOLDING, TERMINAL
from training.curves import Curves
from training.models import TrainingRun

MOVING_SECONDS, RESTING_SECONDS = 2, 15
SMOOTHED_FROM = 20  # measurements; fewer are shown as they are
REWARDS = ("reward_chosen", "reward_rejected", "reward_margin")


@dataclass(frozen=True)
class Drawing:
    """One chart before it is drawn."""

    title: str
    y_title: str
    lines: Sequence[Series]
    y_from_zero: bool = False

    @property
    def has_points(self) -> bool:
        return any(line.points for line in self.lines)


def seen(run: TrainingRun) -> str:
    """Changes whenever the charts may: whoever has seen them so needs no others."""
    return f"{run.progress_offset}.{run.step}.{run.status in TERMINAL:d}"


def part(run: TrainingRun) -> dict[str, Any]:
    """What _charts.html shows. A run that is over measures no more."""
    mark = seen(run)
    pace = MOVING_SECONDS if run.status in HOLDING else RESTING_SECONDS
    return {
        "charts": draw(run),
        "charts_url": f"{reverse('console:run_charts', args=[run.pk])}?seen={mark}",
        "charts_seconds": 0 if run.status in TERMINAL else pace,
    }


def draw(run: TrainingRun) -> list[Chart]:
    """Only what was measured; before the first measurement the loss alone, which is to come."""
    measured = curves.read(run)
    drawings = list(_drawings(measured))
    kept = [one for one in drawings if one.has_points] or drawings[:1]
    return [
        charts.line_chart(
            title=one.title,
            x_title=_("Step"),
            y_title=one.y_title,
            series=one.lines,
            x_max=float(run.total_steps) if run.total_steps else None,
            y_from_zero=one.y_from_zero,
            csv_url=reverse("console:run_metrics", args=[run.pk]),
        )
        for one in kept
    ]


def _drawings(measured: Curves) -> Iterator[Drawing]:
    loss = list(_smoothed(measured, "loss", _("Training loss"), _("Training loss, each step")))
    held_out = Series(_("Held-out loss"), measured.of("eval_loss").means)
    yield Drawing(_("Loss by step"), _("Loss (nats per token)"), [*loss, held_out])
    yield from _of_method(measured)
    speed = _smoothed(measured, "tokens_per_second", _("Speed"), _("Speed, each step"))
    yield Drawing(_("Speed by step"), _("Tokens per second"), list(speed), y_from_zero=True)
    rate = Series(_("Learning rate"), measured.of("learning_rate").points)
    yield Drawing(_("Learning rate by step"), _("Learning rate"), [rate], y_from_zero=True)
    norms = _smoothed(measured, "grad_norm", _("Gradient norm"), _("Gradient norm, each step"))
    yield Drawing(_("Gradient norm by step"), _("Gradient norm"), list(norms), y_from_zero=True)
    memory = [(x, y / formats.GIB) for x, y in measured.of("memory_bytes").points]
    yield Drawing(
        _("Memory by step"), _("GiB"), [Series(_("Memory in use"), memory)], y_from_zero=True
    )


def _of_method(measured: Curves) -> Iterator[Drawing]:
    """What a method tells beside its loss: rewards together, every other measure by itself."""
    names = measured.details
    rewards = [
        Series(label_of(name), charts.smoothed(measured.of(name).means, weight=0.6))
        for name in REWARDS
        if name in names
    ]
    if rewards:
        yield Drawing(_("Rewards by step, smoothed"), _("Reward"), rewards)
    for name in names:
        if name in REWARDS:
            continue
        label = label_of(name)
        lines = list(_smoothed(measured, name, label, _("Each step")))
        title = _("%(measure)s by step") % {"measure": label}
        is_share = "accuracy" in name
        yield Drawing(title, _("Share") if is_share else label, lines, y_from_zero=is_share)


def label_of(name: str) -> str:
    """A measure's name as people read it; one that we have no word for as it is written."""
    known = {
        "reward_chosen": _("Reward of chosen answers"),
        "reward_rejected": _("Reward of rejected answers"),
        "reward_margin": _("Reward margin"),
        "reward_accuracy": _("Chosen before rejected"),
        "accuracy": _("Token accuracy"),
        "token_accuracy": _("Token accuracy"),
        "kl": _("Divergence from the reference"),
    }
    return known.get(name, name.replace("_", " ").capitalize())


def _smoothed(measured: Curves, name: str, label: str, label_of_each: str) -> Iterator[Series]:
    """The line that the eye follows, and behind it what was measured."""
    curve = measured.of(name)
    if len(curve.points) <= SMOOTHED_FROM:
        yield Series(label, curve.points)
        return
    yield Series(label_of_each, curve.points, faint=True)
    yield Series(label, _calm(curve.points, curve.means))


def _calm(points: Sequence[Point], means: Sequence[Point]) -> Sequence[Point]:
    """Means of stretches are calm already."""
    return charts.smoothed(means, weight=0.6) if len(means) == len(points) else means
