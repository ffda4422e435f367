"""The forms of the deploy wizard and of changing what a deployment runs."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from django import forms
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from common.errors import DomainError
from deployments.services import MAX_REPLICAS, checks
from deployments.variants import Content

Choices = Sequence[tuple[str, str | Promise]]


class ModelStep(forms.Form):
    """What is to be served."""

    revision = forms.ChoiceField(
        label=_("Revision"),
        error_messages={"required": _("Choose what is to be served.")},
    )

    def __init__(self, *args: Any, revisions: Choices, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["revision"].choices = revisions  # type: ignore[attr-defined]


class HostStep(forms.Form):
    """Of an adapter: on whose replicas."""

    host = forms.ChoiceField(label=_("Served by"), widget=forms.RadioSelect)

    def __init__(self, *args: Any, hosts: Choices, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["host"].choices = hosts  # type: ignore[attr-defined]


class HardwareFields(forms.Form):
    """What each replica runs and holds."""

    engine = forms.ChoiceField(label=_("Engine"))
    share = forms.ChoiceField(
        label=_("Each replica holds"),
        choices=[
            ("slots", _("Slots of a shared accelerator")),
            ("whole", _("Whole accelerators")),
        ],
        initial="slots",
    )
    count = forms.IntegerField(label=_("How many"), min_value=1, max_value=1024, initial=1)
    max_context_tokens = forms.IntegerField(
        label=_("Longest context, tokens"),
        min_value=2,
        required=False,
        help_text=_("Question and answer together. Empty: the model's own, at most 8,192."),
    )
    max_concurrency = forms.IntegerField(
        label=_("Answers at once"),
        min_value=1,
        max_value=4096,
        required=False,
        help_text=_("By one replica; more wait. Empty: 16."),
    )

    SETTINGS = ("max_context_tokens", "max_concurrency")

    def __init__(self, *args: Any, engines: Choices, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["engine"].choices = engines  # type: ignore[attr-defined]

    def content(self, revision_id: UUID, *, others: dict[str, Any] | None = None) -> Content:
        """What a replica is to run; `others` are settings that this form does not speak of.
        Valid forms only."""
        asked = self.cleaned_data
        kept = {name: value for name, value in (others or {}).items() if name not in self.SETTINGS}
        given = {name: asked[name] for name in self.SETTINGS if asked.get(name) is not None}
        whole = asked["share"] == "whole"
        return Content(
            revision_id=revision_id,
            engine=asked["engine"],
            slots_per_replica=1 if whole else asked["count"],
            accelerators_per_replica=asked["count"] if whole else 0,
            pool_name=asked.get("pool_name", ""),
            settings=kept | given,
        )


class WhereStep(HardwareFields):
    """Where it fits. The pools are offered with what each of them says to the rest."""

    pool_name = forms.ChoiceField(label=_("Pool"), required=False)

    def __init__(self, *args: Any, pools: Choices, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        any_pool = ("", _("Any that fits"))
        self.fields["pool_name"].choices = [any_pool, *pools]  # type: ignore[attr-defined]


class NameStep(forms.Form):
    """What clients call it."""

    name = forms.CharField(
        label=_("Name"),
        max_length=96,
        help_text=_("Clients say it as the model: letters, digits, dots, hyphens, underscores."),
    )

    def __init__(self, *args: Any, taken: Sequence[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.taken = taken

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        try:
            checks.check_name(name)
        except DomainError as error:
            raise forms.ValidationError(error.message) from None
        if name in self.taken:
            raise forms.ValidationError(_("A deployment has this name already. Choose another."))
        return name


class CopiesStep(NameStep):
    """How many, and whether the number follows the load."""

    replicas = forms.IntegerField(
        label=_("Replicas"),
        min_value=0,
        max_value=MAX_REPLICAS,
        initial=1,
        help_text=_("Copies that run, each on accelerators of its own."),
    )
    autoscaling = forms.BooleanField(
        label=_("Let the number of replicas follow the load"),
        required=False,
        help_text=_("Between the two numbers below; the number above is where it begins."),
    )
    min_replicas = forms.IntegerField(
        label=_("At least"),
        min_value=0,
        max_value=MAX_REPLICAS,
        initial=1,
        required=False,
        help_text=_("Replicas. With 0 the model sleeps when idle and wakes with a request."),
    )
    max_replicas = forms.IntegerField(
        label=_("At most"),
        min_value=1,
        max_value=MAX_REPLICAS,
        initial=4,
        required=False,
        help_text=_("Replicas."),
    )

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        if not cleaned.get("autoscaling"):
            return cleaned
        for name in ("min_replicas", "max_replicas"):
            if cleaned.get(name) is None and name not in self.errors:
                self.add_error(name, _("Needed where the number follows the load."))
        least, most = cleaned.get("min_replicas"), cleaned.get("max_replicas")
        if least is not None and most is not None and most < least:
            self.add_error("max_replicas", _("This is less than the least. Use as many or more."))
        return cleaned


class RevisionChange(forms.Form):
    """Another revision in the place of what is served; of an adapter on a host, all there is."""

    revision = forms.ChoiceField(label=_("Revision"))

    def __init__(self, *args: Any, revisions: Choices, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["revision"].choices = revisions  # type: ignore[attr-defined]


class ChangeForm(WhereStep, RevisionChange):
    """What a deployment's replicas shall run from now on, and how they get there."""

    strategy = forms.ChoiceField(
        label=_("How it is rolled out"),
        required=False,
        choices=[
            ("", _("As this deployment always does")),
            ("surge", _("New replicas first: needs room for one more")),
            ("replace", _("Old replicas first: needs no room, serves with one fewer")),
        ],
    )

    field_order = (
        "revision",
        "engine",
        "share",
        "count",
        "pool_name",
        "max_context_tokens",
        "max_concurrency",
        "strategy",
    )
