"""What people type about API keys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from django import forms
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from accounts.choices import Scope
from accounts.models import ApiKey

KEEP = "keep"
LIFETIMES: list[tuple[str, str | Promise]] = [
    ("30", _("in 30 days")),
    ("90", _("in 90 days")),
    ("365", _("in a year")),
    ("", _("never")),
]


class KeyForm(forms.Form):
    """A new key. `models`: the public names it can be bound to."""

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
    allowed_networks = forms.CharField(
        label=_("Networks it may be used from"),
        widget=forms.Textarea(attrs={"rows": 3, "spellcheck": "false", "class": "mono"}),
        required=False,
        help_text=_("Addresses or networks such as 10.0.0.0/8, one a line. Empty: from anywhere."),
    )
    days = forms.ChoiceField(label=_("Expires"), required=False, initial="90", choices=LIFETIMES)

    def __init__(
        self,
        *args: Any,
        scopes: Sequence[tuple[str, str | Promise]],
        models: Iterable[str],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.fields["scopes"].choices = scopes  # type: ignore[attr-defined]
        names = [(name, name) for name in models]
        if names:
            self.fields["allowed_models"].choices = names  # type: ignore[attr-defined]
        else:
            del self.fields["allowed_models"]

    def clean_allowed_networks(self) -> list[str]:
        return str(self.cleaned_data["allowed_networks"]).replace(",", " ").split()

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        cleaned.setdefault("allowed_models", [])
        return cleaned

    def expires_at(self, now: datetime) -> datetime | None:
        """When the key ends, by the chosen lifetime."""
        days = self.cleaned_data["days"]
        return now + timedelta(days=int(days)) if days else None


class KeyChangeForm(KeyForm):
    """An existing key: what it may do, from where, until when. Models that it is bound to and that
    are no longer served stay choosable."""

    def __init__(self, *args: Any, key: ApiKey, models: Iterable[str], **kwargs: Any) -> None:
        names = sorted({*models, *key.allowed_models})
        kept = {
            "name": key.name,
            "scopes": key.scopes,
            "allowed_models": key.allowed_models,
            "allowed_networks": "\n".join(key.allowed_networks),
            "days": KEEP,
        }
        super().__init__(*args, models=names, initial=kept, **kwargs)
        self.fields["days"].choices = [(KEEP, _("as it is")), *LIFETIMES]  # type: ignore[attr-defined]

    def changes(self, now: datetime) -> dict[str, Any]:
        """What `change_api_key` takes."""
        names = ("name", "scopes", "allowed_models", "allowed_networks")
        wanted = {name: self.cleaned_data[name] for name in names}
        if self.cleaned_data["days"] != KEEP:
            wanted["expires_at"] = self.expires_at(now)
        return wanted


class RotateForm(forms.Form):
    overlap_seconds = forms.TypedChoiceField(
        label=_("The present secret works"),
        coerce=int,
        initial=24 * 3600,
        widget=forms.RadioSelect,
        choices=[
            (0, _("no longer: it ends now, because somebody may have seen it")),
            (3600, _("for another hour")),
            (24 * 3600, _("for another day")),
            (7 * 24 * 3600, _("for another week")),
        ],
    )

    def overlap(self) -> timedelta:
        return timedelta(seconds=self.cleaned_data["overlap_seconds"])
