"""How a rollout goes: from what people write to the planner's value, and back."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from common.errors import InvalidInput
from planner.rollout import Plan, Step

MOST_STEPS = 10
STRATEGIES = {  # max_surge, max_unavailable
    "surge": (1, 0),
    "replace": (0, 1),
}
LIMITS: dict[str, tuple[float, float]] = {
    "max_surge": (0, 64),
    "max_unavailable": (0, 64),
    "max_failures": (1, 100),
    "deadline_seconds": (1, 86_400),
    "min_requests": (1, 1_000_000),
    "max_error_share": (0, 1),
    "error_ratio": (1, 1000),
    "max_first_token_seconds": (0.001, 3600),
    "first_token_ratio": (1, 1000),
}
ELSEWHERE = ("strategy", "gate")
WHOLE = {"max_surge", "max_unavailable", "max_failures", "min_requests"}


def read(*layers: Mapping[str, Any]) -> Plan:
    """Later layers win over earlier ones, all of them over the planner's own values.

    `strategy` stands for two bounds: "surge" starts new replicas beside old ones, "replace" ends
    old ones first and needs no room. A `gate` (see `read_gate`) is waited for before the first
    step unless `gated_step` says otherwise. Raises InvalidInput by field.
    """
    values: dict[str, Any] = write(Plan())
    for layer in layers:
        values |= _bounds(layer) | {name: v for name, v in layer.items() if name not in ELSEWHERE}
    if read_gate(*layers) is not None:
        values["is_gated"] = True
        values["gated_step"] = values["gated_step"] or 1
    for name, value in values.items():
        if name == "steps":
            values[name] = _steps(value)
        elif name == "is_gated":
            if not isinstance(value, bool):
                raise InvalidInput("This is true or false.", field="plan.is_gated")
        elif name == "gated_step":
            continue  # below, when the steps are known
        elif name in LIMITS:
            _check_number(name, value)
        else:
            known = ", ".join(["strategy", "steps", *LIMITS, "is_gated", "gated_step", "gate"])
            raise InvalidInput("No such word.", field=f"plan.{name}", remedy=f"Known are {known}.")
    if not values["max_surge"] and not values["max_unavailable"]:
        raise InvalidInput(
            "With no replica more and none fewer nothing can be replaced.",
            field="plan.max_surge",
            remedy="Set max_surge or max_unavailable to at least 1.",
        )
    _check_gated_step(values["gated_step"], len(values["steps"]))
    return Plan(**values)


def read_gate(*layers: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the new revision must have shown (models_registry/rules.py), by the last layer that
    says anything; None there takes away what earlier ones ask for. Raises InvalidInput."""
    said = [layer["gate"] for layer in layers if "gate" in layer]
    if not said or said[-1] is None:
        return None
    if not isinstance(said[-1], Mapping):
        raise InvalidInput("A gate is a rule, an object.", field="plan.gate")
    return said[-1]


def write(plan: Plan) -> dict[str, Any]:
    """As `read` takes it, complete."""
    return asdict(plan) | {"steps": [asdict(step) for step in plan.steps]}


def _bounds(layer: Mapping[str, Any]) -> dict[str, Any]:
    strategy = layer.get("strategy")
    if strategy is None:
        return {}
    if strategy not in STRATEGIES:
        raise InvalidInput(
            f"There is no strategy {strategy!r}.",
            field="plan.strategy",
            remedy=f"Use one of {', '.join(STRATEGIES)}.",
        )
    return dict(zip(("max_surge", "max_unavailable"), STRATEGIES[strategy], strict=True))


def _check_number(name: str, value: object) -> None:
    if name == "max_first_token_seconds" and value is None:
        return
    low, high = LIMITS[name]
    is_number = isinstance(value, int if name in WHOLE else int | float)
    if not is_number or isinstance(value, bool) or not low <= value <= high:  # type: ignore[operator]
        raise InvalidInput(
            f"{value!r} is out of range.", field=f"plan.{name}", remedy=f"Use {low} to {high}."
        )


def _check_gated_step(value: object, steps: int) -> None:
    if value is not None and not (type(value) is int and 1 <= value <= steps):
        raise InvalidInput(
            f"{value!r} is none of the steps.",
            field="plan.gated_step",
            remedy=f"Use 1 to {steps}, or leave it out.",
        )


def _steps(value: object) -> tuple[Step, ...]:
    try:
        steps = tuple(Step(weight=one["weight"], bake_seconds=one["bake_seconds"]) for one in value)  # type: ignore[attr-defined]
        weights = [step.weight for step in steps]
        sound = (
            1 <= len(steps) <= MOST_STEPS
            and all(type(weight) is int and 1 <= weight <= 100 for weight in weights)
            and weights == sorted(set(weights))
            and weights[-1] == 100
            and all(
                type(step.bake_seconds) in (int, float) and 0 <= step.bake_seconds <= 86_400
                for step in steps
            )
        )
    except (TypeError, KeyError):
        sound = False
    if not sound:
        raise InvalidInput(
            "Steps are not as they must be.",
            field="plan.steps",
            remedy=f"Give 1 to {MOST_STEPS} objects of weight (1 to 100, rising, the last 100) and "
            "bake_seconds (0 to 86400).",
        )
    return steps
