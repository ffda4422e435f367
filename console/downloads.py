"""Answers that a browser saves rather than shows."""

from collections.abc import Iterable

from django.http import HttpResponse


def csv_download(text: str, name: str) -> HttpResponse:
    """CSV with a byte order mark, so that spreadsheets read Chinese right."""
    response = HttpResponse("\ufeff" + text, content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def text_download(text: str, name: str) -> HttpResponse:
    response = HttpResponse(text, content_type="text/plain; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response


def attachment(parts: Iterable[bytes], name: str) -> HttpResponse:
    """Bytes that mean nothing to a browser."""
    response = HttpResponse(b"".join(parts), content_type="application/octet-stream")
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    return response
