"""The limits of all organizations as a process knows them: what applies to a request, what it could
use at most, and what it used."""

import math
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field

TEMPLATE_TOKENS = 256  # at most, that a model's template adds to what the client sent
UNKNOWN_CONTEXT_TOKENS = 32_768


@dataclass(frozen=True, slots=True)
class Rule:
    """A limit. `measure`: requests, tokens, money or concurrency; `period`: minute, day, month, or
    empty; `amount` in whole units (limit_periods.MONEY_UNIT for money)."""

    id: str
    measure: str
    period: str
    amount: int
    organization_id: str = ""
    key_id: str | None = None
    model_name: str = ""
    warn_percent: int | None = None
    time_zone: str = "UTC"
    currency: str = ""

    @property
    def is_kept(self) -> bool:
        """Whether what was used is still known to the ledger, should Redis forget it."""
        return self.period in ("day", "month")


@dataclass(frozen=True, slots=True)
class Prices:
    """Of one model, in MONEY_UNITs for each token."""

    input: float = 0.0
    cached_input: float = 0.0
    output: float = 0.0


@dataclass(frozen=True, slots=True)
class Tariff:
    """A model's prices over time: `prices[n]` holds from `starts[n]`, seconds since 1970, on."""

    starts: tuple[float, ...] = (0.0,)
    prices: tuple[Prices, ...] = (Prices(),)

    def at(self, now: float) -> Prices:
        return self.prices[max(0, bisect_right(self.starts, now) - 1)]


@dataclass(frozen=True, slots=True)
class Demand:
    """What a request could use at most, and what it is expected to."""

    requests: int
    tokens: int  # at most
    expected_tokens: int
    money: int  # at most


@dataclass(slots=True)
class Rules:
    """Of one organization. `tariffs` and `context_tokens` by public model name."""

    rules: tuple[Rule, ...] = ()
    tariffs: Mapping[str, Tariff] = field(default_factory=dict)
    context_tokens: Mapping[str, int] = field(default_factory=dict)
    _found: dict[tuple[str, str], tuple[Rule, ...]] = field(default_factory=dict)

    def applying(self, key_id: str, model_name: str) -> tuple[Rule, ...]:
        """Those that a request of this key to this model must find room in."""
        found = self._found.get((key_id, model_name))
        if found is None:
            found = self._found[key_id, model_name] = tuple(
                rule
                for rule in self.rules
                if rule.key_id in (None, key_id) and rule.model_name in ("", model_name)
            )
        return found

    def demand(
        self,
        model_name: str,
        *,
        body_bytes: int,
        expected_input_tokens: int,
        max_output_tokens: int | None,
        answers: int,
        now: float,
    ) -> Demand:
        """A token of a byte-level vocabulary is a byte or more, so a body's bytes and what the
        template adds bound its tokens; with the answer they fit into the model's context."""
        context = self.context_tokens.get(model_name, UNKNOWN_CONTEXT_TOKENS)
        most_input = min(body_bytes + TEMPLATE_TOKENS, context * answers)
        rest = context * answers
        most_output = rest if max_output_tokens is None else min(max_output_tokens, rest)
        expected_output = rest if max_output_tokens is None else most_output
        prices = self._prices(model_name, now)
        dearest_input = max(prices.input, prices.cached_input)
        return Demand(
            requests=1,
            tokens=min(most_input + most_output, most_input + rest),
            expected_tokens=min(expected_input_tokens, most_input)
            + min(expected_output, max(context // 8, 1) * answers),
            money=math.ceil(most_input * dearest_input + most_output * prices.output),
        )

    def cost(
        self, model_name: str, *, input_tokens: int, cached: int, output_tokens: int, now: float
    ) -> int:
        """What an answer cost, in MONEY_UNITs, rounded up."""
        prices = self._prices(model_name, now)
        cached = min(cached, input_tokens)
        exact = (
            (input_tokens - cached) * prices.input
            + cached * prices.cached_input
            + output_tokens * prices.output
        )
        return math.ceil(exact - 1e-6)  # not for what a sum of floats is off by

    def _prices(self, model_name: str, now: float) -> Prices:
        tariff = self.tariffs.get(model_name)
        return tariff.at(now) if tariff is not None else Prices()
