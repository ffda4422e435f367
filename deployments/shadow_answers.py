"""Takes what candidates answered from Redis into rows, and lets go of old ones."""

import logging
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import redis
from django.conf import settings

from accounts.models import Organization
from common import locks
from deployments import shadows
from deployments.models import ShadowAnswer

logger = logging.getLogger(__name__)

BATCH = 50
MOST_AT_ONCE = 500
KEPT = timedelta(days=14)
LONGEST_TEXT = 64_000  # characters
LONGEST_NAME = 200


def take(*, now: datetime) -> int | None:
    """Move what waits into rows; how many, or None if another process is at it.

    An entry leaves the stream once its row is committed; one that was told twice makes one row.
    """
    with locks.only_one("deployments.shadows") as mine:
        if not mine:
            return None
        client = redis.Redis.from_url(settings.REDIS_URL, socket_timeout=10)
        try:
            taken = 0
            while taken < MOST_AT_ONCE:
                entries: Any = client.xrange(shadows.STREAM, count=BATCH)
                if not entries:
                    break
                _keep([fields for _, fields in entries])
                client.xdel(shadows.STREAM, *(entry_id for entry_id, _ in entries))
                taken += len(entries)
            return taken
        finally:
            client.close()


def forget_old(*, now: datetime) -> int:
    """Delete answers that have been kept for long enough; how many."""
    deleted, _ = ShadowAnswer.objects.filter(at__lt=now - KEPT).delete()
    return deleted


def _keep(entries: list[dict[bytes, bytes]]) -> None:
    rows = []
    for fields in entries:
        try:
            rows.append(_row(orjson.loads(fields[shadows.FIELD])))
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            logger.error("a comparison that cannot be read: %r", error)
    wanted = {row.organization_id for row in rows}
    known = set(Organization.objects.filter(pk__in=wanted).values_list("pk", flat=True))
    ShadowAnswer.objects.bulk_create(
        [row for row in rows if row.organization_id in known], ignore_conflicts=True
    )


def _row(entry: dict[str, Any]) -> ShadowAnswer:
    primary, candidate = entry["primary"], entry["candidate"]
    endpoint, is_streamed = str(entry["endpoint"]), bool(entry["is_streamed"])

    def text(side: dict[str, Any]) -> str:
        said = shadows.text_of(endpoint, side["body"], is_streamed=is_streamed)
        return _clean(said, LONGEST_TEXT)

    ours, theirs = text(primary), text(candidate)
    return ShadowAnswer(
        organization_id=UUID(entry["organization_id"]),
        request_id=_clean(entry["request_id"], 64),
        at=datetime.fromtimestamp(entry["at"], UTC),
        route_name=_clean(entry["route_name"], LONGEST_NAME),
        endpoint=_clean(endpoint, 40),
        request=_clean(entry["request"], LONGEST_TEXT),
        primary_name=_clean(entry["primary_name"], LONGEST_NAME),
        candidate_name=_clean(entry["candidate_name"], LONGEST_NAME),
        primary_text=ours,
        candidate_text=theirs,
        primary_status=int(primary["status"]),
        candidate_status=int(candidate["status"]),
        primary_tokens=int(primary["output_tokens"]),
        candidate_tokens=int(candidate["output_tokens"]),
        primary_first_token_milliseconds=primary["first_token_milliseconds"],
        candidate_first_token_milliseconds=candidate["first_token_milliseconds"],
        primary_milliseconds=primary["duration_milliseconds"],
        candidate_milliseconds=candidate["duration_milliseconds"],
        is_same=ours == theirs and primary["status"] == candidate["status"],
    )


def _clean(text: str, longest: int) -> str:
    return text.replace("\0", "").encode(errors="replace").decode()[:longest]
