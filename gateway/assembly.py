"""The gateway as the settings ask for it."""

import asyncio
import functools
import gc

from django.conf import settings

from common import jobs
from common.outside import OutsideHosts
from gateway.app import Gateway
from gateway.directory import Directory
from gateway.holding import HoldSettings
from gateway.limits import Limits, LimitSettings
from gateway.limits.ledger import DatabaseLedger
from gateway.limits.rules import Rule
from gateway.limits.shared import SharedLimits
from gateway.metering import Meter
from gateway.observing import Observer, open_lines
from gateway.responses.store import ResponseStore
from gateway.signals import Signals
from gateway.source import DatabaseSource

WAKE_EXPIRES_SECONDS = 30.0
COLLECT_EVERY = (20_000, 20, 50)  # objects, and collections of younger ones


def build() -> Gateway:
    """A gateway on this platform's database and Redis; Django must be set up."""
    directory = Directory(DatabaseSource(), redis_url=settings.REDIS_URL)
    limits = SharedLimits(
        DatabaseLedger(),
        redis_url=settings.REDIS_URL,
        inner=Limits(
            LimitSettings(
                requests_per_minute=settings.GATEWAY_REQUESTS_PER_MINUTE,
                concurrency=settings.GATEWAY_CONCURRENCY,
            )
        ),
        fails_open=settings.GATEWAY_LIMITS_FAIL_OPEN,
        warn=_warn,
    )
    directory.on_limits = limits.changed.set
    return Gateway(
        directory=directory,
        meter=Meter(settings.REDIS_URL),
        signals=Signals(settings.REDIS_URL),
        hold=HoldSettings(
            demand_seconds=settings.GATEWAY_HOLD_SECONDS,
            restart_seconds=settings.GATEWAY_RESTART_HOLD_SECONDS,
            most_held=settings.GATEWAY_MOST_HELD,
        ),
        wake=_wake,
        limits=limits,
        responses=ResponseStore(settings.REDIS_URL),
        outside=OutsideHosts.of(settings.PROVIDER_HOSTS),
        shadows_redis_url=settings.REDIS_URL,
        observer=Observer(
            settings.REDIS_URL,
            lines=open_lines(settings.GATEWAY_REQUEST_LINES),
            token=settings.METRICS_TOKEN,
        ),
    )


def settle() -> None:
    """Call once all is imported. The collector then leaves alone what was loaded: to look through
    it took up to 80 ms each time, in which every open stream stood still."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_EVERY)


def _wake(deployment_id: str) -> None:
    jobs.send("deployments.wake", expires_seconds=WAKE_EXPIRES_SECONDS, deployment_id=deployment_id)


def _warn(rule: Rule, period_start: float) -> None:
    # Nobody waits for the broker here: it may be away.
    asyncio.get_running_loop().run_in_executor(
        None,
        functools.partial(
            jobs.send,
            "accounts.warn_of_limit",
            limit_id=rule.id,
            percent=rule.warn_percent,
            period_start=period_start,
        ),
    )
