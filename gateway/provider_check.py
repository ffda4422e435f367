"""Whether a provider answers, takes the key, and which models it says that it has."""

import asyncio
import ssl
from datetime import datetime
from uuid import UUID

import orjson
from django.conf import settings

from common import boxes
from common.outside import BaseUrl, OutsideHosts, read_base_url
from deployments.models import Provider
from gateway.upstream import OutsidePool, Timeouts, UpstreamError

SECONDS = 15.0
MOST_BYTES = 2 << 20
MOST_MODELS = 1000
LONGEST_PROBLEM = 300


class Unusable(Exception):
    """What is wrong, for people."""


def check_provider(provider_id: UUID, *, now: datetime) -> None:
    """Ask the provider for its models and write down what came of it. One that has no list of
    models is no problem; one that refuses the key, or is not there, is."""
    row = Provider.objects.filter(pk=provider_id).first()
    if row is None:
        return
    problem, names = "", []
    try:
        where, key = read_base_url(row.base_url), boxes.open_sealed(row.sealed_key)
        names = asyncio.run(_ask(where, key))
    except (Unusable, ValueError, boxes.CannotOpen) as error:
        problem = str(error)
    Provider.objects.filter(pk=provider_id, base_url=row.base_url).update(
        checked_at=now, problem=problem[:LONGEST_PROBLEM], model_names=names
    )


async def _ask(where: BaseUrl, key: str) -> list[str]:
    pool = OutsidePool(
        OutsideHosts.of(settings.PROVIDER_HOSTS),
        Timeouts(connect=5.0, first_byte=SECONDS, idle=SECONDS),
        tls=ssl.create_default_context() if where.is_tls else None,
    )
    exchange = pool.exchange((where.host, where.port))
    name = where.host if where.port in (80, 443) else f"{where.host}:{where.port}"
    request = (
        f"GET {where.path}/models HTTP/1.1\r\nhost: {name}\r\n"
        f"authorization: Bearer {key}\r\naccept: application/json\r\n\r\n"
    ).encode()
    body = b""
    try:
        async with asyncio.timeout(SECONDS):
            await exchange.start(request)
            while len(body) < MOST_BYTES and (data := await exchange.read()):
                body += data
        status = exchange.status
    except (UpstreamError, TimeoutError) as error:
        raise Unusable(f"{where.host} does not answer: {error or 'no answer in time'}") from error
    finally:
        exchange.finish()
        pool.close()
    if status in (401, 403):
        raise Unusable(f"{where.host} does not take the key (status {status}).")
    if status >= 500:
        raise Unusable(f"{where.host} answers with status {status}.")
    return _names(body) if status == 200 else []


def _names(body: bytes) -> list[str]:
    try:
        rows = orjson.loads(body)["data"]
        names = [row["id"] for row in rows if isinstance(row["id"], str)]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return []
    return sorted(name.replace("\0", "")[:200] for name in names)[:MOST_MODELS]
