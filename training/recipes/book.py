"""The recipes themselves.

One that has been used is never edited: a better one gets the next version, and the old one stays,
so that a run's `recipe` ("name@version") can be looked up for ever.

Figures are their sources' own, with two exceptions that say so: rates for adapters where a source
gives only that for all weights (ten times it, as LORA_WITHOUT_REGRET measured), and everything
for bases under 100 million parameters, for which nobody publishes figures: those are ours, from
runs of the bundled tiny model on its own tasks.
"""

import dataclasses

from django.utils.translation import gettext_lazy as _

from training.recipes.recipe import BILLION, MILLION, Recipe, Setting, Text

TINY = 100 * MILLION
LARGE = 15 * BILLION

LORA_WITHOUT_REGRET = "Schulman and Thinking Machines Lab 2025, LoRA Without Regret"
QLORA = "Dettmers and others 2023, QLoRA: README of artidoro/qlora"
SWIFT_QWEN3 = "ModelScope ms-swift: Qwen3 best practices"
QWEN25 = "Qwen2.5 Technical Report 2024, 4.1"
ALPACA = "Stanford Alpaca 2023: README"
DPO = "Rafailov and others 2023, Direct Preference Optimization"
ZEPHYR = "Hugging Face alignment-handbook: recipes of zephyr-7b-beta"
KTO = "Ethayarajh and others 2024, KTO"
OURS = ""

QWEN3 = ("qwen3", "qwen3_moe")


def _rate(value: float, reason: Text, source: str) -> dict[str, Setting]:
    return {"learning_rate": Setting(value, reason, source)}


def _epochs(value: float, reason: Text, source: str) -> dict[str, Setting]:
    return {"epochs": Setting(value, reason, source)}


def _schedule(warmup: float, source: str) -> dict[str, Setting]:
    return {
        "scheduler": Setting(
            "cosine",
            _("Ends near zero, without the long tail of a straight line."),
            source if source == ZEPHYR else OURS,
        ),
        "warmup_ratio": Setting(
            warmup, _("The first steps go slowly, until the optimizer knows its gradients."), source
        ),
        "max_grad_norm": Setting(1.0, _("Tames the rare long or odd example."), QWEN25),
        "weight_decay": Setting(
            0.01, _("The optimizer's usual; a few passes need no stronger brake."), OURS
        ),
    }


STEP = Setting(
    16,
    _("Makes up 16 examples a step: adapters learn less well from large steps."),
    f"{SWIFT_QWEN3}; {LORA_WITHOUT_REGRET}",
)
PREFERENCES = Setting(
    32, _("Makes up 32 examples a step: one preference alone says little."), ZEPHYR
)
LABELS = Setting(
    32, _("Makes up 32 examples a step: the others are what an answer is compared with."), KTO
)
SMALL_STEP = Setting(8, _("Small sets give a small base more steps that way."), OURS)

THREE = _epochs(3.0, _("Some thousand examples are learnt in two to four passes."), ALPACA)
ONCE = _epochs(1.0, _("Preferences are learnt in one pass; more learn them by heart."), ZEPHYR)
WARMUP = _schedule(0.05, SWIFT_QWEN3)
LONG_WARMUP = _schedule(0.1, ZEPHYR)

ADAPTER = {
    "lora_rank": Setting(
        16, _("On all linear layers it holds what some thousand examples teach."), ZEPHYR
    ),
    "lora_alpha": Setting(
        32, _("Kept at 32, so that the rate holds at other ranks too."), LORA_WITHOUT_REGRET
    ),
    "lora_dropout": Setting(0.0, _("A few passes over clean data do not overfit adapters."), OURS),
}

BETA = {
    "beta": Setting(
        0.1, _("How firmly the model is held to where it began; less lets it stray further."), DPO
    )
}
KTO_BETA = {
    "beta": Setting(
        0.1, _("How firmly the model is held to where it began; less lets it stray further."), KTO
    )
}

TENFOLD = _("Adapters bear and need about ten times the rate of all weights.")
COMMON = _("What models of this family are commonly trained with.")
GENTLE = _("Preferences move a trained model a little; higher rates break its language.")
INSTRUCTED = _("What a model of 7 billion weights was taught to follow instructions with.")
LARGE_RATE = _("Larger bases want a lower rate.")
TRIED = _("Among four tried on the bundled tiny model and its task: learns well, and gently.")
TRIED_GENTLY = _(
    "Of those tried on the bundled tiny model a gentle one that orders most held-out answers rightly."
)


def _and_four_bits(recipe: Recipe, title: Text) -> tuple[Recipe, Recipe]:
    """The recipe of an adapter, and the same on 4-bit weights: an adapter is trained to the same
    values whatever its base is kept in (QLoRA, whose figures these are or are like)."""
    name = recipe.name.replace("-lora", "-qlora")
    return recipe, dataclasses.replace(recipe, name=name, title=title, tuning="qlora")


RECIPES: tuple[Recipe, ...] = (
    # Qwen3, whose makers' own tools give figures
    *_and_four_bits(
        Recipe(
            name="qwen3-sft-lora",
            version=1,
            title=_("Qwen3: examples, adapter"),
            method="sft",
            tuning="lora",
            families=QWEN3,
            parameters_from=TINY,
            examples_a_step=STEP,
            settings=_rate(1e-4, COMMON, SWIFT_QWEN3) | THREE | WARMUP | ADAPTER,
        ),
        _("Qwen3: examples, adapter on 4-bit weights"),
    ),
    Recipe(
        name="qwen3-sft-full",
        version=1,
        title=_("Qwen3: examples, all weights"),
        method="sft",
        tuning="full",
        families=QWEN3,
        parameters_from=TINY,
        examples_a_step=STEP,
        settings=_rate(1e-5, COMMON, SWIFT_QWEN3) | THREE | WARMUP,
    ),
    # Examples, any family
    *_and_four_bits(
        Recipe(
            name="sft-lora",
            version=1,
            title=_("Examples, adapter"),
            method="sft",
            tuning="lora",
            parameters_from=TINY,
            parameters_until=LARGE,
            examples_a_step=STEP,
            settings=_rate(2e-4, TENFOLD, f"{QLORA}; {LORA_WITHOUT_REGRET}")
            | THREE
            | WARMUP
            | ADAPTER,
        ),
        _("Examples, adapter on 4-bit weights"),
    ),
    *_and_four_bits(
        Recipe(
            name="sft-lora-large",
            version=1,
            title=_("Examples, adapter, large base"),
            method="sft",
            tuning="lora",
            parameters_from=LARGE,
            examples_a_step=STEP,
            settings=_rate(1e-4, LARGE_RATE, QLORA) | THREE | WARMUP | ADAPTER,
        ),
        _("Examples, adapter on 4-bit weights, large base"),
    ),
    Recipe(
        name="sft-full",
        version=1,
        title=_("Examples, all weights"),
        method="sft",
        tuning="full",
        parameters_from=TINY,
        examples_a_step=STEP,
        settings=_rate(2e-5, INSTRUCTED, ALPACA) | THREE | WARMUP,
    ),
    # Preferences
    *_and_four_bits(
        Recipe(
            name="dpo-lora",
            version=1,
            title=_("Preferred answers, adapter"),
            method="dpo",
            tuning="lora",
            parameters_from=TINY,
            examples_a_step=PREFERENCES,
            settings=_rate(5e-6, GENTLE, ZEPHYR) | ONCE | LONG_WARMUP | ADAPTER | BETA,
        ),
        _("Preferred answers, adapter on 4-bit weights"),
    ),
    Recipe(
        name="dpo-full",
        version=1,
        title=_("Preferred answers, all weights"),
        method="dpo",
        tuning="full",
        parameters_from=TINY,
        examples_a_step=PREFERENCES,
        settings=_rate(5e-7, GENTLE, ZEPHYR) | ONCE | LONG_WARMUP | BETA,
    ),
    # Answers marked good or bad
    *_and_four_bits(
        Recipe(
            name="kto-lora",
            version=1,
            title=_("Good and bad answers, adapter"),
            method="kto",
            tuning="lora",
            parameters_from=TINY,
            examples_a_step=LABELS,
            settings=_rate(5e-5, TENFOLD, f"{KTO}, ten times; {LORA_WITHOUT_REGRET}")
            | ONCE
            | LONG_WARMUP
            | ADAPTER
            | KTO_BETA,
        ),
        _("Good and bad answers, adapter on 4-bit weights"),
    ),
    Recipe(
        name="kto-full",
        version=1,
        title=_("Good and bad answers, all weights"),
        method="kto",
        tuning="full",
        parameters_from=TINY,
        examples_a_step=LABELS,
        settings=_rate(5e-6, GENTLE, KTO) | ONCE | LONG_WARMUP | KTO_BETA,
    ),
    # Tiny bases, of tests and demonstrations
    Recipe(
        name="tiny-sft-lora",
        version=1,
        title=_("Tiny base: examples, adapter"),
        method="sft",
        tuning="lora",
        parameters_until=TINY,
        examples_a_step=SMALL_STEP,
        settings=_rate(4e-3, TRIED, OURS) | THREE | WARMUP | ADAPTER,
    ),
    Recipe(
        name="tiny-sft-full",
        version=1,
        title=_("Tiny base: examples, all weights"),
        method="sft",
        tuning="full",
        parameters_until=TINY,
        examples_a_step=SMALL_STEP,
        settings=_rate(2e-3, TRIED, OURS) | THREE | WARMUP,
    ),
    Recipe(
        name="tiny-dpo-lora",
        version=1,
        title=_("Tiny base: preferred answers, adapter"),
        method="dpo",
        tuning="lora",
        parameters_until=TINY,
        examples_a_step=SMALL_STEP,
        settings=_rate(5e-4, TRIED_GENTLY, OURS) | ONCE | LONG_WARMUP | ADAPTER | BETA,
    ),
    Recipe(
        name="tiny-dpo-full",
        version=1,
        title=_("Tiny base: preferred answers, all weights"),
        method="dpo",
        tuning="full",
        parameters_until=TINY,
        examples_a_step=SMALL_STEP,
        settings=_rate(5e-5, TRIED_GENTLY, OURS) | ONCE | LONG_WARMUP | BETA,
    ),
    Recipe(
        name="tiny-kto-lora",
        version=1,
        title=_("Tiny base: good and bad answers, adapter"),
        method="kto",
        tuning="lora",
        parameters_until=TINY,
        examples_a_step=SMALL_STEP,
        settings=_rate(1e-3, TRIED_GENTLY, OURS) | ONCE | LONG_WARMUP | ADAPTER | KTO_BETA,
    ),
    Recipe(
        name="tiny-kto-full",
        version=1,
        title=_("Tiny base: good and bad answers, all weights"),
        method="kto",
        tuning="full",
        parameters_until=TINY,
        examples_a_step=SMALL_STEP,
        settings=_rate(1e-4, TRIED_GENTLY, OURS) | ONCE | LONG_WARMUP | KTO_BETA,
    ),
)
