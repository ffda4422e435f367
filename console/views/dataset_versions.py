"""One dataset version: what the check found, the lines it speaks of, what is in it."""

from typing import Any
from uuid import UUID

from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.translation import gettext as _

from console import dataset_report, findings, tables
from console.pages import ConsoleRequest, console_page, show, show_live
from training import selectors
from training.choices import VersionStatus
from training.lines import read_lines
from training.models import Dataset, DatasetFinding, DatasetSplit, DatasetVersion

ERRORS_SHOWN = 100
AROUND = 3  # lines before and after the one asked for
LINES_SHOWN = 10


@console_page()
def version_detail(request: ConsoleRequest, version_id: UUID) -> HttpResponse:
    version = _version(request, version_id)
    report = version.report
    splits = [
        {
            "row": split,
            "checked": figures,
            "chart": dataset_report.histogram(split, figures),
            "cuts": dataset_report.cut_shares(split.examples, figures),
            "labels": dataset_report.label_fields(version, split.name),
        }
        for split in sorted(version.splits.all(), key=lambda one: (one.name != "train", one.name))
        if (figures := report.get("splits", {}).get(split.name, {})) is not None
    ]
    counts = dict(report.get("findings", {}))
    counts |= dict.fromkeys(["longest"], 0)
    return show_live(
        request,
        "console/datasets/version.html",
        "components/dataset_version.html",
        {
            "title": _title(version),
            "crumbs": _crumbs(version)[:-1],
            "actions": "console/datasets/_version_actions.html",
            "version": version,
            "is_checking": version.status == VersionStatus.CHECKING,
            "is_ready": version.status == VersionStatus.READY,
            "splits": splits,
            "examples": sum(one["row"].examples for one in splits),
            "tokens": _token_sum([one["row"].token_count for one in splits]),
            "report": report,
            "groups": findings.grouped(counts),
            "found": sum(counts.values()),
            "errors": report.get("errors", [])[:ERRORS_SHOWN],
            "sources": version.sources.all(),
            "runs": version.training_runs.order_by("-created_at")[:10],
        },
        moving=version.status == VersionStatus.CHECKING,
    )


@console_page()
def version_findings(request: ConsoleRequest, version_id: UUID) -> HttpResponse:
    """The lines of one kind of finding; what is alike stands side by side."""
    version = _version(request, version_id)
    kind = request.GET.get("kind", "")
    counts = dict(version.report.get("findings", {}))
    listed = selectors.list_findings(version, kind=kind)
    if kind and kind not in findings.WORDS:
        raise Http404
    table = tables.make_table(
        request,
        label=_("Findings"),
        columns=[
            tables.Column(_("Split")),
            tables.Column(_("Line"), numeric=True),
            tables.Column(_("What was found")),
        ],
        rows=listed,
        row_template="console/datasets/_finding.html",
        filtered=bool(kind),
        page_size=10 if kind in findings.SHOWS_BOTH else tables.PAGE_SIZE,
    )
    splits = {split.name: split for split in version.splits.all()}
    for row in table.page:
        _dress(request, row, splits)
    about = findings.row_of(kind, counts.get(kind, 0)) if kind else None
    return show(
        request,
        "console/datasets/findings.html",
        {
            "title": about.title if about else _("Findings"),
            "lede": about.remedy if about else "",
            "crumbs": _crumbs(version),
            "version": version,
            "about": about,
            "table": table,
            "groups": findings.grouped(counts),
            "kind": kind,
        },
    )


@console_page()
def version_lines(request: ConsoleRequest, version_id: UUID) -> HttpResponse:
    """Lines of a split as conversations, from the one asked for on, with some before it."""
    version = _version(request, version_id)
    splits = {split.name: split for split in version.splits.all()}
    wanted = request.GET.get("split", "")
    split = splits.get(wanted) or splits.get("train") or next(iter(splits.values()), None)
    if split is None:
        raise Http404
    asked = request.GET.get("line", "1")
    line = min(int(asked), split.examples) if asked.isdecimal() and len(asked) < 10 else 1
    first = max(1, line - AROUND)
    marked = {
        finding.line: finding
        for finding in DatasetFinding.objects.filter(
            version=version, split=split.name, line__range=(first, first + LINES_SHOWN)
        ).exclude(kind="longest")
    }
    shown = [
        {
            "number": found.number,
            "turns": dataset_report.turns(found.row),
            "is_cut": found.is_cut,
            "is_asked": found.number == line and "line" in request.GET,
            "finding": findings.row_of(marked[found.number].kind, 1)
            if found.number in marked
            else None,
        }
        for found in read_lines(split, first, LINES_SHOWN)
    ]
    last = first + len(shown) - 1
    return show(
        request,
        "console/datasets/lines.html",
        {
            "title": _("Lines of %(split)s") % {"split": split.name},
            "crumbs": _crumbs(version),
            "version": version,
            "split": split,
            "splits": list(splits.values()),
            "lines": shown,
            "line": line,
            "before": max(1, first - LINES_SHOWN + AROUND) if first > 1 else None,
            "after": last + 1 + AROUND if last < split.examples else None,
        },
    )


def _version(request: ConsoleRequest, version_id: UUID) -> DatasetVersion:
    rows = DatasetVersion.objects.filter(dataset__in=Dataset.objects.of(request.organization))
    return get_object_or_404(
        rows.select_related("dataset").prefetch_related("splits"), pk=version_id
    )


def _title(version: DatasetVersion) -> str:
    return _("%(name)s, version %(number)s") % {
        "name": version.dataset.name,
        "number": version.number,
    }


def _crumbs(version: DatasetVersion) -> list[dict[str, str]]:
    return [
        {"label": _("Datasets"), "url": reverse("console:datasets")},
        {
            "label": version.dataset.name,
            "url": reverse("console:dataset", args=[version.dataset_id]),
        },
        {
            "label": _("Version %(number)s") % {"number": version.number},
            "url": reverse("console:dataset_version", args=[version.pk]),
        },
    ]


def _dress(request: ConsoleRequest, row: Any, splits: dict[str, DatasetSplit]) -> None:
    """Add what the row's template shows: the words of its kind, and both lines if it has two."""
    row.about = findings.row_of(row.kind, 1)
    row.has_lines = row.split in splits and row.line > 0
    row.other_name = row.other_split
    row.other_version_id = row.version_id
    if row.other_split and row.other_split not in splits:
        other = _foreign_split(request, row.other_split)
        if other is not None:
            row.other_name, row.other_version_id = str(other), other.version_id
            row.other_split = other.name
    if row.kind in findings.SHOWS_BOTH and row.has_lines and row.other_split in splits:
        sides = ((row.split, row.line), (row.other_split, row.other_line))
        row.both = [
            {
                "name": name,
                "line": line,
                "turns": [
                    turn
                    for found in read_lines(splits[name], line, 1)
                    for turn in dataset_report.turns(found.row)
                    if turn.role != "system"
                ],
            }
            for name, line in sides
        ]


def _foreign_split(request: ConsoleRequest, split_id: str) -> DatasetSplit | None:
    try:
        key = UUID(split_id)
    except ValueError:
        return None
    rows = DatasetSplit.objects.filter(version__dataset__organization=request.organization)
    return rows.select_related("version__dataset").filter(pk=key).first()


def _token_sum(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if known else None
