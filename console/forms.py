"""What people type into the console. Rules that matter are the services'; these help to type."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from django import forms
from django.core.files.uploadedfile import UploadedFile
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from accounts.choices import Role, Scope
from accounts.models import User
from models_registry.choices import SourceKind, Visibility
from training.services import FORMATS

DATA_FILES = ".jsonl,.json,.csv,.tsv,.parquet"
Choices = Sequence[tuple[str, str | Promise]]


class ImportForm(forms.Form):
    name = forms.CharField(
        label=_("Name"),
        max_length=96,
        help_text=_("What the model is called here: letters, digits, dots, hyphens, underscores."),
    )
    source_kind = forms.ChoiceField(
        label=_("Comes from"),
        choices=[one for one in SourceKind.choices if one[0] != SourceKind.TRAINING_RUN],
        widget=forms.RadioSelect,
        initial=SourceKind.HUGGING_FACE,
    )
    source = forms.CharField(
        label=_("Source"),
        max_length=300,
        help_text=_("A repository such as Qwen/Qwen3-0.6B, or a folder on the server."),
    )
    source_revision = forms.CharField(
        label=_("Revision of the source"),
        max_length=100,
        required=False,
        help_text=_("A branch, tag or commit. Empty: the newest."),
    )
    visibility = forms.ChoiceField(
        label=_("Who may use it"), choices=Visibility.choices, initial=Visibility.PRIVATE
    )
    licence = forms.CharField(
        label=_("Licence"),
        max_length=80,
        required=False,
        help_text=_("As its owners write it, such as apache-2.0."),
    )


class AliasForm(forms.Form):
    alias = forms.SlugField(label=_("Alias"), max_length=40, initial="champion")
    override_reason = forms.CharField(
        label=_("Reason to go round its gate"),
        required=False,
        max_length=500,
        help_text=_("Of operators; the audit log keeps it. Empty: the gate must be passed."),
    )


class MemberForm(forms.Form):
    person = forms.CharField(
        label=_("User name or e-mail address"),
        max_length=150,
        help_text=_("Of somebody who has an account here; operators make accounts."),
    )
    role = forms.ChoiceField(label=_("Role"))

    def __init__(self, *args: Any, roles: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["role"].choices = [  # type: ignore[attr-defined]
            one for one in Role.choices if one[0] in roles
        ]
        self.initial.setdefault("role", Role.DEVELOPER)

    def clean_person(self) -> User:
        name = self.cleaned_data["person"].strip()
        found = User.objects.filter(username=name).first()
        found = found or User.objects.filter(email__iexact=name).first()
        if found is None:
            raise forms.ValidationError(
                _("Nobody has this name here. Ask an operator to make the account first.")
            )
        return found


class KeyForm(forms.Form):
    name = forms.CharField(
        label=_("Name"), max_length=80, help_text=_("What it is for, such as nightly-report.")
    )
    scopes = forms.MultipleChoiceField(
        label=_("What it may do"), widget=forms.CheckboxSelectMultiple, initial=[Scope.INFERENCE]
    )
    allowed_models = forms.MultipleChoiceField(
        label=_("Models it may call"),
        widget=forms.CheckboxSelectMultiple,
        required=False,
        help_text=_("None chosen: all models of the organization."),
    )
    days = forms.ChoiceField(
        label=_("Expires"),
        required=False,
        initial="90",
        choices=[
            ("30", _("in 30 days")),
            ("90", _("in 90 days")),
            ("365", _("in a year")),
            ("", _("never")),
        ],
    )

    def __init__(self, *args: Any, scopes: Choices, models: Iterable[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["scopes"].choices = scopes  # type: ignore[attr-defined]
        names = [(name, name) for name in models]
        if names:
            self.fields["allowed_models"].choices = names  # type: ignore[attr-defined]
        else:
            del self.fields["allowed_models"]

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        cleaned.setdefault("allowed_models", [])
        return cleaned


class ManyFilesInput(forms.FileInput):
    allow_multiple_selected = True


class ManyFilesField(forms.FileField):
    """Any number of files; cleans to a list."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(widget=ManyFilesInput, **kwargs)

    def clean(self, data: Any, initial: Any = None) -> list[UploadedFile[Any]]:
        files = data if isinstance(data, list | tuple) else [data] if data else []
        return [super(ManyFilesField, self).clean(one, initial) for one in files]


class DatasetForm(forms.Form):
    """A new dataset, or with `dataset` fixed a new version of it."""

    name = forms.CharField(
        label=_("Name"),
        max_length=96,
        help_text=_("Letters, digits, dots, hyphens and underscores."),
    )
    description = forms.CharField(
        label=_("Description"), required=False, widget=forms.Textarea(attrs={"rows": 2})
    )
    train = forms.FileField(
        label=_("Lines to learn from"),
        widget=forms.FileInput(attrs={"accept": DATA_FILES}),
        help_text=_(
            "JSON lines (OpenAI chat or preference, TRL, prompt and completion, Alpaca, ShareGPT), "
            "one JSON list, CSV or Parquet."
        ),
    )
    heldout = forms.FileField(
        label=_("Held-out lines"),
        required=False,
        widget=forms.FileInput(attrs={"accept": DATA_FILES}),
        help_text=_("Never learnt from; evaluations ask these."),
    )
    more = ManyFilesField(
        label=_("More splits"),
        required=False,
        help_text=_("Each file becomes a split with the name of the file."),
    )
    held_out = forms.FloatField(
        label=_("Or hold out lines of the first file"),
        required=False,
        min_value=0,
        widget=forms.NumberInput(attrs={"step": "any"}),
        help_text=_("A share such as 0.1, or a number of lines. Empty: none."),
    )
    group_by = forms.CharField(
        label=_("Keep lines together by"),
        required=False,
        max_length=200,
        help_text=_("A field of the rows, such as customer_id: its lines are never torn apart."),
    )
    seed = forms.IntegerField(
        label=_("Seed"),
        required=False,
        min_value=0,
        help_text=_("The same seed holds out the same lines."),
    )
    format = forms.ChoiceField(
        label=_("Format"),
        required=False,
        choices=[("", _("By the first line")), *((name, name) for name in FORMATS)],
    )
    columns = forms.CharField(
        label=_("Columns"),
        required=False,
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text=_(
            "For CSV and Parquet whose columns have other names: prompt=question, "
            "completion=answer. Empty: usual names are known."
        ),
    )
    tokenizer = forms.ChoiceField(
        label=_("Count tokens as"),
        required=False,
        help_text=_("The model whose tokenizer and chat template count the tokens."),
    )

    def __init__(
        self, *args: Any, tokenizers: Choices, is_version: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        choices = [*tokenizers, ("", _("Do not count"))]
        self.fields["tokenizer"].choices = choices  # type: ignore[attr-defined]
        if is_version:
            del self.fields["name"], self.fields["description"]

    def splits(self) -> dict[str, UploadedFile[Any]]:
        """The files by the names of their splits."""
        found = {"train": self.cleaned_data["train"]}
        if self.cleaned_data["heldout"]:
            found["heldout"] = self.cleaned_data["heldout"]
        for file in self.cleaned_data["more"]:
            found[(file.name or "").rsplit(".", 1)[0].lower().replace(" ", "-")] = file
        return found

    def clean_columns(self) -> str:
        text: str = self.cleaned_data["columns"]
        for part in filter(str.strip, text.replace("\n", ",").split(",")):
            if "=" not in part:
                raise forms.ValidationError(_("Write field=column, such as prompt=question."))
        return text

    def mapping(self) -> dict[str, str]:
        """Columns by field."""
        parts = filter(str.strip, self.cleaned_data["columns"].replace("\n", ",").split(","))
        pairs = (part.partition("=") for part in parts)
        return {field.strip(): column.strip() for field, _sign, column in pairs}

    def split_plan(self) -> dict[str, Any]:
        """How lines are held out; empty for not at all."""
        amount = self.cleaned_data["held_out"]
        if not amount:
            return {}
        return {
            "held_out": {"heldout": int(amount) if amount >= 1 else amount},
            "seed": self.cleaned_data["seed"] or 0,
            "group_by": self.cleaned_data["group_by"],
        }


class ScaleForm(forms.Form):
    replicas = forms.IntegerField(label=_("Replicas"), min_value=0, max_value=64)


class LoadTestForm(forms.Form):
    clients = forms.CharField(
        label=_("Clients"),
        initial="1, 2, 4, 8, 16",
        max_length=80,
        help_text=_("How many ask at once, level by level, with commas between."),
    )
    seconds_per_level = forms.IntegerField(
        label=_("Seconds a level"), min_value=3, max_value=120, initial=15
    )
    prompt_words = forms.IntegerField(
        label=_("Words in each question"), min_value=1, max_value=100_000, initial=64
    )
    output_tokens = forms.IntegerField(
        label=_("Tokens in each answer"), min_value=1, max_value=8192, initial=64
    )
    limit_ttft_milliseconds = forms.IntegerField(
        label=_("First token within, ms"),
        required=False,
        min_value=1,
        help_text=_("A level counts as carried if 95 of 100 first tokens came in time."),
    )
    limit_itl_milliseconds = forms.IntegerField(
        label=_("Between two tokens at most, ms"), required=False, min_value=1
    )

    def clean_clients(self) -> list[int]:
        try:
            return [int(each) for each in self.cleaned_data["clients"].split(",") if each.strip()]
        except ValueError:
            raise forms.ValidationError(_("Write whole numbers, such as 1, 4, 16.")) from None


class AutoscalingForm(forms.Form):
    enabled = forms.BooleanField(
        label=_("Let the number of replicas follow the load"), required=False, initial=True
    )
    min_replicas = forms.IntegerField(
        label=_("At least"),
        min_value=0,
        max_value=64,
        initial=1,
        help_text=_("Replicas. With 0 the model sleeps when idle and wakes with a request."),
    )
    max_replicas = forms.IntegerField(
        label=_("At most"), min_value=1, max_value=64, initial=4, help_text=_("Replicas.")
    )
    target_concurrency = forms.FloatField(
        label=_("Requests a replica"),
        min_value=0.1,
        initial=8,
        help_text=_("As many in flight are well served by one replica."),
    )
    target_first_token_milliseconds = forms.IntegerField(
        label=_("Time to the first token, in milliseconds"),
        min_value=1,
        required=False,
        help_text=_("19 of 20 streams should begin sooner. Empty: it does not matter."),
    )
    scale_down_after_seconds = forms.IntegerField(
        label=_("Seconds before there are fewer"), min_value=0, max_value=86_400, initial=300
    )
    idle_seconds = forms.IntegerField(
        label=_("Idle seconds before it sleeps"),
        min_value=10,
        required=False,
        initial=900,
        help_text=_("Where the least is 0. Empty: never."),
    )


class CordonForm(forms.Form):
    reason = forms.CharField(label=_("Reason"), max_length=200, required=False)
