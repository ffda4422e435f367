"""What people type about limits."""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from accounts.choices import LimitKind
from accounts.models import ApiKey, Limit


class AmountForm(forms.Form):
    """How much, and when to tell."""

    amount = forms.DecimalField(
        label=_("At most"),
        max_digits=18,
        decimal_places=6,
        min_value=Decimal(0),
        help_text=_("Requests, tokens, or money in the organization's currency."),
    )
    warn_percent = forms.IntegerField(
        label=_("Warn at (%)"),
        min_value=1,
        max_value=100,
        required=False,
        initial=80,
        help_text=_("Owners and admins get a mail once a day or month. Empty: no warning."),
    )


class LimitForm(AmountForm):
    """A new limit."""

    kind = forms.ChoiceField(label=_("What is limited"), choices=LimitKind.choices)
    key = forms.ChoiceField(label=_("For which key"), required=False)
    model_name = forms.ChoiceField(label=_("For which model"), required=False)
    field_order = ("kind", "amount", "key", "model_name", "warn_percent")

    def __init__(
        self, *args: Any, keys: Iterable[ApiKey], models: Iterable[str], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        named = [(str(key.pk), f"{key.name} ({key.prefix}…)") for key in keys]
        self.fields["key"].choices = [("", _("all keys")), *named]  # type: ignore[attr-defined]
        names = [(name, name) for name in models]
        self.fields["model_name"].choices = [  # type: ignore[attr-defined]
            ("", _("all models")),
            *names,
        ]


def amounts_of(row: Limit) -> dict[str, Any]:
    """A limit's present values for AmountForm."""
    return {"amount": f"{row.amount.normalize():f}", "warn_percent": row.warn_percent}
