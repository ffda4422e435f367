"""A small HTTP/1.1 client for engines: pooled connections, each with one request at a time.

Bytes go through as they come. Reading stops while a client is slow to take what it asked for; a
request that is given up closes its connection, which is how an engine learns that it may stop.
"""

from gateway.upstream.errors import (
    Aborted,
    CannotConnect,
    ConnectionLost,
    Hung,
    TimedOut,
    UpstreamError,
)
from gateway.upstream.outside import OutsidePool
from gateway.upstream.pool import Exchange, Pool
from gateway.upstream.request import build_request
from gateway.upstream.settings import Address, Timeouts

__all__ = [
    "Aborted",
    "Address",
    "CannotConnect",
    "ConnectionLost",
    "Exchange",
    "Hung",
    "OutsidePool",
    "Pool",
    "TimedOut",
    "Timeouts",
    "UpstreamError",
    "build_request",
]
