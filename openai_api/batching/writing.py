"""The files that a batch ends with: answers in one, what was not answered in another."""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from models_registry import storage
from models_registry.models import Blob
from openai_api.models import Batch, BatchLine

GOOD = 200
UNANSWERED = {
    "batch_expired": "This request could not be executed before the completion window ended.",
    "batch_cancelled": "The batch was cancelled before this request was sent.",
    "gateway_unreachable": "The platform's gateway could not be reached.",
}


def write_files(batch: Batch, *, left_code: str, now: datetime) -> tuple[Blob | None, Blob | None]:
    """Contents of the output file and of the error file, each None if it has no line. Lines without
    an answer are told of with `left_code`. The same rows give the same bytes."""
    good = batch.lines.filter(status_code=GOOD)
    bad = batch.lines.exclude(status_code=GOOD) | batch.lines.filter(status_code__isnull=True)
    blobs: list[Blob | None] = []
    for rows in (good, bad):
        if rows.exists():
            ordered = rows.order_by("number").iterator(chunk_size=500)
            blobs.append(storage.put_chunks(_texts(ordered, left_code), now=now))
        else:
            blobs.append(None)
    return blobs[0], blobs[1]


def _texts(rows: Iterator[BatchLine], left_code: str) -> Iterator[bytes]:
    for row in rows:
        yield json.dumps(_body(row, left_code), ensure_ascii=False).encode() + b"\n"


def _body(row: BatchLine, left_code: str) -> dict[str, Any]:
    response = error = None
    if row.status_code:
        response = {
            "status_code": row.status_code,
            "request_id": row.request_id,
            "body": _said(row.answer),
        }
    else:
        code = row.error_code or left_code
        error = {"code": code, "message": UNANSWERED[code]}
    return {
        "id": f"batch_req_{row.batch_id.hex}{row.number:08x}",
        "custom_id": row.custom_id,
        "response": response,
        "error": error,
    }


def _said(answer: str) -> Any:
    try:
        return json.loads(answer)
    except ValueError:
        return answer
