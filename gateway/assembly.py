"""The gateway as the settings ask for it."""

from django.conf import settings

from gateway.app import Gateway
from gateway.directory import Directory
from gateway.limits import Limits, LimitSettings
from gateway.metering import Meter
from gateway.signals import Signals
from gateway.source import DatabaseSource


def build() -> Gateway:
    """A gateway on this platform's database and Redis; Django must be set up."""
    return Gateway(
        directory=Directory(DatabaseSource(), redis_url=settings.REDIS_URL),
        meter=Meter(settings.REDIS_URL),
        signals=Signals(settings.REDIS_URL),
        limits=Limits(
            LimitSettings(
                requests_per_minute=settings.GATEWAY_REQUESTS_PER_MINUTE,
                concurrency=settings.GATEWAY_CONCURRENCY,
            )
        ),
    )
