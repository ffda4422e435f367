"""One request from a client to an engine and its answer back, whatever happens on the way."""

import logging
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from engines.protocol.errors import ApiError
from gateway import errors, upstream
from gateway.answers import Headers, Receive, Send
from gateway.counting import StreamedAnswer, Usage, WholeAnswer
from gateway.directory import Key, Replica, Route
from gateway.driving import Driven, drive
from gateway.engine_errors import read_error
from gateway.holding import Held, Holding, may_wait
from gateway.metering import Meter
from gateway.observing import Observer
from gateway.protocol import Call
from gateway.routing import COOL_DOWN_SECONDS, Choice, Router
from gateway.shadowing import Comparison, Shadows
from gateway.signals import Flight, Signals
from usage.stream import Event

logger = logging.getLogger(__name__)

ATTEMPTS = 3  # replicas of one rank that a request is tried on
# What an engine's answer says to the client; the rest is between engine and gateway.
PASSED = {b"content-type", b"content-length", b"cache-control", b"retry-after"}
TO_RETRY = {500, 502, 503, 504}
LEAVING = {"draining", "loading", "stalled"}  # codes of engines that answer, and will not
OUR_FAULT = {401, 403, 404, 405}  # what the gateway asked for, not what the client did
# Of a provider besides: no money left there, or more requests than it takes from us.
OUTSIDE_FAULT = OUR_FAULT | {402, 429}


@dataclass(slots=True)
class Services:
    """What all requests of a process share."""

    router: Router
    pool: upstream.Pool
    meter: Meter
    signals: Signals
    holding: Holding
    observer: Observer
    shadows: Shadows
    outside: Mapping[bool, upstream.Pool]  # to providers, with TLS and without

    def pool_of(self, replica: Replica) -> upstream.Pool:
        return self.outside[replica.is_tls] if replica.is_outside else self.pool


@dataclass(slots=True)
class Inbound:
    """A request that was let in. `request_id` is the client's word for it, `usage_id` is ours:
    a client that says the same id twice is still counted twice. `headers` go out with its answer."""

    call: Call
    key: Key
    route: Route
    request_id: str
    usage_id: str
    began: float  # time.monotonic
    headers: Headers
    is_batch: bool = False


class _Retry(Exception):
    """This replica did not answer and another may; `error` is for the client if none does.
    `is_gone`: it is not there any more, so that waiting for another may help."""

    def __init__(self, error: ApiError, *, is_gone: bool) -> None:
        super().__init__(error.message)
        self.error = error
        self.is_gone = is_gone


class Transfer:
    """One inbound request. `run` answers it, or raises ApiError before anything was sent; however
    it ends, `usage` is then what it used."""

    def __init__(self, services: Services, inbound: Inbound, receive: Receive, send: Send) -> None:
        self._services = services
        self._inbound = inbound
        self._receive = receive
        self._send = send
        self.usage = Usage(0, 0)
        self.is_recorded = False  # whether there is a usage event of it
        self._exchange: upstream.Exchange | None = None
        self._listener: Driven | None = None
        self._answer: StreamedAnswer | WholeAnswer | None = None
        self._hung_up = False
        self._held: Held | None = None
        self._first_byte: float | None = None
        self._comparison: Comparison | None = None

    async def run(self) -> None:
        listening = _until_hung_up(self._receive)
        self._listener = drive(listening, self._client_left)
        if self._listener is None:  # it has left already
            self._hung_up = True
        if self._inbound.route.shadow is not None:
            self._comparison = self._services.shadows.begin(self._inbound)
        try:
            await self._try_replicas()
        finally:
            self._stop_listening()
            if self._comparison is not None:
                self._comparison.leave()

    def _client_left(self, _result: None, error: BaseException | None) -> None:
        """Let the engine know at once."""
        if error is not None:
            logger.error(
                "request %s: nothing to hear of its client: %r", self._inbound.usage_id, error
            )
        self._hung_up = True
        if self._exchange is not None:
            self._exchange.abort()
        if self._held is not None:
            self._held.release()

    def _stop_listening(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _try_replicas(self) -> None:
        route, tried = self._inbound.route, set[str]()
        attempts, min_rank = Counter[int](), 0
        failure: _Retry | None = None
        affinity = self._inbound.call.affinity
        while not self._hung_up:
            choice = self._services.router.choose(
                route, tried=tried, affinity=affinity, min_rank=min_rank
            )
            if choice is None:
                route = await self._wait(route, tried, failure)
                attempts.clear()
                min_rank = 0
                continue
            rank = choice.target.rank
            if attempts[rank] >= ATTEMPTS:
                min_rank = rank + 1
                continue
            if rank:
                self._services.holding.wake_for(route, below_rank=rank)
            attempts[rank] += 1
            tried.add(choice.replica.id)
            try:
                await self._try_one(choice)
            except _Retry as retry:
                logger.warning(
                    "request %s: replica %s: %s", self._inbound.usage_id, choice.replica.id, retry
                )
                failure = retry
            else:
                return

    async def _wait(self, route: Route, tried: set[str], failure: _Retry | None) -> Route:
        """Be held until there is a replica to try; raises ApiError where that is of no use.

        One that failed may be there still, and answer: it is tried again after a moment.
        """
        target = may_wait(route) if failure is None or failure.is_gone else None
        if target is None and failure is not None:
            raise failure.error
        if target is None:
            reasons = [each.message for each in route.targets]
            raise errors.not_ready(self._inbound.call.model, reasons=reasons)
        if self._held is None:
            self._held = Held(self._inbound.key, route.name)
        self._held.tried = set(tried)
        moment = COOL_DOWN_SECONDS if failure is not None else None
        began = time.monotonic()
        route = await self._services.holding.wait(self._held, target, at_most_seconds=moment)
        if moment is not None and time.monotonic() - began > moment * 0.9:
            tried.clear()
        return route

    async def _try_one(self, choice: Choice) -> None:
        router, replica = self._services.router, choice.replica
        address = (replica.host, replica.port)
        self._exchange = exchange = self._services.pool_of(replica).exchange(address)
        is_trial = router.opened(replica.id)
        flight = self._services.signals.open(replica.id, is_streamed=self._inbound.call.stream)
        try:
            request = upstream.build_request(
                path=f"{replica.base_path}/{self._inbound.call.endpoint}",
                host=address,
                token=replica.token,
                request_id=self._inbound.usage_id,
                body=self._inbound.call.body_for(choice.target.served_model_name),
            )
            try:
                await exchange.start(request)
                first = await exchange.read()
            except upstream.Aborted:
                self._record(choice, WholeAnswer(), flight, status=499, is_interrupted=True)
                return
            except upstream.UpstreamError as error:
                router.failed(replica.id)
                flight.fail(error)
                raise _what_to_say(error) from error
            await self._judge(choice, exchange, first, flight)
        finally:
            exchange.finish()
            router.closed(replica.id, is_trial=is_trial)
            self._services.signals.close(flight)

    async def _judge(
        self, choice: Choice, exchange: upstream.Exchange, first: bytes, flight: Flight
    ) -> None:
        status = exchange.status
        flight.has_failed = status >= 500 or status in OUR_FAULT
        if choice.replica.is_outside and status in OUTSIDE_FAULT:
            raise _refused_outside(choice, status, first)
        if status in TO_RETRY:
            error = await read_error(exchange, first)
            if error.status != 503:  # it broke; one that is busy or leaving did not
                self._services.router.errored(self._inbound.route, choice)
            raise _Retry(error, is_gone=error.code in LEAVING)
        if status in OUR_FAULT:
            logger.error("replica %s answered %s: %r", choice.replica.id, status, first[:200])
            raise errors.bad_answer("The engine does not take requests from the gateway.")
        self._services.router.answered(choice.replica.id)
        await self._relay(choice, exchange, first, flight)

    async def _relay(
        self, choice: Choice, exchange: upstream.Exchange, first: bytes, flight: Flight
    ) -> None:
        call, status = self._inbound.call, exchange.status
        headers: Headers = [pair for pair in exchange.headers if pair[0] in PASSED]
        headers.append((b"x-request-id", self._inbound.request_id.encode()))
        headers += self._inbound.headers
        if choice.target.revision_id is not None:  # evaluations tell by it what they compared
            headers.append((b"x-revision-id", str(choice.target.revision_id).encode()))
        is_stream = call.stream and status == 200
        answer: StreamedAnswer | WholeAnswer = WholeAnswer()
        if is_stream:
            answer = StreamedAnswer(strips_usage=not call.wants_usage)
            flight.answer = answer
        if self._held is not None:
            wait = round(self._held.waited_seconds * 1000)
            headers.append((b"x-queue-wait-ms", b"%d" % wait))
        self._answer = answer
        self._first_byte = flight.first_byte = time.monotonic()
        is_whole = False
        try:
            await self._send({"type": "http.response.start", "status": status, "headers": headers})
            if exchange.is_complete:
                rest = answer.take(first)  # small and not streamed: it came in one piece
                if self._comparison is not None:
                    self._comparison.take(rest)
            else:
                await self._pass(first)
                await exchange.pass_on(self._pass)
                rest = b""
            is_whole = True
        except upstream.Aborted:
            return
        except upstream.UpstreamError as error:
            logger.warning("request %s broke off: %s", self._inbound.usage_id, error)
            self._services.router.errored(self._inbound.route, choice)
            flight.fail(error)
            await self._break_off(answer, is_stream=is_stream)
            return
        finally:
            self._record(choice, answer, flight, status=status, is_interrupted=not is_whole)
        self._stop_listening()
        await self._send({"type": "http.response.body", "body": rest + answer.rest()})

    async def _pass(self, data: bytes) -> None:
        """One piece of the answer to the client; waits while the client does not take it."""
        passed = self._answer.take(data) if self._answer is not None else data
        if passed:
            if self._comparison is not None:
                self._comparison.take(passed)
            await self._send({"type": "http.response.body", "body": passed, "more_body": True})

    async def _break_off(self, answer: StreamedAnswer | WholeAnswer, *, is_stream: bool) -> None:
        """Say what happened where a stream can; the answer is then left without its end."""
        if is_stream:
            answer.rest()
            error = errors.bad_answer("The engine broke off while it answered.")
            body = b"data: " + orjson.dumps(error.body()) + b"\n\n"
            await self._send({"type": "http.response.body", "body": body, "more_body": True})

    def _record(
        self,
        choice: Choice,
        answer: StreamedAnswer | WholeAnswer,
        flight: Flight,
        *,
        status: int,
        is_interrupted: bool,
    ) -> None:
        inbound, meter = self._inbound, self._services.meter
        if inbound.is_batch and is_interrupted:
            return  # nobody got it: the line is sent again, and then it counts, under the same id
        usage = answer.usage() if not is_interrupted or inbound.call.stream else None
        input_tokens, output_tokens, cached = 0, 0, 0
        if usage is not None:
            input_tokens, output_tokens = usage.input_tokens, usage.output_tokens
            cached, is_interrupted = usage.cached_input_tokens, False
            meter.learn(
                inbound.call.model, body_bytes=len(inbound.call.body), input_tokens=input_tokens
            )
        elif status in (200, 499):  # broken off, by the client or within the engine
            is_interrupted = True
            output_tokens = max(0, answer.tokens_passed)
            input_tokens = meter.estimate_input_tokens(
                inbound.call.model, body_bytes=len(inbound.call.body)
            )
        flight.input_tokens, flight.output_tokens = input_tokens, output_tokens
        self.usage = Usage(input_tokens, output_tokens, cached)
        self.is_recorded = True
        now = time.monotonic()
        first = self._first_byte
        event: Event = {
            "request_id": inbound.usage_id,
            "at": time.time(),
            "organization_id": inbound.key.organization_id,
            "key_id": inbound.key.id,
            "key_name": inbound.key.name,
            "model_name": inbound.call.model,
            "deployment_id": None if choice.replica.is_outside else choice.target.deployment_id,
            "deployment_name": choice.target.deployment_name,
            "replica_id": None if choice.replica.is_outside else choice.replica.id,
            "revision_id": choice.target.revision_id,
            "endpoint": inbound.call.endpoint,
            "input_tokens": input_tokens,
            "cached_input_tokens": cached,
            "output_tokens": output_tokens,
            "status_code": status,
            "is_interrupted": is_interrupted,
            "is_streamed": inbound.call.stream,
            "first_token_milliseconds": (first - inbound.began) * 1000 if first else None,
            "duration_milliseconds": (now - inbound.began) * 1000,
        }
        if inbound.is_batch:
            event["is_batch"] = True
        if choice.replica.is_outside:
            event["provider_name"] = choice.target.provider_name
        if self._comparison is not None:
            self._comparison.ended(event)
        meter.record(event)
        self._services.observer.answered(
            event,
            request_id=inbound.request_id,
            organization=inbound.key.organization_slug,
            held_seconds=self._held.waited_seconds if self._held is not None else None,
        )


async def _until_hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _what_to_say(error: upstream.UpstreamError) -> Exception:
    """Nothing has come, so another replica may be asked: the first one's work, if any, is lost. One
    that lives and is only too slow has had all the time that there is: another would be as slow.
    """
    if isinstance(error, upstream.CannotConnect):
        error_away = errors.unavailable("The engine cannot be reached.", code="engine_away")
        return _Retry(error_away, is_gone=True)
    if isinstance(error, upstream.Hung):
        message = "The engine does not answer."
        return _Retry(errors.unavailable(message, code="engine_hung"), is_gone=True)
    if isinstance(error, upstream.TimedOut):
        return errors.timed_out("The engine did not answer in time.")
    return _Retry(errors.bad_answer("The engine ended before it answered."), is_gone=True)


def _refused_outside(choice: Choice, status: int, said: bytes) -> _Retry:
    """A provider will not have us: our key, our name of its model, our money or our pace."""
    name = choice.target.provider_name
    if status == 429:
        error = errors.unavailable(f"The provider {name} is busy.", code="provider_busy")
    else:
        logger.error("provider %s answered %s: %r", name, status, said[:200])
        error = errors.bad_answer(f"The provider {name} does not take requests from the gateway.")
    return _Retry(error, is_gone=False)
