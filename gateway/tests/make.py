"""A gateway behind a real server, engines that are real processes, and routes between them."""

import asyncio
import threading
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Self
from uuid import uuid4

import openai
import uvicorn
from django.conf import settings
from django.db import connections
from redis import Redis

from accounts.models import Organization
from common import notices
from common.outside import OutsideHosts
from deployments import notify
from engines.tests.make import RunningEngine, free_port
from gateway.app import Gateway
from gateway.directory import Directory, Replica, Route, Shadow, Target
from gateway.holding import HoldSettings
from gateway.limits import Limiter, Limits, LimitSettings
from gateway.metering import Meter
from gateway.observing import Observer
from gateway.responses.store import ResponseStore
from gateway.signals import Signals
from gateway.source import DatabaseSource
from gateway.upstream import Pool, Timeouts
from gateway.watch import WatchSettings
from usage import stream


class Routes(DatabaseSource):
    """Keys from the database; routes as the test says them."""

    def __init__(self) -> None:
        self.routes: list[Route] = []
        self.is_away = False

    def load_routes(self) -> list[Route]:
        if self.is_away:
            raise ConnectionError("the database is away")
        return self.routes

    def load_keys(self, prefixes):
        if self.is_away:
            raise ConnectionError("the database is away")
        try:
            return super().load_keys(prefixes)
        finally:
            connections.close_all()

    def load_recent_keys(self, limit):
        try:
            return super().load_recent_keys(limit)
        finally:
            connections.close_all()


def make_replica(engine: RunningEngine | None = None, **fields) -> Replica:
    """Of a running engine; without one, of a port on which nobody listens."""
    port = engine.spec.port if engine else free_port()
    token = engine.spec.token if engine else "t"
    values: dict[str, Any] = {"id": str(uuid4()), "host": "127.0.0.1", "port": port, "token": token}
    return Replica(**values | fields)


def make_target(*replicas: Replica, name: str = "tiny", weight: int = 100, **fields) -> Target:
    values: dict[str, Any] = {
        "deployment_id": str(uuid4()),
        "deployment_name": name,
        "revision_id": str(uuid4()),
        "served_model_name": name,
        "weight": weight,
        "replicas": replicas,
    }
    return Target(**values | fields)


def make_route(organization_id: str, *targets: Target, name: str = "tiny") -> Route:
    return Route(
        name=name, organization_id=organization_id, created_at=1_700_000_000, targets=targets
    )


class RunningGateway:
    """The gateway on a port of its own, in a thread of its own."""

    def __init__(
        self,
        *,
        limits: LimitSettings | None = None,
        limiter: Limiter | None = None,
        observer: Observer | None = None,
        timeouts: Timeouts | None = None,
        hold: HoldSettings | None = None,
        watch: WatchSettings | None = None,
        outside: str = "",
    ) -> None:
        self.woken: list[str] = []  # deployments that control was told to wake
        self.source = Routes()
        self.directory = Directory(self.source, redis_url=settings.REDIS_URL)
        self.meter = Meter(settings.REDIS_URL)
        self.gateway = Gateway(
            directory=self.directory,
            meter=self.meter,
            signals=Signals(settings.REDIS_URL),
            limits=limiter or Limits(limits),
            observer=observer,
            pool=Pool(timeouts),
            hold=hold,
            watch=watch,
            responses=ResponseStore(settings.REDIS_URL),
            wake=self.woken.append,
            outside=OutsideHosts.of(outside),
            shadows_redis_url=settings.REDIS_URL,
        )
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(
            self._application,
            interface="asgi3",
            port=self.port,
            log_config=None,
            timeout_graceful_shutdown=5,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def route(
        self,
        organization: Organization,
        *targets: Target,
        name: str = "tiny",
        shadow: Shadow | None = None,
    ) -> None:
        routes = [each for each in self.source.routes if each.name != name]
        route = make_route(str(organization.pk), *targets, name=name)
        self.source.routes = [*routes, replace(route, shadow=shadow)]
        notices.publish(notify.ROUTES)

    def start(self) -> Self:
        self._thread.start()
        deadline = time.monotonic() + 10
        while not self._server.started:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise AssertionError("the gateway does not start")
            time.sleep(0.01)
        return self

    def held(self) -> int:
        """How many requests wait for a replica."""
        return sum(self.gateway._holding.counts().values())

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(15)
        if self._thread.is_alive():
            raise AssertionError("the gateway does not stop")

    def client(self, secret: str, **options) -> openai.OpenAI:
        options = {"max_retries": 0, "timeout": 30} | options
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=secret, **options)

    def _run(self) -> None:
        asyncio.run(self._server.serve())

    async def _application(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await self.gateway.lifespan(receive, send)
        elif scope["path"] == "/metrics":
            await self.gateway.metrics(scope, receive, send)
        else:
            await self.gateway(scope, receive, send)


def read_events(*, count: int, seconds: float = 5) -> list[dict]:
    """The usage events in Redis once there are `count`; a moment later, that there are no more."""
    client = Redis.from_url(settings.REDIS_URL)
    deadline = time.monotonic() + seconds
    while len(_events(client)) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.05)
    events = _events(client)
    client.close()
    assert len(events) == count, events
    return events


def _events(client: Redis) -> list[dict]:
    entries: Any = client.xrange(stream.EVENTS)
    return [stream.values_of(each) for _, fields in entries for each in stream.decode(fields)]


def text_of(chunks: Iterable) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
