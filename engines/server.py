"""The HTTP face of an engine: OpenAI's two completion routes, models, health and metrics.

Plain ASGI. Knows nothing of torch: it reads requests, asks a backend, and shapes what comes back.
"""

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

import orjson

from engines import adapter_routes
from engines.backend import Backend, Generation, HungUp, Status
from engines.host import ServeSpec
from engines.metrics import Metrics
from engines.protocol.embeddings import embedding_body, read_embedding
from engines.protocol.errors import ApiError, failed, no_such_model, unavailable, unsupported
from engines.protocol.requests import Request, read_chat, read_completion
from engines.protocol.responses import Shape, model_body
from engines.telling import Teller

JSON = b"application/json"
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MODEL_ROOT = "/v1/models/"
MAX_BODY_BYTES = 32 << 20
LOADING_RETRY_SECONDS = 2
DRAINING_RETRY_SECONDS = 1
STALLED_RETRY_SECONDS = 10

logger = logging.getLogger(__name__)


class EngineServer:
    """An ASGI application around one backend. `open` counts requests being answered."""

    def __init__(self, *, spec: ServeSpec, backend: Backend) -> None:
        self._spec = spec
        self._backend = backend
        self._metrics = Metrics(model=spec.served_model_name, backend=backend)
        self._created = int(time.time())
        self._authorization = f"Bearer {spec.token}".encode()
        self._generations: set[Generation] = set()
        self._routes: dict[tuple[str, str], Callable[[Receive, Send], Awaitable[None]]] = {
            ("GET", "/v1/models"): self._models,
            ("GET", "/metrics"): self._metrics_page,
            ("POST", "/v1/chat/completions"): self._chat,
            ("POST", "/v1/completions"): self._completion,
            ("POST", "/v1/embeddings"): self._embeddings,
            ("POST", adapter_routes.LOAD): self._load_adapter,
            ("POST", adapter_routes.UNLOAD): self._unload_adapter,
        }
        self.open = 0
        self.draining = False

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served")
        self.open += 1
        try:
            await self._respond(scope, receive, send)
        except ApiError as error:
            self._metrics.refused(error.status)
            await _send_error(send, error)
        except HungUp:
            logger.debug("client hung up")
        except Exception:
            logger.exception("request failed")
            self._metrics.refused(500)
            await _send_error(send, failed("The engine failed on this request."))
        finally:
            self.open -= 1

    def abandon(self) -> None:
        """Cancels every open answer: the deadline of a drain has passed."""
        error = unavailable("The engine is shutting down.", code="draining", retry_after_seconds=1)
        for generation in list(self._generations):
            generation.fail(error)

    async def _respond(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["path"] == "/health":
            await self._health(send)
            return
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not hmac.compare_digest(given, self._authorization):
            raise ApiError(401, "The bearer token is missing or wrong.", code="invalid_api_key")
        method, path = scope["method"], scope["path"]
        if (route := self._routes.get((method, path))) is not None:
            await route(receive, send)
        elif path.startswith(MODEL_ROOT) and method == "GET":
            await self._model(send, path.removeprefix(MODEL_ROOT))
        else:
            raise self._no_route(method, path)

    def _no_route(self, method: str, path: str) -> ApiError:
        if any(known == path for _, known in self._routes):
            return ApiError(405, f"{path} does not take {method}.", code="method_not_allowed")
        return ApiError(404, f"There is no {method} {path} here.", code="not_found")

    async def _health(self, send: Send) -> None:
        status = "draining" if self.draining else str(self._backend.status)
        await _send_json(send, 200 if status == Status.READY else 503, {"status": status})

    async def _models(self, receive: Receive, send: Send) -> None:
        await _send_json(send, 200, {"object": "list", "data": self._model_bodies()})

    async def _model(self, send: Send, name: str) -> None:
        for body in self._model_bodies():
            if body["id"] == name:
                return await _send_json(send, 200, body)
        raise no_such_model(name)

    def _model_bodies(self) -> list[dict[str, Any]]:
        limit = self._backend.max_context_tokens
        roots = self._backend.adapters.roots
        return [
            model_body(
                name,
                created=self._created,
                max_context_tokens=limit,
                root=roots.get(name, name),
                parent=parent,
            )
            for name, parent in self._backend.models.items()
        ]

    async def _load_adapter(self, receive: Receive, send: Send) -> None:
        await self._administer(receive, send, adapter_routes.load)

    async def _unload_adapter(self, receive: Receive, send: Send) -> None:
        await self._administer(receive, send, adapter_routes.unload)

    async def _administer(self, receive: Receive, send: Send, act: adapter_routes.Action) -> None:
        self._require_ready()
        said = await act(self._backend.adapters, await _read_json(receive))
        await _send_whole(send, 200, said.encode(), content_type=b"text/plain; charset=utf-8")

    async def _metrics_page(self, receive: Receive, send: Send) -> None:
        kind = b"text/plain; version=0.0.4; charset=utf-8"
        await _send_whole(send, 200, self._metrics.render(), content_type=kind)

    async def _chat(self, receive: Receive, send: Send) -> None:
        await self._complete(receive, send, read_chat)

    async def _completion(self, receive: Receive, send: Send) -> None:
        await self._complete(receive, send, read_completion)

    async def _complete(self, receive: Receive, send: Send, read: Callable[..., Request]) -> None:
        self._require_ready()
        request = read(
            await _read_json(receive),
            models=self._backend.models,
            defaults=self._backend.sampling_defaults,
        )
        dialect = self._backend.dialect
        if request.tools and dialect.tools == "none":
            raise unsupported("tools", "This model cannot call tools.")
        generation = await self._backend.generate(request)
        watch = self._metrics.watch(generation, request)
        shape = Shape(
            is_chat=request.is_chat,
            model=request.model,
            fingerprint=self._backend.fingerprint,
            with_logprobs=request.sampling.logprobs is not None,
        )
        async with self._heard(receive, generation):
            teller = Teller(request, generation, dialect=dialect, shape=shape, watch=watch)
            if request.stream:
                await _stream(send, teller)
            else:
                await _send_json(send, 200, await teller.whole())
            watch.done()

    async def _embeddings(self, receive: Receive, send: Send) -> None:
        self._require_ready()
        request = read_embedding(await _read_json(receive), models=self._backend.models)
        generation = await self._backend.embed(request)
        vectors = [b""] * generation.choices
        async with self._heard(receive, generation):
            async for deltas in generation.batches():
                for delta in deltas:
                    vectors[delta.index] = delta.vector
            body = embedding_body(request, vectors, prompt_tokens=generation.prompt_tokens)
            self._metrics.embedded(prompt_tokens=generation.prompt_tokens)
            await _send_json(send, 200, body)

    @contextlib.asynccontextmanager
    async def _heard(self, receive: Receive, generation: Generation) -> AsyncIterator[None]:
        """While somebody waits for it, and no longer."""
        listener = asyncio.create_task(_cancel_on_hang_up(receive, generation))
        self._generations.add(generation)
        try:
            yield
        finally:
            self._generations.discard(generation)
            listener.cancel()
            generation.cancel()

    def _require_ready(self) -> None:
        if self.draining:
            raise unavailable(
                "The engine is shutting down.",
                code="draining",
                retry_after_seconds=DRAINING_RETRY_SECONDS,
            )
        status = self._backend.status
        if status is Status.LOADING:
            raise unavailable(
                "The model is still loading.",
                code="loading",
                retry_after_seconds=LOADING_RETRY_SECONDS,
            )
        if status is Status.STALLED:
            raise unavailable(
                "The engine does not answer.",
                code="stalled",
                retry_after_seconds=STALLED_RETRY_SECONDS,
            )


async def _stream(send: Send, teller: Teller) -> None:
    """Headers go out with the first tokens, so that a request refused before them gets a status."""
    begun = False
    try:
        async for chunks in teller.chunks():
            if not begun:
                begun = True
                await _send_head(send, 200, content_type=b"text/event-stream; charset=utf-8")
            if chunks:
                body = b"".join(b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks)
                await send({"type": "http.response.body", "body": body, "more_body": True})
    except ApiError as error:
        if not begun:
            raise
        body = b"data: " + orjson.dumps(error.body()) + b"\n\n"
        await send({"type": "http.response.body", "body": body})
        return
    last = b"data: [DONE]\n\n"
    if (usage := teller.usage_chunk()) is not None:
        last = b"data: " + orjson.dumps(usage) + b"\n\n" + last
    await send({"type": "http.response.body", "body": last})


async def _cancel_on_hang_up(receive: Receive, generation: Generation) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    generation.cancel()


async def _read_json(receive: Receive) -> Any:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise HungUp
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY_BYTES:
            limit = f"The body must be at most {MAX_BODY_BYTES} bytes."
            raise ApiError(413, limit, code="request_too_large")
        if not message.get("more_body"):
            break
    try:
        return orjson.loads(b"".join(parts))
    except orjson.JSONDecodeError as error:
        raise ApiError(400, f"The body is not JSON: {error}.", code="invalid_json") from None


async def _send_json(send: Send, status: int, body: dict[str, Any]) -> None:
    await _send_whole(send, status, orjson.dumps(body), content_type=JSON)


async def _send_error(send: Send, error: ApiError) -> None:
    extra = []
    if error.retry_after_seconds is not None:
        extra.append((b"retry-after", str(error.retry_after_seconds).encode()))
    if error.status == 401:
        extra.append((b"www-authenticate", b"Bearer"))
    body = orjson.dumps(error.body())
    await _send_whole(send, error.status, body, content_type=JSON, extra=extra)


async def _send_whole(
    send: Send,
    status: int,
    body: bytes,
    *,
    content_type: bytes,
    extra: list[tuple[bytes, bytes]] | None = None,
) -> None:
    length = (b"content-length", str(len(body)).encode())
    await _send_head(send, status, content_type=content_type, extra=[length, *(extra or [])])
    await send({"type": "http.response.body", "body": body})


async def _send_head(
    send: Send,
    status: int,
    *,
    content_type: bytes,
    extra: list[tuple[bytes, bytes]] | None = None,
) -> None:
    headers = [(b"content-type", content_type), (b"cache-control", b"no-store"), *(extra or [])]
    await send({"type": "http.response.start", "status": status, "headers": headers})
