"""From what was asked for to hyperparameters in full: what was given, then the recipe's, then the
trainer's own defaults."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import InvalidInput
from models_registry.models import Revision
from trainer.errors import SpecError
from trainer.spec import LEARNING_RATES, Hyperparameters
from training import recipes
from training.recipes import Recipe


@dataclass(frozen=True)
class Settled:
    """`recipe` is None where none fits and the trainer's own defaults hold."""

    recipe: Recipe | None
    hyperparameters: dict[str, Any]

    @property
    def recipe_key(self) -> str:
        """"name@version", or ""."""
        return self.recipe.key if self.recipe is not None else ""


def settle(
    given: Mapping[str, Any], *, method: str, tuning: str, base: Revision, recipe: str = ""
) -> Settled:
    """All hyperparameters, written out; `recipe` names one, else the default for the base holds.

    Raises InvalidInput naming `recipe` or `hyperparameters.<name>`.
    """
    chosen = recipes.choose(
        recipe,
        method=method,
        tuning=tuning,
        model_type=base.model_type,
        parameters=base.parameter_count,
    )
    wanted = chosen.values_for(parameters=base.parameter_count) if chosen is not None else {}
    # accumulation makes up a step together with the recipe's own batch: alone it means nothing
    if "batch_size" in given and "gradient_accumulation" not in given:
        wanted.pop("gradient_accumulation", None)
    try:
        values = Hyperparameters.from_json({**wanted, **given}).to_json()
    except SpecError as error:
        raise InvalidInput(error.message, field=error.field, remedy=error.remedy) from error
    values["learning_rate"] = values["learning_rate"] or LEARNING_RATES[method][tuning]
    _fit_length(values, given, base)
    return Settled(chosen, values)


def _fit_length(values: dict[str, Any], given: Mapping[str, Any], base: Revision) -> None:
    limit = base.context_length_tokens
    if not limit or values["max_length_tokens"] <= limit:
        return
    if "max_length_tokens" in given:
        raise InvalidInput(
            f"{base} reads at most {limit} tokens, not {values['max_length_tokens']}.",
            field="hyperparameters.max_length_tokens",
            remedy=f"Give {limit} or less, or leave it out.",
        )
    values["max_length_tokens"] = limit
