"""Recipes: named, versioned hyperparameters by family and size of the base, each with its reason.

What a run was trained with stands in its row in full; its recipe only says where the values came
from. `default_for` is the default of the wizard and of every API alike.
"""

from common.errors import InvalidInput
from common.texts import Text
from models_registry.models import Revision
from trainer.spec import LEARNING_RATES
from training.choices import Tuning
from training.recipes.book import RECIPES
from training.recipes.recipe import Recipe, Setting

__all__ = ["Recipe", "Setting", "choose", "default_for", "find", "list_recipes", "usual_rate"]


def default_for(
    *, method: str, tuning: str, model_type: str = "", parameters: int | None = None
) -> Recipe | None:
    """The newest recipe that fits, one made for the base's family before those for any; or None,
    where the trainer's own defaults hold."""
    fitting = [
        recipe
        for recipe in list_recipes(method=method, tuning=tuning)
        if recipe.fits(model_type=model_type, parameters=parameters)
    ]
    return max(fitting, key=lambda recipe: bool(recipe.families), default=None)


def list_recipes(*, method: str = "", tuning: str = "") -> list[Recipe]:
    """The newest version of each; those of one method, one tuning where asked."""
    newest: dict[str, Recipe] = {}
    for recipe in sorted(RECIPES, key=lambda one: one.version):
        newest[recipe.name] = recipe
    return [
        recipe
        for recipe in newest.values()
        if method in ("", recipe.method) and tuning in ("", recipe.tuning)
    ]


def find(key: str) -> Recipe:
    """By "name@version", or by "name" for its newest version. Raises InvalidInput (recipe)."""
    for recipe in [*list_recipes(), *RECIPES]:
        if key in (recipe.key, recipe.name):
            return recipe
    known = [recipe.name for recipe in list_recipes()]
    raise InvalidInput(
        Text("There is no recipe %(key)s.", key=repr(key)),
        field="recipe",
        remedy=Text("Use one of %(names)s, or none.", names=known),
    )


def choose(
    key: str, *, method: str, tuning: str, model_type: str = "", parameters: int | None = None
) -> Recipe | None:
    """The recipe that was asked for, or the default where none was. Raises InvalidInput (recipe)
    for one that is not there, or is of another method or tuning."""
    if not key:
        return default_for(
            method=method, tuning=tuning, model_type=model_type, parameters=parameters
        )
    recipe = find(key)
    if (recipe.method, recipe.tuning) != (method, tuning):
        raise InvalidInput(
            Text(
                "%(key)s is for %(made_for)s, not for %(asked)s.",
                key=recipe.key,
                made_for=f"{recipe.method} + {recipe.tuning}",
                asked=f"{method} + {tuning}",
            ),
            field="recipe",
            remedy=Text("Use a recipe of the run's method and tuning, or none."),
        )
    return recipe


def usual_rate(*, method: str, tuning: str, base: Revision, key: str = "") -> float:
    """The learning rate of a run that names none: the recipe's (of `key`, or the default for the
    base), else the trainer's own. A tuning that there is not has LoRA's."""
    recipe = next((one for one in RECIPES if one.key == key), None) or default_for(
        method=method, tuning=tuning, model_type=base.model_type, parameters=base.parameter_count
    )
    rate = None
    if recipe is not None:
        rate = recipe.values_for(parameters=base.parameter_count).get("learning_rate")
    rates = LEARNING_RATES[method]
    return float(rate or rates.get(tuning, rates[Tuning.LORA]))
