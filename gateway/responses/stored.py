"""What may be asked of a response that is kept: itself, its input, that it be forgotten."""

import re
from typing import Any
from urllib.parse import parse_qs

from engines.protocol.errors import ApiError, invalid, unsupported
from gateway import auth, errors
from gateway.directory import Key
from gateway.responses.store import Kept, ResponseStore

PATH = re.compile(r"^/v1/responses/([\w.-]{1,128})(/input_items|/cancel)?$", re.ASCII)
MOST_LISTED = 100


async def answer(
    store: ResponseStore | None, key: Key, *, method: str, path: str, query: bytes
) -> dict[str, Any]:
    """The body of the answer. Raises ApiError: 404 for another organization's response too."""
    found = PATH.match(path)
    if found is None:
        raise errors.no_route(method, path)
    name, more = found[1], found[2]
    if method not in {None: ("GET", "DELETE"), "/cancel": ("POST",)}.get(more, ("GET",)):
        raise errors.wrong_method(method, path)
    kept = await find(store, key, name)
    if more == "/cancel":
        message = "Only background responses can be cancelled. Close a stream to end it."
        raise ApiError(400, message, code="not_in_background")
    values = {name: each[-1] for name, each in parse_qs(query.decode("latin-1")).items()}
    if more:
        return _list(kept, values)
    if method == "DELETE" and store is not None:
        await store.forget(key.organization_id, name)
        return {"id": name, "object": "response", "deleted": True}
    if values.get("stream") == "true":
        raise unsupported("stream", "A stored response is not streamed again: leave it out.")
    return kept.response


async def find(
    store: ResponseStore | None, key: Key, name: str, *, param: str | None = None
) -> Kept:
    """Raises ApiError (404); a key reads only what models it may use have written."""
    kept = await store.find(key.organization_id, name) if store is not None else None
    if kept is None or not auth.may_use(key, kept.response["model"]):
        message = f"There is no stored response {name!r}. They are kept for 30 days."
        code = "previous_response_not_found" if param else "response_not_found"
        raise ApiError(400 if param else 404, message, param=param, code=code)
    return kept


def _list(kept: Kept, values: dict[str, str]) -> dict[str, Any]:
    items = [
        {"id": f"item_{index}", **_as_listed(item)}
        for index, item in enumerate([*kept.earlier, *kept.items])
    ]
    order, limit = values.get("order", "desc"), values.get("limit", "20")
    if order not in ("asc", "desc"):
        raise invalid("order", "'order' must be 'asc' or 'desc'.")
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= MOST_LISTED):
        raise invalid("limit", f"'limit' must be from 1 to {MOST_LISTED}.")
    if order == "desc":
        items.reverse()
    if after := values.get("after"):
        at = next((at for at, item in enumerate(items) if item["id"] == after), None)
        if at is None:
            raise invalid("after", f"There is no item {after!r}.")
        items = items[at + 1 :]
    page = items[: int(limit)]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": len(items) > len(page),
    }


def _as_listed(item: dict[str, Any]) -> dict[str, Any]:
    """A message's text as parts, whichever way it was sent."""
    item = {"type": "message", **item}
    if isinstance(item.get("content"), str):
        kind = "output_text" if item["role"] == "assistant" else "input_text"
        item["content"] = [{"type": kind, "text": item["content"]}]
    return item
