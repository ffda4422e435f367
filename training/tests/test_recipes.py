"""Recipes: every one is sound, one is the default for every common base, and none is ever lost."""

import pytest

from common.errors import InvalidInput
from trainer.spec import METHODS, Hyperparameters
from training import recipes
from training.choices import Tuning
from training.recipes import book
from training.recipes.book import RECIPES

SIZES = (4_700_000, 596_000_000, 8_190_000_000, 32_760_000_000, None)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.key)
def test_a_recipe_gives_values_that_the_trainer_takes_each_with_a_reason(
    recipe: recipes.Recipe,
) -> None:
    for parameters in SIZES:
        settings = recipe.settings_for(parameters=parameters)
        values = recipe.values_for(parameters=parameters)
        if recipe.method in METHODS:
            Hyperparameters.from_json(values)
        step = int(values["batch_size"]) * int(values["gradient_accumulation"])
        assert step == recipe.examples_a_step.value
        assert all(str(setting.reason) for setting in settings.values())
    assert ("lora_rank" in values) == (recipe.tuning != "full")
    assert ("beta" in values) == (recipe.method != "sft")


def test_a_figure_is_somebodys_or_says_that_it_is_ours() -> None:
    known = {
        part
        for name, part in vars(book).items()
        if name.isupper() and isinstance(part, str) and part
    }
    for recipe in RECIPES:
        for name, setting in {**recipe.settings, "step": recipe.examples_a_step}.items():
            assert all(
                any(part.startswith(source) for source in known)
                for part in setting.source.split("; ")
                if part
            ), (recipe.key, name)
            assert recipe.families or "this family" not in str(setting.reason), recipe.key
        if recipe.parameters_until == book.TINY:
            assert recipe.settings["learning_rate"].source == book.OURS


def test_names_with_versions_are_unique() -> None:
    assert len({recipe.key for recipe in RECIPES}) == len(RECIPES)


@pytest.mark.parametrize("method", ["sft", "dpo", "kto"])
@pytest.mark.parametrize("tuning", ["full", "lora", "qlora"])
@pytest.mark.parametrize("model_type", ["qwen2", "qwen3", ""])
def test_every_usual_base_has_a_default(method: str, tuning: str, model_type: str) -> None:
    for parameters in SIZES:
        found = recipes.default_for(
            method=method, tuning=tuning, model_type=model_type, parameters=parameters
        )
        if tuning == "qlora" and parameters == SIZES[0]:
            assert found is None  # nothing to save on a base of a few megabytes
        else:
            assert found is not None
            assert (found.method, found.tuning) == (method, tuning)


def test_family_and_size_decide() -> None:
    def rate(model_type: str, parameters: int, tuning: str = Tuning.LORA) -> object:
        found = recipes.default_for(
            method="sft", tuning=tuning, model_type=model_type, parameters=parameters
        )
        assert found is not None
        return found.values_for(parameters=parameters)["learning_rate"]

    assert rate("qwen3", 8 * 10**9) == 1e-4
    assert rate("qwen2", 8 * 10**9) == 2e-4
    assert rate("qwen2", 32 * 10**9) == 1e-4
    assert rate("qwen3", 8 * 10**9, Tuning.FULL) == 1e-5
    small, large = (
        recipes.find("qwen3-sft-lora").values_for(parameters=size)["batch_size"]
        for size in (600 * 10**6, 32 * 10**9)
    )
    assert (small, large) == (8, 1)


def test_a_recipe_is_found_by_name_or_by_version_and_refused_for_another_method() -> None:
    assert recipes.find("sft-lora").key == recipes.find("sft-lora@1").key == "sft-lora@1"
    with pytest.raises(InvalidInput) as unknown:
        recipes.find("sft-lora@999")
    assert unknown.value.field == "recipe"
    with pytest.raises(InvalidInput) as other:
        recipes.choose("dpo-lora", method="sft", tuning="lora")
    assert other.value.field == "recipe"
