"""What the check of a dataset version found, line by line: as a page and as a file."""

from collections.abc import Iterable, Iterator
from typing import Any
from uuid import UUID

from django.http import Http404, HttpResponse, StreamingHttpResponse
from django.utils.translation import gettext as _

from console import charts, dataset_report, findings, tables
from console.dataset_pages import crumbs_of, find_version, told
from console.pages import ConsoleRequest, console_page, show
from training import selectors
from training.doctor.findings import KINDS
from training.lines import read_lines
from training.models import DatasetFinding, DatasetSplit, DatasetVersion

COLUMNS = (
    "severity",
    "kind",
    "split",
    "line",
    "field",
    "found",
    "what",
    "remedy",
    "other_split",
    "other_line",
    "score",
)
ROWS_A_PIECE = 500


@console_page()
def version_findings(request: ConsoleRequest, version_id: UUID) -> HttpResponse:
    """The lines of one kind of finding; what is alike stands side by side."""
    version = find_version(request, version_id)
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
    foreign = _foreign_splits(request, table.page, splits)
    for row in table.page:
        _dress(row, splits, foreign)
    about = findings.row_of(kind, counts.get(kind, 0)) if kind else None
    return show(
        request,
        "console/datasets/findings.html",
        {
            "title": about.title if about else _("Findings"),
            "lede": about.remedy if about else "",
            "crumbs": crumbs_of(version),
            "version": version,
            "about": about,
            "table": table,
            "groups": findings.grouped(counts),
            "kind": kind,
            "actions": "console/datasets/_finding_actions.html",
        },
    )


@console_page()
def version_findings_csv(request: ConsoleRequest, version_id: UUID) -> StreamingHttpResponse:
    """All findings that are kept, or those of one kind, as a table; errors with their remedy."""
    version = find_version(request, version_id)
    kind = request.GET.get("kind", "")
    if kind and kind not in findings.WORDS:
        raise Http404
    if kind in ("", "error") and version.report.get("errors"):
        rows = _errors(version)
    else:
        rows = _found(selectors.list_findings(version, kind=kind).iterator(ROWS_A_PIECE))
    name = f"{version.dataset.name}-{version.number}-{kind or 'findings'}.csv"
    return StreamingHttpResponse(
        _as_csv(rows),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


def _as_csv(rows: Iterable[list[Any]]) -> Iterator[str]:
    """With a byte order mark, so that spreadsheets read Chinese right."""
    piece: list[list[Any]] = []
    text = "\ufeff" + charts.as_csv(list(COLUMNS), [])
    heading = charts.as_csv(list(COLUMNS), [])
    yield text
    for row in rows:
        piece.append(row)
        if len(piece) == ROWS_A_PIECE:
            yield charts.as_csv(list(COLUMNS), piece).removeprefix(heading)
            piece = []
    yield charts.as_csv(list(COLUMNS), piece).removeprefix(heading)


def _errors(version: DatasetVersion) -> Iterator[list[Any]]:
    for one in version.report["errors"]:
        place = [one["split"], one["line"], one["field"]]
        said = told(one)
        yield ["bad", one["code"], *place, "", said["message"], said["remedy"], "", "", ""]


def _found(rows: Iterable[DatasetFinding]) -> Iterator[list[Any]]:
    for row in rows:
        kind = KINDS[row.kind]
        title, remedy = findings.WORDS[row.kind]
        yield [
            kind.severity,
            row.kind,
            row.split,
            row.line,
            row.field,
            row.excerpt,
            title,
            remedy,
            row.other_split,
            row.other_line or "",
            "" if row.score is None else row.score,
        ]


def _foreign_splits(
    request: ConsoleRequest, rows: Iterable[Any], splits: dict[str, DatasetSplit]
) -> dict[str, DatasetSplit]:
    """Splits of other versions that rows of the page are like lines of, by id."""
    wanted: set[UUID] = set()
    for row in rows:
        if row.other_split and row.other_split not in splits:
            try:
                wanted.add(UUID(row.other_split))
            except ValueError:
                continue
    found = DatasetSplit.objects.filter(
        version__dataset__organization=request.organization, pk__in=wanted
    )
    return {str(one.pk): one for one in found.select_related("version__dataset")}


def _dress(row: Any, splits: dict[str, DatasetSplit], foreign: dict[str, DatasetSplit]) -> None:
    """Add what the row's template shows: the words of its kind, and both lines if it has two."""
    row.about = findings.row_of(row.kind, 1)
    row.has_lines = row.split in splits and row.line > 0
    row.is_source = row.split not in splits and row.line > 0
    other = splits.get(row.other_split) or foreign.get(row.other_split)
    row.other = other
    if row.kind in findings.SHOWS_BOTH and row.has_lines and other is not None:
        sides = (
            (splits[row.split], row.split, row.line),
            (other, _name(row, other), row.other_line),
        )
        row.both = [
            {
                "name": name,
                "line": line,
                "turns": [
                    turn
                    for found in read_lines(split, line, 1)
                    for turn in dataset_report.turns(found.row)
                    if turn.role != "system"
                ],
            }
            for split, name, line in sides
        ]
    row.other_name = _name(row, other) if other is not None else row.other_split


def _name(row: Any, other: DatasetSplit) -> str:
    return other.name if other.version_id == row.version_id else str(other)
