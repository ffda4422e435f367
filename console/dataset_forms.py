"""The form of an upload: files, how lines are held out, what the columns mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import forms
from django.core.files.uploadedfile import UploadedFile
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from training.first_rows import FirstRows
from training.formats import columns as fields
from training.services import FORMATS

DATA_FILES = ".jsonl,.json,.csv,.tsv,.parquet"
Choices = Sequence[tuple[str, str | Promise]]
# What a column may be used as, in the reader's words; the trainer's fields in this order.
USES: dict[str, str | Promise] = {
    "prompt": _("prompt: what is asked"),
    "completion": _("completion: what to answer"),
    "system": _("system: what holds for the whole conversation"),
    "chosen": _("chosen: the preferred answer"),
    "rejected": _("rejected: the other answer"),
    "label": _("label: whether the answer is good"),
    "messages": _("messages: a conversation as JSON"),
    "conversations": _("conversations: a ShareGPT conversation as JSON"),
    "tools": _("tools: functions to call, as JSON"),
    "instruction": _("instruction: an Alpaca task"),
    "input": _("input: an Alpaca task's own text"),
    "output": _("output: an Alpaca answer"),
}


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
        label=_("Columns by name"),
        required=False,
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text=_(
            "Where the columns of the file cannot be shown: prompt=question, completion=answer. "
            "Empty: usual names are known."
        ),
    )
    tokenizer = forms.ChoiceField(
        label=_("Count tokens as"),
        required=False,
        help_text=_("The model whose tokenizer and chat template count the tokens."),
    )

    SELDOM = ("more", "group_by", "seed", "format", "columns")

    def __init__(
        self, *args: Any, tokenizers: Choices, is_version: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        choices = [*tokenizers, ("", _("Do not count"))]
        self.fields["tokenizer"].choices = choices  # type: ignore[attr-defined]
        if is_version:
            del self.fields["name"], self.fields["description"]

    @property
    def first(self) -> list[forms.BoundField]:
        return [field for field in self if field.name not in self.SELDOM]

    @property
    def seldom(self) -> list[forms.BoundField]:
        """What most uploads leave as it is."""
        return [self[name] for name in self.SELDOM]

    @property
    def has_seldom(self) -> bool:
        """Whether the folded part holds anything that a person should see."""
        return any(
            field.errors or (field.name != "more" and field.value() not in (None, ""))
            for field in self.seldom
        )

    def splits(self) -> dict[str, UploadedFile[Any]]:
        """The files by the names of their splits."""
        found = {"train": self.cleaned_data["train"]}
        if self.cleaned_data["heldout"]:
            found["heldout"] = self.cleaned_data["heldout"]
        for file in self.cleaned_data["more"]:
            found[_split_name(file)] = file
        return found

    def clean_more(self) -> list[UploadedFile[Any]]:
        files: list[UploadedFile[Any]] = self.cleaned_data["more"]
        names = ["train", "heldout", *map(_split_name, files)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise forms.ValidationError(
                _("Two files would become the split %(name)s. Rename one of them."),
                params={"name": twice},
            )
        return files

    def clean_columns(self) -> str:
        text: str = self.cleaned_data["columns"]
        for part in filter(str.strip, text.replace("\n", ",").split(",")):
            if "=" not in part:
                raise forms.ValidationError(_("Write field=column, such as prompt=question."))
        uses = list(self.uses().values())
        twice = next((use for use in uses if uses.count(use) > 1), None)
        if twice:
            raise forms.ValidationError(
                _("Two columns are used as %(field)s. Choose one of them."),
                params={"field": twice},
            )
        return text

    def uses(self) -> dict[str, str]:
        """What was chosen for the columns that were found: uses by column."""
        if not hasattr(self.data, "getlist"):
            return {}
        pairs = zip(self.data.getlist("column"), self.data.getlist("column_as"), strict=False)
        return {column: use for column, use in pairs if use}

    def mapping(self) -> dict[str, str]:
        """Columns by field: those chosen, else those written."""
        chosen = {use: column for column, use in self.uses().items()}
        if chosen:
            return chosen
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


def _split_name(file: UploadedFile[Any]) -> str:
    return (file.name or "").rsplit(".", 1)[0].lower().replace(" ", "-")


def column_rows(seen: FirstRows, uses: dict[str, str]) -> list[dict[str, Any]]:
    """The columns of a file with what each is used as: as chosen, else as its name suggests."""
    proposed = uses or {column: field for field, column in seen.mapping.items()}
    return [
        {
            "name": column.name,
            "values": [value for value in column.values if value],
            "use": proposed.get(column.name, ""),
        }
        for column in seen.columns
    ]


def use_choices() -> list[tuple[str, str | Promise]]:
    return [(name, USES[name]) for name in sorted(fields.FIELDS, key=list(USES).index)]
