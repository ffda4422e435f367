"""The lines that a dataset's findings speak of: checked ones as conversations, refused ones as they
came; and both as files."""

from typing import Any
from uuid import UUID

from django.http import FileResponse, Http404, HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _

from console import dataset_report, findings, marks
from console.dataset_pages import crumbs_of, find_version, told
from console.pages import ConsoleRequest, console_page, show
from models_registry import storage
from training.formats import containers
from training.lines import read_lines
from training.models import DatasetFinding, DatasetSource, DatasetSplit, DatasetVersion
from training.source_lines import read_source

AROUND = 3  # lines before and after the one asked for
LINES_SHOWN = 10


@console_page()
def version_lines(request: ConsoleRequest, version_id: UUID) -> HttpResponse:
    """Lines of a split as conversations, from the one asked for on, with some before it."""
    version = find_version(request, version_id)
    splits = {split.name: split for split in version.splits.all()}
    wanted = request.GET.get("split", "")
    split = splits.get(wanted) or splits.get("train") or next(iter(splits.values()), None)
    if split is None:
        raise Http404
    line = _asked(request, split.examples)
    first = max(1, line - AROUND)
    shown = _shown(version, split, first, asked=line if "line" in request.GET else 0)
    last = first + len(shown) - 1
    return show(
        request,
        "console/datasets/lines.html",
        {
            "title": _("Lines of %(split)s") % {"split": split.name},
            "crumbs": crumbs_of(version),
            "version": version,
            "split": split,
            "splits": list(splits.values()),
            "lines": shown,
            "line": line,
            "before": max(1, first - LINES_SHOWN + AROUND) if first > 1 else None,
            "after": last + 1 + AROUND if last < split.examples else None,
        },
    )


@console_page()
def version_source(request: ConsoleRequest, version_id: UUID) -> HttpResponse:
    """Lines of a file as it was uploaded, with what is wrong with each: of a refused version there
    are no others."""
    version = find_version(request, version_id)
    source = _source(version, request.GET.get("source", ""))
    line = _asked(request, 10**9)
    first = max(1, line - AROUND)
    container = next(
        (
            one["container"]
            for one in version.report.get("sources", ())
            if one["name"] == source.name
        ),
        containers.JSONL,
    )
    with storage.open_blob(source.blob_id) as file:
        found = read_source(file, container, first, LINES_SHOWN + 1)
    wrong: dict[int, list[dict[str, Any]]] = {}
    for error in version.report.get("errors", ()):
        if error["split"] == source.name:
            wrong.setdefault(error["line"], []).append(told(error))
    numbers = sorted(wrong)
    return show(
        request,
        "console/datasets/source.html",
        {
            "title": _("%(file)s, line %(line)s")
            % {"file": source.file_name or source.name, "line": f"{line:,}"},
            "crumbs": crumbs_of(version),
            "version": version,
            "source": source,
            "line": line,
            "lines": [
                {"row": one, "errors": wrong.get(one.number, ()), "is_asked": one.number == line}
                for one in found[:LINES_SHOWN]
            ],
            "before": max((one for one in numbers if one < line), default=None),
            "after": min((one for one in numbers if one > line), default=None),
        },
    )


@console_page()
def version_file(request: ConsoleRequest, version_id: UUID) -> FileResponse:
    """A split's checked lines, or a source as it came."""
    version = find_version(request, version_id)
    if "source" in request.GET:
        source = _source(version, request.GET["source"])
        blob, name = source.blob_id, source.file_name or f"{source.name}.jsonl"
    else:
        split = next(
            (one for one in version.splits.all() if one.name == request.GET.get("split", "train")),
            None,
        )
        if split is None:
            raise Http404
        blob, name = split.blob_id, f"{version.dataset.name}-{version.number}-{split.name}.jsonl"
    return FileResponse(
        storage.open_blob(blob),
        as_attachment=True,
        filename=name,
        content_type="application/octet-stream",
    )


def _asked(request: ConsoleRequest, most: int) -> int:
    asked = request.GET.get("line", "1")
    return max(1, min(int(asked), most)) if asked.isdecimal() and len(asked) < 10 else 1


def _source(version: DatasetVersion, name: str) -> DatasetSource:
    rows = version.sources.all()
    found = rows.filter(name=name).first() if name else rows.first()
    if found is None:
        raise Http404
    return found


def _shown(
    version: DatasetVersion, split: DatasetSplit, first: int, *, asked: int
) -> list[dict[str, Any]]:
    here = DatasetFinding.objects.filter(
        version=version, split=split.name, line__range=(first, first + LINES_SHOWN)
    )
    by_line: dict[int, list[DatasetFinding]] = {}
    for row in here.exclude(kind="longest").order_by("id"):
        by_line.setdefault(row.line, []).append(row)
    return [
        {
            "number": found.number,
            "turns": marks.mark(dataset_report.turns(found.row), by_line.get(found.number, ())),
            "is_cut": found.is_cut,
            "is_asked": found.number == asked,
            "findings": [_told(version, row) for row in by_line.get(found.number, ())],
        }
        for found in read_lines(split, first, LINES_SHOWN)
    ]


def _told(version: DatasetVersion, row: DatasetFinding) -> dict[str, Any]:
    """A finding beside its line; `other` leads to the line it is like, if that is of this version."""
    is_here = any(split.name == row.other_split for split in version.splits.all())
    url = reverse("console:dataset_version_lines", args=[version.pk])
    return {
        "about": findings.row_of(row.kind, 1),
        "excerpt": row.excerpt,
        "other_split": row.other_split,
        "other_line": row.other_line,
        "other_url": f"{url}?split={row.other_split}&line={row.other_line}#line-{row.other_line}"
        if is_here and row.other_line
        else "",
    }
