"""The stream in Redis on which gateways tell what they answered, and the shape of one event.

A gateway adds events and never waits for a database; `usage.ingest` moves them into rows. An entry
holds all that a gateway had to tell at that moment. An event may be told twice: its `request_id`
makes it count once.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, TypedDict
from uuid import UUID

import orjson

EVENTS = "usage:events"
REJECTED = "usage:rejected"  # events that no row can be made of, kept for a person to look at
FIELD = b"events"

IDS = ("organization_id", "key_id", "deployment_id", "replica_id", "revision_id")


class Event(TypedDict):
    """One request that an engine answered or began to answer. Ids are UUIDs as text.

    `at` is when the answer ended, in seconds since 1970. `input_tokens` are all tokens of the
    prompt; `cached_input_tokens` says how many of them were cached.
    """

    request_id: str
    at: float
    organization_id: str
    key_id: str | None
    key_name: str
    model_name: str
    deployment_id: str | None
    deployment_name: str
    replica_id: str | None
    revision_id: str | None
    endpoint: str
    input_tokens: int
    cached_input_tokens: int
    output_tokens: int
    status_code: int
    is_interrupted: bool
    is_streamed: bool
    first_token_milliseconds: float | None
    duration_milliseconds: float | None


def encode(events: Iterable[Event]) -> dict[bytes, bytes]:
    """The fields of one entry of the stream."""
    return {FIELD: orjson.dumps(list(events))}


def decode(fields: dict[bytes, bytes]) -> list[Any]:
    """The events of one entry, not yet looked at. Raises ValueError for anything else."""
    try:
        events = orjson.loads(fields[FIELD])
    except (KeyError, orjson.JSONDecodeError) as error:
        raise ValueError(f"no usage events: {error!r}") from error
    if not isinstance(events, list):
        raise ValueError(f"no usage events: {events!r}")
    return events


def values_of(event: Any) -> dict[str, Any]:
    """The values of a UsageEvent row, by field name. Raises ValueError."""
    try:
        values = {name: event[name] for name in Event.__annotations__}
        values["at"] = datetime.fromtimestamp(values["at"], UTC)
        for name in IDS:
            values[name] = UUID(values[name]) if values[name] else None
    except (AttributeError, KeyError, TypeError, OverflowError, ValueError) as error:
        raise ValueError(f"not a usage event: {error!r}") from error
    return values
