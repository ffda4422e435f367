"""What an engine tells Prometheus, under the names vLLM uses, so that one dashboard fits all."""

import time
from collections.abc import Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from engines.backend import Backend, Delta

TIMES = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0,
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

        def histogram(name: str, text: str) -> Histogram:
            made = Histogram(name, text, ["model_name"], registry=self._registry, buckets=TIMES)
            return made.labels(model)

        running = gauge("vllm:num_requests_running", "Sequences being decoded.")
        waiting = gauge("vllm:num_requests_waiting", "Sequences waiting for a slot.")
        cache = gauge("vllm:kv_cache_usage_perc", "Part of the KV cache in use, 0 to 1.")
        running.set_function(lambda: backend.running)
        waiting.set_function(lambda: backend.waiting)
        cache.set_function(lambda: backend.cache_used)
        self.prompt_tokens = counter("vllm:prompt_tokens", "Prompt tokens read.")
        self.generation_tokens = counter("vllm:generation_tokens", "Tokens generated.")
        self.first_token = histogram("vllm:time_to_first_token_seconds", "Until the first token.")
        self.between_tokens = histogram("vllm:inter_token_latency_seconds", "Between tokens.")
        self.whole = histogram("vllm:e2e_request_latency_seconds", "Until the whole answer.")
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

    def watch(self, *, prompt_tokens: int) -> "Watch":
        self.prompt_tokens.inc(prompt_tokens)
        return Watch(self)

    def finished(self, reason: str) -> None:
        self._finished.labels(self._model, reason).inc()


class Watch:
    """Times one answer."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._begun_at = time.perf_counter()
        self._last_at: dict[int, float] = {}  # by choice
        self.completion_tokens = 0

    def saw(self, deltas: Sequence[Delta]) -> None:
        now = time.perf_counter()
        metrics = self._metrics
        tokens = 0
        for delta in deltas:
            if delta.tokens:
                tokens += delta.tokens
                self._saw_tokens(delta, now)
            if delta.finish_reason is not None:
                metrics.finished(delta.finish_reason)
        self.completion_tokens += tokens
        metrics.generation_tokens.inc(tokens)

    def done(self) -> None:
        self._metrics.whole.observe(time.perf_counter() - self._begun_at)

    def _saw_tokens(self, delta: Delta, now: float) -> None:
        last = self._last_at.get(delta.index)
        if last is not None:
            self._metrics.between_tokens.observe((now - last) / delta.tokens)
        elif not self._last_at:
            self._metrics.first_token.observe(now - self._begun_at)
        self._last_at[delta.index] = now
