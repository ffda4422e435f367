"""The OpenAI-compatible API as a plain ASGI application: no Django handler, no query on its way."""

import asyncio
import contextlib
import logging
import re
import ssl
import time
from collections.abc import Callable

from accounts import batch_tokens
from common.ids import new_id_text
from common.middleware import WELL_FORMED
from common.outside import OutsideHosts
from engines.protocol.errors import ApiError
from gateway import auth, errors
from gateway.answers import Message, Receive, Send, send_error, send_json
from gateway.bodies import HungUp, read_body
from gateway.directory import Directory, Key, Route
from gateway.holding import Holding, HoldSettings
from gateway.keeping import keep_up
from gateway.limits import Limiter, Limits, Wish
from gateway.metering import Meter
from gateway.observing import Observer
from gateway.protocol import CONTENT, Call, read_call
from gateway.proxy import Inbound, Services, Transfer
from gateway.responses import stored
from gateway.responses.reading import Item, read_ask
from gateway.responses.store import Kept, ResponseStore
from gateway.responses.writing import Writer
from gateway.routing import Router
from gateway.shadowing import Shadows
from gateway.signals import Signals
from gateway.upstream import OutsidePool, Pool
from gateway.watch import Watch, WatchSettings

logger = logging.getLogger(__name__)

MAX_BODY_BYTES = 32 << 20
COMPLETIONS = {f"/v1/{endpoint}": endpoint for endpoint in CONTENT}
RESPONSES = "/v1/responses"
BATCH = f"Bearer {batch_tokens.WORD}{batch_tokens.SEPARATOR}".encode()
MODEL = re.compile(r"^/v1/models/(.+)$")


class Gateway:
    """Answers everything under /v1/. `lifespan` starts and ends its background tasks; where the
    server knows no lifespan, the first request starts them."""

    def __init__(
        self,
        *,
        directory: Directory,
        meter: Meter,
        signals: Signals,
        limits: Limiter | None = None,
        observer: Observer | None = None,
        pool: Pool | None = None,
        outside: OutsideHosts | None = None,
        shadows_redis_url: str | None = None,
        hold: HoldSettings | None = None,
        watch: WatchSettings | None = None,
        wake: Callable[[str], None] | None = None,
        responses: ResponseStore | None = None,
        max_body_bytes: int = MAX_BODY_BYTES,
    ) -> None:
        self._responses = responses
        self._directory = directory
        self._limits: Limiter = limits or Limits()
        self._observer = observer or Observer()
        router = Router()
        self._holding = Holding(directory, router, wake=wake, settings=hold)
        signals.held = self._holding.counts
        pool = pool or Pool()
        self._watch = Watch(pool, router, directory, watch)
        signals.silent = self._watch.silent
        hosts = outside or OutsideHosts(())
        self._outside = {
            True: OutsidePool(hosts, tls=ssl.create_default_context()),
            False: OutsidePool(hosts),
        }
        self._shadows = Shadows(router, pool, shadows_redis_url)
        self._services = Services(
            router=router,
            pool=pool,
            meter=meter,
            signals=signals,
            holding=self._holding,
            observer=self._observer,
            shadows=self._shadows,
            outside=self._outside,
        )
        self._max_body_bytes = max_body_bytes
        self._tasks: list[asyncio.Task[None]] = []
        self._started: asyncio.Task[None] | None = None

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if self._started is None or not self._started.done():
            await self.start()
        authorization, given, length = None, b"", b""
        for name, value in scope["headers"]:
            if name == b"authorization":
                authorization = value
            elif name == b"content-length":
                length = value
            elif name == b"x-request-id":
                given = value
        usage_id = request_id = new_id_text()
        if given and WELL_FORMED.fullmatch(word := given.decode("latin-1")):
            request_id = word
        began, key = time.monotonic(), None
        try:
            key, line_id = await self._let_in(authorization, scope)
            path, method = scope["path"], scope["method"]
            endpoint = COMPLETIONS.get(path)
            if endpoint is not None and method == "POST":
                await self._complete(
                    endpoint,
                    key,
                    length,
                    receive,
                    send,
                    request_id=request_id,
                    usage_id=line_id or usage_id,
                    is_batch=line_id is not None,
                )
            elif path == RESPONSES and method == "POST":
                await self._respond(
                    key, length, receive, send, request_id=request_id, usage_id=usage_id
                )
            else:
                if path.startswith(f"{RESPONSES}/"):
                    query = scope.get("query_string", b"")
                    body = await stored.answer(
                        self._responses, key, method=method, path=path, query=query
                    )
                else:
                    body = self._look_up(method, path, key)
                await send_json(send, 200, body, request_id=request_id)
                self._told(scope, key, began, request_id, status=200)
        except ApiError as error:
            self._told(scope, key, began, request_id, status=error.status, code=error.code or "")
            await send_error(send, error, request_id=request_id)
        except HungUp:
            self._told(scope, key, began, request_id, status=499, code="client_left")

    async def metrics(self, scope: Message, _receive: Receive, send: Send) -> None:
        """Numbers of all gateway processes for Prometheus, against the configured token."""
        given = dict(scope["headers"]).get(b"authorization")
        if not self._observer.may_read(given):
            error = errors.unauthenticated(
                "Numbers are told against the token METRICS_TOKEN alone."
            )
            await send_error(send, error, request_id=new_id_text())
            return
        body = await self._observer.render()
        headers = [(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def lifespan(self, receive: Receive, send: Send) -> None:
        """ASGI's lifespan protocol."""
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self.start()
                await send({"type": "lifespan.startup.complete"})
            elif message["type"] == "lifespan.shutdown":
                await self.stop()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def start(self) -> None:
        """Load the directory and start the background tasks, once."""
        if self._started is None:
            self._started = asyncio.ensure_future(self._start())
        await asyncio.shield(self._started)

    async def stop(self) -> None:
        """End the background tasks; the meter first writes what it still has."""
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._tasks.clear()
        self._directory.close()
        self._holding.close()
        if self._responses is not None:
            await self._responses.close()

    async def _start(self) -> None:
        try:
            await self._directory.load()
        except Exception as error:
            logger.exception("starting without keys and routes: %s", error)
        loops = (
            self._directory.run,
            self._directory.listen,
            self._services.pool.run,
            self._outside[True].run,
            self._outside[False].run,
            self._shadows.run,
            self._services.meter.run,
            self._services.signals.run,
            self._watch.run,
            self._limits.run,
            self._observer.run,
        )
        self._tasks = [asyncio.ensure_future(keep_up(loop)) for loop in loops]

    async def _complete(
        self,
        endpoint: str,
        key: Key,
        length: bytes,
        receive: Receive,
        send: Send,
        *,
        request_id: str,
        usage_id: str,
        is_batch: bool,
    ) -> None:
        began = time.monotonic()
        body = await read_body(length, receive, limit_bytes=self._max_body_bytes)
        call = read_call(endpoint, body)
        await self._transfer(
            call,
            key,
            receive,
            send,
            began=began,
            request_id=request_id,
            usage_id=usage_id,
            is_batch=is_batch,
        )

    async def _respond(
        self,
        key: Key,
        length: bytes,
        receive: Receive,
        send: Send,
        *,
        request_id: str,
        usage_id: str,
    ) -> None:
        """A response: a chat completion for the engine, with the conversation before it."""
        began = time.monotonic()
        ask = read_ask(await read_body(length, receive, limit_bytes=self._max_body_bytes))
        earlier: list[Item] = []
        if ask.previous_id is not None:
            before = await stored.find(
                self._responses, key, ask.previous_id, param="previous_response_id"
            )
            earlier = [*before.earlier, *before.items, *before.response["output"]]

        async def keep(response: dict[str, object]) -> bool:
            if not ask.store or self._responses is None:
                return False
            kept = Kept(response, list(ask.items), earlier)
            return await self._responses.keep(key.organization_id, kept)

        call = read_call("chat/completions", ask.chat_body(earlier))
        writer = Writer(send, ask.asked, is_stream=ask.stream, keep=keep)
        await self._transfer(
            call, key, receive, writer, began=began, request_id=request_id, usage_id=usage_id
        )

    async def _transfer(
        self,
        call: Call,
        key: Key,
        receive: Receive,
        send: Send,
        *,
        began: float,
        request_id: str,
        usage_id: str,
        is_batch: bool = False,
    ) -> None:
        body = call.body
        route = self._route(key, call.model)
        ticket = await self._limits.enter(
            key,
            Wish(
                model_name=call.model,
                body_bytes=len(body),
                input_tokens=self._services.meter.estimate_input_tokens(
                    call.model, body_bytes=len(body)
                ),
                max_output_tokens=call.max_output_tokens,
                answers=call.answers,
            ),
        )
        inbound = Inbound(
            call=call,
            key=key,
            route=route,
            request_id=request_id,
            usage_id=usage_id,
            began=began,
            headers=ticket.headers,
            is_batch=is_batch,
        )
        transfer = Transfer(self._services, inbound, receive, send)
        try:
            await transfer.run()
        finally:
            self._limits.leave(
                ticket,
                is_counted=transfer.is_recorded,
                input_tokens=transfer.usage.input_tokens,
                cached_input_tokens=transfer.usage.cached_input_tokens,
                output_tokens=transfer.usage.output_tokens,
            )
        if not transfer.is_recorded:
            raise HungUp

    async def _let_in(self, authorization: bytes | None, scope: Message) -> tuple[Key, str | None]:
        """The key, and the usage id of a batch's line if control sends one. Raises ApiError."""
        if authorization is not None and authorization.startswith(BATCH):
            key, ticket = await auth.authenticate_line(authorization, directory=self._directory)
            return key, ticket.usage_id
        address = (scope.get("client") or ("",))[0]
        key = await auth.authenticate(authorization, directory=self._directory, address=address)
        return key, None

    def _told(
        self,
        scope: Message,
        key: Key | None,
        began: float,
        request_id: str,
        *,
        status: int,
        code: str = "",
    ) -> None:
        """A request that no engine answered, for those who run the place."""
        self._observer.refused(
            request_id=request_id,
            method=scope["method"],
            path=scope["path"],
            status=status,
            code=code,
            seconds=time.monotonic() - began,
            organization=key.organization_slug if key is not None else "",
            key_id=key.id if key is not None else None,
        )

    def _look_up(self, method: str, path: str, key: Key) -> dict[str, object]:
        found = MODEL.match(path)
        is_post = path in COMPLETIONS or path == RESPONSES
        if not is_post and path != "/v1/models" and not found:
            raise errors.no_route(method, path)
        if is_post or method != "GET":
            raise errors.wrong_method(method, path)
        if found:
            return _model_body(self._route(key, found[1]), key)
        routes = self._directory.list_routes(key.organization_id)
        visible = [_model_body(each, key) for each in routes if auth.may_use(key, each.name)]
        return {"object": "list", "data": visible}

    def _route(self, key: Key, name: str) -> Route:
        """Raises ApiError: 404 where the organization has no such model, 403 where the key may not."""
        route = self._directory.find_route(key.organization_id, name)
        if route is None:
            raise errors.no_such_model(name)
        auth.check_model(key, name)
        return route


def _model_body(route: Route, key: Key) -> dict[str, object]:
    return {
        "id": route.name,
        "object": "model",
        "created": route.created_at,
        "owned_by": key.organization_slug,
    }
