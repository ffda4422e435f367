"""What an engine tells Prometheus, under the names vLLM uses, so that one dashboard fits all."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from engines.backend import Backend, Delta, Generation
from engines.protocol.requests import Request

TIMES = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0,
)  # fmt: skip
AMOUNTS = (
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 200_000,
)  # fmt: skip


class Metrics:
    """One engine's metrics in a registry of their own."""

    def __init__(self, *, model: str, backend: Backend) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._model = model

        def gauge(name: str, text: str) -> Gauge:
            made = Gauge(name, text, ["model_name"], registry=self._registry)
            return made.labels(model)

        def counter(name: str, text: str) -> Counter:
            made = Counter(name, text, ["model_name"], registry=self._registry)
            return made.labels(model)

        def histogram(name: str, text: str, buckets: Sequence[float] = TIMES) -> Histogram:
            made = Histogram(name, text, ["model_name"], registry=self._registry, buckets=buckets)
            return made.labels(model)

        running = gauge("vllm:num_requests_running", "Sequences being decoded.")
        waiting = gauge("vllm:num_requests_waiting", "Sequences waiting for a slot or memory.")
        cache = gauge("vllm:kv_cache_usage_perc", "Part of the KV cache in use, 0 to 1.")
        running.set_function(lambda: backend.running)
        waiting.set_function(lambda: backend.waiting)
        cache.set_function(lambda: backend.cache_used)
        self._registry.register(_Counts(model, backend))
        self.prompt_tokens = counter("vllm:prompt_tokens", "Prompt tokens read.")
        self.generation_tokens = counter("vllm:generation_tokens", "Tokens generated.")
        self.first_token = histogram("vllm:time_to_first_token_seconds", "Until the first token.")
        self.between_tokens = histogram("vllm:inter_token_latency_seconds", "Between tokens.")
        self.whole = histogram("vllm:e2e_request_latency_seconds", "Until the whole answer.")
        self.queue = histogram("vllm:request_queue_time_seconds", "Waiting for a slot.")
        self.prefill = histogram("vllm:request_prefill_time_seconds", "Slot to first token.")
        self.decode = histogram("vllm:request_decode_time_seconds", "First token to last.")
        self.inference = histogram("vllm:request_inference_time_seconds", "Slot to last token.")
        self.per_token = histogram(
            "vllm:request_time_per_output_token_seconds", "Mean time between an answer's tokens."
        )
        self.prompt_length = histogram(
            "vllm:request_prompt_tokens", "Prompt tokens of a request.", AMOUNTS
        )
        self.answer_length = histogram(
            "vllm:request_generation_tokens", "Tokens of an answer.", AMOUNTS
        )
        self.choices = histogram("vllm:request_params_n", "Choices asked for.", (1, 2, 5, 10, 20))
        self.limit = histogram(
            "vllm:request_params_max_tokens", "Limit asked for, in tokens.", AMOUNTS
        )
        self._finished = Counter(
            "vllm:request_success",
            "Answers finished, by reason.",
            ["model_name", "finished_reason"],
            registry=self._registry,
        )
        self._refused = Counter(
            "engine:requests_refused",
            "Requests answered with an error, by HTTP status.",
            ["model_name", "status"],
            registry=self._registry,
        )

    def render(self) -> bytes:
        """Prometheus text."""
        return generate_latest(self._registry)

    def refused(self, status: int) -> None:
        self._refused.labels(self._model, str(status)).inc()

    def watch(self, generation: Generation, request: Request) -> "Watch":
        self.prompt_tokens.inc(generation.prompt_tokens)
        self.prompt_length.observe(generation.prompt_tokens)
        self.choices.observe(request.choices)
        if request.sampling.max_tokens is not None:
            self.limit.observe(request.sampling.max_tokens)
        return Watch(self)

    def embedded(self, *, prompt_tokens: int) -> None:
        """Counts a request that reads and writes nothing."""
        self.prompt_tokens.inc(prompt_tokens)
        self.prompt_length.observe(prompt_tokens)
        self.finished("stop")

    def finished(self, reason: str) -> None:
        self._finished.labels(self._model, reason).inc()


class _Counts(Collector):
    """What the backend counts by itself."""

    def __init__(self, model: str, backend: Backend) -> None:
        self._model = model
        self._backend = backend

    def collect(self) -> Iterator[CounterMetricFamily]:
        counts = self._backend.counts
        for name, text, value in (
            (
                "vllm:prefix_cache_queries",
                "Prompt tokens looked for in the cache.",
                counts.prefix_queries,
            ),
            ("vllm:prefix_cache_hits", "Prompt tokens found in the cache.", counts.prefix_hits),
            (
                "vllm:num_preemptions",
                "Answers that gave their memory back to wait.",
                counts.preemptions,
            ),
        ):
            family = CounterMetricFamily(name, text, labels=["model_name"])
            family.add_metric([self._model], value)
            yield family


class Watch:
    """Times one request. Choices of one request are answers of their own."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._begun_at = time.perf_counter()
        self._answers: dict[int, _Answer] = {}
        self.completion_tokens = 0

    def saw(self, deltas: Sequence[Delta]) -> None:
        now = time.perf_counter()
        tokens = 0
        for delta in deltas:
            if delta.tokens:
                tokens += delta.tokens
                self._saw_tokens(delta, now)
            if delta.finish_reason is not None:
                self._metrics.finished(delta.finish_reason)
                if answer := self._answers.get(delta.index):
                    answer.report(self._metrics)
        self.completion_tokens += tokens
        self._metrics.generation_tokens.inc(tokens)

    def done(self) -> None:
        self._metrics.whole.observe(time.perf_counter() - self._begun_at)

    def _saw_tokens(self, delta: Delta, now: float) -> None:
        answer = self._answers.get(delta.index)
        if answer is not None:
            self._metrics.between_tokens.observe((now - answer.last_at) / delta.tokens)
            answer.last_at = now
            answer.tokens += delta.tokens
            return
        if not self._answers:
            self._metrics.first_token.observe(now - self._begun_at)
        self._answers[delta.index] = _Answer(now, now, delta.tokens, delta.prompt_seconds)
        if delta.waited_seconds is not None:
            self._metrics.queue.observe(delta.waited_seconds)


@dataclass(slots=True)
class _Answer:
    first_at: float
    last_at: float
    tokens: int
    prompt_seconds: float | None

    def report(self, metrics: Metrics) -> None:
        decode_seconds = self.last_at - self.first_at
        metrics.answer_length.observe(self.tokens)
        metrics.decode.observe(decode_seconds)
        if self.tokens > 1:
            metrics.per_token.observe(decode_seconds / (self.tokens - 1))
        if self.prompt_seconds is not None:
            metrics.prefill.observe(self.prompt_seconds)
            metrics.inference.observe(self.prompt_seconds + decode_seconds)
