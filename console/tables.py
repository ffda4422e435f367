"""Tables that sort, filter and page on the server, with the whole of their view in the URL."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.functional import cached_property

PAGE_SIZE = 25
MOST_COUNTED = 10_000  # beyond it, counting would take longer than reading the page


class CappedPaginator(Paginator):  # type: ignore[type-arg] # not generic when it runs
    """Counts no further than `MOST_COUNTED`; what lies behind is found with filters."""

    @cached_property
    def count(self) -> int:
        rows = self.object_list
        if isinstance(rows, QuerySet):
            return rows[:MOST_COUNTED].count()
        return len(rows)

    @property
    def is_capped(self) -> bool:
        return self.count >= MOST_COUNTED


@dataclass(frozen=True)
class Column:
    """A heading; with `sort` (an ORM field) it is a link that orders by it."""

    label: str
    sort: str = ""
    numeric: bool = False
    minor: bool = False  # left out where the window is narrow


@dataclass(frozen=True)
class Heading:
    label: str
    numeric: bool
    minor: bool
    order: str  # "ascending", "descending" or ""
    next_sort: str  # value of ?sort= that a click asks for; empty when it cannot be sorted


@dataclass(frozen=True)
class Table:
    """What components/table.html draws: headings, one page of rows, and how to draw a row."""

    label: str
    headings: list[Heading]
    page: Page[Any]
    row_template: str
    filtered: bool = False  # an empty table then means "nothing matches", not "nothing yet"


def make_table(
    request: HttpRequest,
    *,
    label: str,
    columns: Sequence[Column],
    rows: QuerySet[Any] | Sequence[Any],
    row_template: str,
    default_sort: str = "",
    filtered: bool = False,
    page_size: int = PAGE_SIZE,
) -> Table:
    """Order and page `rows` as the URL asks; unknown or unfit values fall back quietly."""
    allowed = {column.sort for column in columns if column.sort}
    sort = request.GET.get("sort", "")
    if sort.removeprefix("-") not in allowed:
        sort = default_sort
    if isinstance(rows, QuerySet) and sort:
        rows = rows.order_by(sort, "-pk" if sort.startswith("-") else "pk")
    page = CappedPaginator(rows, page_size).get_page(request.GET.get("page"))
    return Table(
        label=label,
        headings=[_heading(column, sort) for column in columns],
        page=page,
        row_template=row_template,
        filtered=filtered,
    )


def narrow(
    request: HttpRequest, rows: QuerySet[Any], statuses: Sequence[tuple[str, Any]]
) -> tuple[QuerySet[Any], dict[str, Any]]:
    """Rows by `?q=` in their names and by `?status=`, and what filtered_list.html needs to ask."""
    query, status = request.GET.get("q", "").strip(), request.GET.get("status", "")
    chosen = status if status in dict(statuses) else ""
    if query:
        rows = rows.filter(name__icontains=query)
    if chosen:
        rows = rows.filter(status=chosen)
    asked = {"query": query, "status_choices": statuses, "chosen_status": chosen}
    return rows, asked | {"is_filtered": bool(query or chosen)}


def _heading(column: Column, sort: str) -> Heading:
    order = ""
    if column.sort and sort.removeprefix("-") == column.sort:
        order = "descending" if sort.startswith("-") else "ascending"
    next_sort = f"-{column.sort}" if order == "ascending" else column.sort
    return Heading(
        label=column.label,
        numeric=column.numeric,
        minor=column.minor,
        order=order,
        next_sort=next_sort,
    )
