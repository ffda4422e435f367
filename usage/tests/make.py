"""Events, allocations and prices for tests."""

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import uuid4

from django.conf import settings
from redis import Redis

from accounts.models import Organization
from accounts.tests.make import NOW, make_organization
from chips.choices import Purpose
from chips.models import Allocation, PriceEntry
from usage import stream


def make_event(organization: Organization | None = None, **fields: Any) -> stream.Event:
    """What a gateway tells: 100 tokens in, 10 out, at NOW."""
    values: dict[str, Any] = {
        "request_id": str(uuid4()),
        "at": NOW.timestamp(),
        "organization_id": fields.get("organization_id")
        or str((organization or make_organization()).pk),
        "key_id": None,
        "key_name": "",
        "model_name": "tiny",
        "deployment_id": str(uuid4()),
        "deployment_name": "tiny",
        "replica_id": str(uuid4()),
        "revision_id": str(uuid4()),
        "endpoint": "chat/completions",
        "input_tokens": 100,
        "cached_input_tokens": 0,
        "output_tokens": 10,
        "status_code": 200,
        "is_interrupted": False,
        "is_streamed": False,
        "first_token_milliseconds": 1.5,
        "duration_milliseconds": 20.0,
    }
    return values | fields  # type: ignore[return-value]


def redis() -> Redis:
    return Redis.from_url(settings.REDIS_URL)


def tell(*events: stream.Event) -> None:
    """Put events on the stream, each as an entry of its own."""
    for event in events:
        redis().xadd(stream.EVENTS, stream.encode([event]))  # type: ignore[arg-type]


def make_held(
    organization: Organization | None = None,
    *,
    held_at: datetime = NOW,
    seconds: float | None = None,
    share: str = "1",
    **fields: Any,
) -> Allocation:
    """Accelerators held for so many seconds, or still."""
    values: dict[str, Any] = {
        "organization": organization or make_organization(),
        "purpose": Purpose.SERVING,
        "holder_id": uuid4(),
        "holder_name": "replica",
        "subject_name": "support",
        "node_name": "node-1",
        "pool_name": "local",
        "accelerator_type_slug": "cpu",
        "accelerator_share": Decimal(share),
        "held_at": held_at,
        "released_at": None if seconds is None else held_at + timedelta(seconds=seconds),
    }
    return Allocation.objects.create(**values | fields)


def make_price(item: str, price: str, *, valid_from: datetime | None = None, **fields: Any) -> None:
    PriceEntry.objects.create(
        item=item,
        unit_price=Decimal(price),
        valid_from=valid_from or NOW - timedelta(days=30),
        **fields,
    )
