"""The training wizard, filled with what a run was made with: to run it again with changes."""

from typing import Any

from django.urls import reverse
from django.utils.http import urlencode

from common.errors import InvalidInput
from console.run_forms import MethodStep
from trainer.spec import Hyperparameters
from training import recipes
from training.models import TrainingRun


def address(run: TrainingRun) -> str:
    """At the step where most changes are made. What the recipe gives is left to it."""
    asked: dict[str, Any] = {
        "base": run.base_revision_id,
        "data": run.dataset_version_id,
        "train_split": run.train_split,
        "eval_split": run.eval_split,
        "method": run.method,
        "tuning": run.tuning,
        "recipe": run.recipe,
        "accelerators": run.accelerators_wanted,
        "pool_name": run.pool_name,
        "step": "method",
    }
    return f"{reverse('console:run_create')}?{urlencode(asked | _typed(run))}"


def _typed(run: TrainingRun) -> dict[str, Any]:
    """Hyperparameters that are not what recipe and trainer give by themselves."""
    usual = Hyperparameters().to_json() | _of_recipe(run)
    own = {
        name: value
        for name, value in run.hyperparameters.items()
        if value is not None and value != usual.get(name)
    }
    typed = {name: own[name] for name in MethodStep.KEPT_AS_TYPED if name in own}
    for name in ("sample_every_steps", "sample_prompts"):
        if name in own:
            typed[name] = own[name]
    if own.get("packing"):
        typed["packing"] = "on"
    if "max_seconds" in own:
        typed["max_minutes"] = own["max_seconds"] / 60
    return typed


def _of_recipe(run: TrainingRun) -> dict[str, Any]:
    """Nothing for one that this version of the platform does not have any more."""
    if not run.recipe:
        return {}
    try:
        recipe = recipes.find(run.recipe)
    except InvalidInput:
        return {}
    return dict(recipe.values_for(parameters=run.base_revision.parameter_count))
