"""The forms of the training wizard, a step each."""

from collections.abc import Mapping, Sequence
from typing import Any

from django import forms
from django.utils.functional import Promise
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from trainer.spec import LORA_VARIANTS, SCHEDULERS
from training.choices import Tuning

Choices = Sequence[tuple[str, str | Promise]]

METHODS: Choices = (
    ("sft", _("Examples to follow")),
    ("dpo", _("Preferred answers (DPO)")),
    ("kto", _("Good and bad answers (KTO)")),
)


class BaseStep(forms.Form):
    """What is trained further."""

    base = forms.ChoiceField(
        label=_("Base"), error_messages={"required": _("Choose what is to be trained.")}
    )

    def __init__(self, *args: Any, revisions: Choices, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["base"].choices = revisions  # type: ignore[attr-defined]


class DataStep(forms.Form):
    """What it learns from."""

    data = forms.ChoiceField(  # type: ignore[assignment]
        label=_("Dataset version"), error_messages={"required": _("Choose what it learns from.")}
    )
    train_split = forms.CharField(label=_("Split to learn from"), max_length=40, initial="train")
    eval_split = forms.CharField(
        label=_("Split to watch"),
        max_length=40,
        required=False,
        help_text=_("Its loss is measured on the way. Empty: none."),
    )

    def __init__(self, *args: Any, versions: Choices, splits: Choices = (), **kwargs: Any) -> None:
        """With `splits`, those of the version that is chosen, they are chosen as well, not typed."""
        super().__init__(*args, **kwargs)
        self.fields["data"].choices = versions  # type: ignore[attr-defined]
        if splits:
            self.fields["train_split"].widget = forms.Select(choices=splits)
            none = ("", _("None"))
            self.fields["eval_split"].widget = forms.Select(choices=[none, *splits])


class SomeRefused(forms.RadioSelect):
    """Radio buttons of which some cannot be chosen, with the reason beside each of those."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.refused: Mapping[str, object] = {}

    def create_option(self, name: str, value: Any, label: Any, *args: Any, **kwargs: Any) -> Any:
        reason = self.refused.get(str(value))
        if reason:
            label = format_html(
                '<span>{} <span class="muted small block">{}</span></span>', label, reason
            )
        option = super().create_option(name, value, label, *args, **kwargs)
        if reason:
            option["attrs"]["disabled"] = True
        return option


class MethodStep(forms.Form):
    """How: method, tuning, recipe; single values are the recipe's unless typed."""

    method = forms.ChoiceField(label=_("Method"), widget=SomeRefused)
    tuning = forms.ChoiceField(
        label=_("What is trained"), choices=Tuning.choices, widget=SomeRefused
    )
    recipe = forms.ChoiceField(label=_("Recipe"), required=False)
    epochs = forms.FloatField(label=_("Epochs"), required=False)
    learning_rate = forms.FloatField(
        label=_("Learning rate"),
        required=False,
        widget=forms.NumberInput(attrs={"step": "any"}),
    )
    batch_size = forms.IntegerField(label=_("Examples at once"), required=False)
    gradient_accumulation = forms.IntegerField(label=_("Times a step"), required=False)
    max_length_tokens = forms.IntegerField(label=_("Longest example, tokens"), required=False)
    lora_rank = forms.IntegerField(label=_("LoRA rank"), required=False)
    lora_alpha = forms.IntegerField(label=_("LoRA alpha"), required=False)
    lora_variant = forms.ChoiceField(
        label=_("LoRA variant"),
        required=False,
        choices=[("", _("As the recipe says")), *((name, name) for name in LORA_VARIANTS)],
    )
    scheduler = forms.ChoiceField(
        label=_("Schedule of the rate"),
        required=False,
        choices=[("", _("As the recipe says")), *((name, name) for name in SCHEDULERS)],
    )
    warmup_ratio = forms.FloatField(
        label=_("Warm-up, share of the steps"),
        required=False,
        widget=forms.NumberInput(attrs={"step": "any"}),
    )
    beta = forms.FloatField(
        label=_("Beta"), required=False, widget=forms.NumberInput(attrs={"step": "any"})
    )
    seed = forms.IntegerField(label=_("Seed"), required=False)
    packing = forms.BooleanField(
        label=_("Pack short examples together"),
        required=False,
        help_text=_("Fewer places are padding; examples never see each other."),
    )
    keep_best = forms.BooleanField(
        label=_("Keep the best evaluation's model"),
        required=False,
        help_text=_("Instead of the last step's. Needs a split to watch."),
    )
    best_metric = forms.ChoiceField(label=_("Best by"), required=False)
    early_stopping_patience = forms.IntegerField(
        label=_("Stop after so many evaluations in vain"),
        required=False,
        help_text=_("Empty: never. Needs a split to watch."),
    )
    max_minutes = forms.FloatField(
        label=_("Time limit, minutes"),
        required=False,
        widget=forms.NumberInput(attrs={"step": "any"}),
    )
    sample_every_steps = forms.IntegerField(
        label=_("Sample answers every so many steps"),
        required=False,
        help_text=_("Empty: about ten times in the run. 0: never."),
    )
    sample_prompts = forms.CharField(
        label=_("Prompts of the samples"),
        required=False,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text=_("One a line. Empty: some of the lines to watch."),
    )

    ADVANCED = (
        "epochs",
        "learning_rate",
        "batch_size",
        "gradient_accumulation",
        "max_length_tokens",
        "lora_rank",
        "lora_alpha",
        "lora_variant",
        "scheduler",
        "warmup_ratio",
        "beta",
        "seed",
        "packing",
        "keep_best",
        "best_metric",
        "early_stopping_patience",
        "max_minutes",
        "sample_every_steps",
        "sample_prompts",
    )
    KEPT_AS_TYPED = tuple(
        name
        for name in ADVANCED
        if name
        not in ("packing", "keep_best", "max_minutes", "sample_every_steps", "sample_prompts")
    )

    def __init__(
        self,
        *args: Any,
        refused: Mapping[str, Mapping[str, object]],
        recipes: Choices,
        best_metrics: Sequence[str],
        **kwargs: Any,
    ) -> None:
        """`refused` has by field the values that cannot be chosen, and why."""
        super().__init__(*args, **kwargs)
        self.fields["method"].choices = METHODS  # type: ignore[attr-defined]
        self.fields["best_metric"].choices = [  # type: ignore[attr-defined]
            ("", _("The loss")),
            *((name, name) for name in best_metrics if name != "eval_loss"),
        ]
        for name, reasons in refused.items():
            self.fields[name].widget.refused = reasons
        self.fields["recipe"].choices = [  # type: ignore[attr-defined]
            ("", _("The default for this base")),
            *recipes,
        ]

    def hyperparameters(self) -> dict[str, Any]:
        """What was typed, and nothing else. Valid forms only."""
        asked: Mapping[str, Any] = self.cleaned_data
        given = {
            name: asked[name] for name in self.KEPT_AS_TYPED if asked.get(name) not in (None, "")
        }
        for name in ("packing", "keep_best"):
            if asked.get(name):
                given[name] = True
        if asked.get("max_minutes") is not None:
            given["max_seconds"] = asked["max_minutes"] * 60
        if asked.get("sample_prompts"):
            given["sample_prompts"] = asked["sample_prompts"]
        return given

    @property
    def advanced(self) -> list[forms.BoundField]:
        return [self[name] for name in self.ADVANCED]

    @property
    def has_advanced(self) -> bool:
        """Whether the folded part holds anything that a person should see."""
        return any(
            field.errors or field.value() not in (None, "", False) for field in self.advanced
        )


class PlaceStep(forms.Form):
    """Where, and on how many."""

    accelerators = forms.IntegerField(label=_("Accelerators"), min_value=1, max_value=64, initial=1)
    pool_name = forms.ChoiceField(label=_("Pool"), required=False)

    def __init__(self, *args: Any, pools: Choices, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        any_pool = ("", _("Any that fits"))
        self.fields["pool_name"].choices = [any_pool, *pools]  # type: ignore[attr-defined]


class StartStep(forms.Form):
    """What the run and its result are called."""

    name = forms.CharField(label=_("Name of the run"), max_length=96)
    output_name = forms.CharField(
        label=_("Name of the resulting model"),
        max_length=96,
        help_text=_("A new model, or one of yours that gets a new revision."),
    )
