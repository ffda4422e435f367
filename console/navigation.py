"""The left navigation: four groups, each link shown to those who may follow it."""

from collections.abc import Set
from dataclasses import dataclass

from django.urls import reverse
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from accounts.choices import Capability


@dataclass(frozen=True)
class Item:
    label: str | Promise
    icon: str
    url: str
    current: bool


@dataclass(frozen=True)
class Group:
    label: str | Promise
    items: list[Item]


_GROUPS: list[tuple[str | Promise, list[tuple[str | Promise, str, str, str]]]] = [
    ("", [(_("Overview"), "overview", "console:overview", Capability.VIEW)]),
    (
        _("Build"),
        [
            (_("Models"), "model", "console:models", Capability.VIEW),
            (_("Datasets"), "dataset", "console:datasets", Capability.VIEW),
            (_("Training runs"), "training", "console:runs", Capability.VIEW),
            (_("Fine-tuning API"), "code", "console:api_jobs", Capability.VIEW),
            (_("Evaluations"), "evaluation", "console:evaluations", Capability.VIEW),
        ],
    ),
    (
        _("Serve"),
        [
            (_("Deployments"), "deployment", "console:deployments", Capability.VIEW),
            (_("Playground"), "playground", "console:playground", Capability.INFER),
        ],
    ),
    (
        _("Account"),
        [
            (_("Usage"), "usage", "console:usage", Capability.VIEW_USAGE),
            (_("Statement"), "statement", "console:statement", Capability.VIEW_USAGE),
            (_("API keys"), "key", "console:keys", Capability.VIEW),
            (_("Limits"), "budget", "console:limits", Capability.VIEW),
            (_("Members"), "members", "console:members", Capability.VIEW),
            (_("Audit"), "audit", "console:audit", Capability.VIEW_AUDIT),
        ],
    ),
    (_("Operate"), [(_("Chips"), "chip", "console:chips", Capability.OPERATE)]),
]


def build(path: str, granted: Set[str]) -> list[Group]:
    """The groups with at least one link that `granted` allows; `path` marks the current one."""
    groups = []
    for label, entries in _GROUPS:
        items = [
            Item(label=name, icon=icon, url=url, current=_is_current(url, path))
            for name, icon, view, needs in entries
            if needs in granted
            for url in [reverse(view)]
        ]
        if items:
            groups.append(Group(label=label, items=items))
    return groups


def _is_current(url: str, path: str) -> bool:
    return path == url if url == "/" else path.startswith(url)
