"""A deployment's rollout as the console shows it: one card, wherever a page includes it."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from deployments import gate_states, plans, selectors
from deployments.choices import RolloutStatus
from deployments.gate_states import GateState
from deployments.models import Deployment, Rollout

SHOWN_AFTER = timedelta(days=1)  # how long one that has ended is still told of
WAITS: dict[str, str | Promise] = {
    "baking": gettext_lazy("Baking at this share"),
    "replicas": gettext_lazy("Waits until new replicas are ready"),
    "measurements": gettext_lazy("Waits: what gateways measure cannot be read now"),
    "gate": gettext_lazy("Waits for an evaluation to be passed"),
    "person": gettext_lazy("Held by a person"),
}


@dataclass(frozen=True)
class Measured:
    """What gateways saw of one side."""

    label: str
    requests: int
    error_share: float | None
    first_token_seconds: float | None


@dataclass(frozen=True)
class Card:
    """Shares are percent of the deployment's requests."""

    rollout: Rollout
    old_name: str
    new_name: str
    waits: str
    seconds_left: float | None = None  # of the present bake time
    steps: list[dict[str, object]] = field(default_factory=list)  # for the stepper
    measured: list[Measured] = field(default_factory=list)
    gate: GateState | None = None

    @property
    def share_new(self) -> int:
        return self.rollout.weight

    @property
    def share_old(self) -> int:
        return 100 - self.rollout.weight

    @property
    def may_be_paused(self) -> bool:
        return self.rollout.status == RolloutStatus.PROGRESSING and not self.is_asked("pause")

    @property
    def may_be_resumed(self) -> bool:
        return self.rollout.is_open and self.is_asked("pause") and self.may_be_aborted

    @property
    def may_be_promoted(self) -> bool:
        return self.may_be_aborted and not self.is_asked("promote")

    @property
    def may_be_aborted(self) -> bool:
        is_back = self.rollout.status == RolloutStatus.ROLLING_BACK
        return self.rollout.is_open and not is_back and not self.is_asked("abort")

    def is_asked(self, what: str) -> bool:
        return getattr(self.rollout, f"{what}_requested_at") is not None


def card_of(deployment: Deployment, *, now: datetime) -> Card | None:
    """The rollout under way, else the latest one of the last day; None without either."""
    rollout = selectors.get_open_rollout(deployment) or selectors.list_rollouts(deployment).first()
    if rollout is None or (rollout.ended_at and rollout.ended_at < now - SHOWN_AFTER):
        return None
    plan = plans.read(rollout.plan)
    left = None
    if rollout.waits_for == "baking" and rollout.step and rollout.step_entered_at is not None:
        baked = (now - rollout.step_entered_at).total_seconds()
        left = max(0.0, plan.steps[rollout.step - 1].bake_seconds - baked)
    served = rollout.from_variant or rollout.to_variant
    return Card(
        rollout=rollout,
        old_name=_("Variant %(number)s") % {"number": served.number},
        new_name=_("Variant %(number)s") % {"number": rollout.to_variant.number},
        waits=str(WAITS.get(rollout.waits_for, "")),
        seconds_left=left,
        steps=[
            {
                "label": _("%(weight)s %%") % {"weight": step.weight},
                "done": number < rollout.step,
                "current": number == rollout.step and rollout.is_open,
            }
            for number, step in enumerate(plan.steps, start=1)
        ],
        gate=gate_states.find(rollout),
        measured=[_measured(rollout, "old", _("Old")), _measured(rollout, "new", _("New"))],
    )


def _measured(rollout: Rollout, side: str, label: str) -> Measured:
    seen = rollout.measured.get(side, {})
    requests = seen.get("requests", 0)
    return Measured(
        label=label,
        requests=requests,
        error_share=seen["errors"] / requests if requests else None,
        first_token_seconds=seen.get("first_token_seconds"),
    )
