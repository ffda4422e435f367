"""What people type into the console. Rules that matter are the services'; these help to type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django import forms
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from accounts.choices import Role
from accounts.models import User
from models_registry.choices import SourceKind, Visibility

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
