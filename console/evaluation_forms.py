"""What people choose for an evaluation, and for the gate of an alias."""

from collections.abc import Sequence
from typing import Any

from django import forms
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

Choices = Sequence[tuple[str, str | Promise]]
PAST = [
    ("ignore_case", _("upper and lower case")),
    ("ignore_whitespace", _("runs of white space")),
    ("ignore_punctuation", _("punctuation")),
    ("ignore_width", _("full and half width")),
]


class EvaluationForm(forms.Form):
    name = forms.CharField(label=_("Name"), max_length=96)
    split = forms.ChoiceField(label=_("Questions"), help_text=_("The split whose lines are asked."))
    baseline = forms.ChoiceField(label=_("Baseline"), help_text=_("The model to compare with."))
    candidate = forms.MultipleChoiceField(
        label=_("Candidates"),
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text=_("The models that should be better. None: measure one model alone."),
    )
    limit = forms.IntegerField(
        label=_("At most, lines"), required=False, min_value=1, help_text=_("Empty: all of them.")
    )
    max_tokens = forms.IntegerField(
        label=_("Longest answer, tokens"), min_value=1, max_value=32768, initial=128
    )
    num_fewshot = forms.IntegerField(
        label=_("Examples before each question"),
        required=False,
        min_value=0,
        max_value=100,
        help_text=_("Of a benchmark task. Empty: as many as the task says."),
    )
    as_chat = forms.BooleanField(
        label=_("Ask as a chat"),
        required=False,
        help_text=_("Of a benchmark task: in the model's chat template."),
    )
    past = forms.MultipleChoiceField(
        label=_("Exact match looks past"),
        choices=PAST,
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text=_("In texts and in fields of JSON. Fields are compared in any case."),
    )
    field_tolerance = forms.FloatField(
        label=_("Numbers in fields may differ by, %"),
        required=False,
        min_value=0,
        widget=forms.NumberInput(attrs={"step": "any"}),
    )
    measures = forms.MultipleChoiceField(
        label=_("Measured as well"),
        required=False,
        widget=forms.CheckboxSelectMultiple,
        choices=[
            ("rouge", _("ROUGE-1, -2, -L: words in common; in Chinese, characters")),
            ("bleu", _("BLEU: runs of words in common")),
            ("chrf", _("chrF: runs of characters in common")),
            ("contains", _("The expected answer is somewhere in the answer")),
            ("numeric", _("The last number is the expected one")),
            ("perplexity", _("Perplexity: how likely the model finds the expected answers")),
        ],
    )
    numeric_tolerance = forms.FloatField(
        label=_("That number may differ by, %"),
        required=False,
        min_value=0,
        widget=forms.NumberInput(attrs={"step": "any"}),
    )
    pattern = forms.CharField(
        label=_("Regular expression"),
        required=False,
        max_length=2000,
        help_text=_("An answer in which it is found counts as right. Empty: none."),
    )
    judge_model = forms.ChoiceField(
        label=_("Judge"),
        required=False,
        help_text=_("A served model that rates each answer; its tokens are metered like others."),
    )
    rubric = forms.CharField(
        label=_("Rubric"),
        required=False,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text=_("What makes an answer good, in your words."),
    )
    judge_mode = forms.ChoiceField(
        label=_("The judge"),
        required=False,
        initial="score",
        widget=forms.RadioSelect,
        choices=[
            ("score", _("rates each answer from 1 to 5")),
            ("pairs", _("says which of two is better, asked both ways round")),
        ],
    )

    MEASURES = (
        "past",
        "field_tolerance",
        "measures",
        "numeric_tolerance",
        "pattern",
        "judge_model",
        "rubric",
        "judge_mode",
    )

    def __init__(self, *args: Any, splits: Choices, models: Choices, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["split"].choices = splits  # type: ignore[attr-defined]
        self.fields["baseline"].choices = models  # type: ignore[attr-defined]
        self.fields["candidate"].choices = models  # type: ignore[attr-defined]
        none = ("", _("No judge"))
        self.fields["judge_model"].choices = [none, *models]  # type: ignore[attr-defined]

    def first_fields(self) -> list[forms.BoundField]:
        """Who is asked what."""
        return [field for field in self if field.name not in self.MEASURES]

    def measure_fields(self) -> list[forms.BoundField]:
        """How answers are scored."""
        return [field for field in self if field.name in self.MEASURES]

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if cleaned.get("judge_model") and not (cleaned.get("rubric") or "").strip():
            self.add_error("rubric", _("Say what makes an answer good, or choose no judge."))
        return cleaned

    def model_names(self) -> list[str]:
        """The baseline first."""
        names = [self.cleaned_data["baseline"], *self.cleaned_data["candidate"]]
        return list(dict.fromkeys(name for name in names if name))

    def metrics(self) -> list[dict[str, Any]]:
        """As the service takes them. Valid forms only."""
        asked = self.cleaned_data
        past = dict.fromkeys(asked["past"], True)
        found: list[dict[str, Any]] = []
        if past:
            found.append({"kind": "exact_match", **past})
        if past or asked["field_tolerance"]:
            tolerance = (asked["field_tolerance"] or 0.0) / 100
            found.append({"kind": "json_fields", "relative_tolerance": tolerance, **past})
        for kind in asked["measures"]:
            options: dict[str, Any] = {}
            if kind == "numeric":
                options["relative_tolerance"] = (asked["numeric_tolerance"] or 0.0) / 100
            found.append({"kind": kind, **options})
        if asked["pattern"]:
            found.append({"kind": "regex", "pattern": asked["pattern"]})
        if asked["judge_model"]:
            found.append(
                {
                    "kind": "judge",
                    "model": asked["judge_model"],
                    "rubric": asked["rubric"],
                    "mode": asked["judge_mode"] or "score",
                }
            )
        return found


class GateForm(forms.Form):
    """One condition; more of them are set over REST."""

    alias = forms.SlugField(label=_("Alias"), max_length=40, initial="champion")
    split = forms.ChoiceField(label=_("Evaluated on"))
    metric = forms.CharField(label=_("Metric"), max_length=100, initial="exact_match")
    at_least = forms.FloatField(
        label=_("At least"),
        required=False,
        widget=forms.NumberInput(attrs={"step": "any"}),
        help_text=_("Such as 0.9 for 90 %. Empty: any."),
    )
    worse_by_at_most = forms.FloatField(
        label=_("Worse than the present one by at most"),
        required=False,
        min_value=0,
        widget=forms.NumberInput(attrs={"step": "any"}),
        help_text=_("The whole of the paired interval. Empty: not compared."),
    )
    max_age_days = forms.FloatField(
        label=_("Evaluated within, days"),
        required=False,
        min_value=0.01,
        widget=forms.NumberInput(attrs={"step": "any"}),
    )

    def __init__(self, *args: Any, splits: Choices, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["split"].choices = splits  # type: ignore[attr-defined]

    def condition(self) -> dict[str, Any]:
        asked = self.cleaned_data
        bounds = {name: asked[name] for name in ("at_least", "worse_by_at_most")}
        return {"metric": asked["metric"]} | {
            name: value for name, value in bounds.items() if value is not None
        }
