"""Answers that a browser saves rather than shows."""

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence

from asgiref.sync import sync_to_async
from django.http import HttpResponse, StreamingHttpResponse

from console import charts


def csv_download(text: str, name: str) -> HttpResponse:
    """CSV with a byte order mark, so that spreadsheets read Chinese right."""
    response = HttpResponse("\ufeff" + text, content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def csv_stream(
    header: Sequence[str], pages: Iterator[Sequence[Sequence[object]]], name: str
) -> StreamingHttpResponse:
    """CSV of as many rows as there are: one page of them is in memory. Safe to open in a spreadsheet
    (no cell starts a formula)."""
    response = StreamingHttpResponse(_pieces(header, pages), content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


async def _pieces(
    header: Sequence[str], pages: Iterator[Sequence[Sequence[object]]]
) -> AsyncIterator[bytes]:
    """Pages are read in threads: a sync iterator would be read to its end before any is sent."""
    yield ("\ufeff" + charts.as_csv(header, [])).encode()
    while (page := await sync_to_async(_next)(pages)) is not None:
        yield charts.csv_rows(page).encode()


def _next(pages: Iterator[Sequence[Sequence[object]]]) -> Sequence[Sequence[object]] | None:
    return next(pages, None)


def text_download(text: str, name: str) -> HttpResponse:
    response = HttpResponse(text, content_type="text/plain; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def pdf_download(data: bytes, name: str) -> HttpResponse:
    response = HttpResponse(data, content_type="application/pdf")
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def attachment(parts: Iterable[bytes], name: str) -> HttpResponse:
    """Bytes that mean nothing to a browser."""
    response = HttpResponse(b"".join(parts), content_type="application/octet-stream")
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response
