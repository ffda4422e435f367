"""The stream in Redis on which gateways tell what they answered, and the shape of one event.

A gateway adds events and never waits for a database; `usage.ingest` moves them into rows. An entry
holds all that a gateway had to tell at that moment. An event may be told twice: its `request_id`
makes it count once.
"""

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NotRequired, TypedDict
from uuid import UUID

import orjson

EVENTS = "usage:events"
GROUP = "ledger"  # the one group that reads it
FIELD = b"events"

IDS = ("organization_id", "key_id", "deployment_id", "replica_id", "revision_id")
COUNTS = ("input_tokens", "cached_input_tokens", "output_tokens")
MEASURES = ("first_token_milliseconds", "duration_milliseconds")
FLAGS = ("is_interrupted", "is_streamed", "is_batch")
# Names that are longer lose their end: what was used is billed all the same.
NAMES = {"key_name": 80, "model_name": 200, "deployment_name": 200, "endpoint": 40}
LONGEST_PROVIDER_NAME = 60
LONGEST_REQUEST_ID = 64
MOST_TOKENS = 2**31 - 1
EARLIEST_YEAR = 2020  # a clock that was never set says 1970


class Event(TypedDict):
    """One request that an engine answered or began to answer. Ids are UUIDs as text.

    `at` is when the answer ended, in seconds since 1970. `input_tokens` are all tokens of the
    prompt; `cached_input_tokens` says how many of them were cached. `is_batch`: it was answered on
    idle capacity and has the price of batches. `provider_name`: an external provider answered it,
    no deployment, and it has that provider's prices.
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
    is_batch: NotRequired[bool]
    provider_name: NotRequired[str]


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
    """The values of a UsageEvent row, by field name, all of them such as its columns can hold.

    Raises ValueError, whatever the event is.
    """
    try:
        values = {name: event[name] for name in Event.__required_keys__}
        values["is_batch"] = event.get("is_batch", False)
        values["provider_name"] = _text(event.get("provider_name", ""))[:LONGEST_PROVIDER_NAME]
        values["at"] = datetime.fromtimestamp(values["at"], UTC)
        if values["at"].year < EARLIEST_YEAR:
            raise ValueError(f"at is {values['at']}")
        for name in IDS:
            values[name] = UUID(values[name]) if values[name] else None
        for name, longest in NAMES.items():
            values[name] = _text(values[name])[:longest]
        for name in MEASURES:
            values[name] = _measure(values[name])
        for name in FLAGS:
            values[name] = bool(values[name])
        _check_counts(values)
    except (AttributeError, KeyError, TypeError, OSError, OverflowError, ValueError) as error:
        raise ValueError(f"not a usage event: {error!r}") from error
    return values


def _check_counts(values: dict[str, Any]) -> None:
    request_id = _text(values["request_id"])
    if not 0 < len(request_id) <= LONGEST_REQUEST_ID or request_id != values["request_id"]:
        raise ValueError(f"request_id is {values['request_id']!r:.80}")
    if values["organization_id"] is None:
        raise ValueError("it belongs to no organization")
    for name in COUNTS:
        if type(values[name]) is not int or not 0 <= values[name] <= MOST_TOKENS:
            raise ValueError(f"{name} is {values[name]!r:.80}")
    values["cached_input_tokens"] = min(values["cached_input_tokens"], values["input_tokens"])
    if type(values["status_code"]) is not int or not 0 <= values["status_code"] < 1000:
        raise ValueError(f"status_code is {values['status_code']!r:.80}")


def _text(value: Any) -> str:
    """Text that PostgreSQL takes: no NUL, no lone surrogate."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is no text")
    return value.replace("\0", "").encode(errors="replace").decode()


def _measure(value: Any) -> float | None:
    """For people alone: what is no number is left out and holds nothing up."""
    usable = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if usable else None
