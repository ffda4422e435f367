"""What a client is told of limits: 429s, and the headers of every answer."""

import math
from collections.abc import Iterable

from accounts.limit_periods import MONEY_UNIT
from engines.protocol.errors import ApiError
from gateway import errors
from gateway.limits.counters import Counter

Headers = list[tuple[bytes, bytes]]
NOUNS = {"requests": "requests", "tokens": "tokens"}


def refused(counter: Counter, *, need: int, now: float) -> ApiError:
    """429: for rates with a short wait, for budgets with the time until they begin anew."""
    rule = counter.rule
    scope = "API key" if rule.key_id else "organization"
    model = f" for the model {rule.model_name!r}" if rule.model_name else ""
    if rule.measure == "concurrency":
        return errors.too_many(
            f"This {scope} may have {rule.amount} requests open at once{model}.",
            code="concurrency_limit_exceeded",
            retry_after_seconds=1,
            headers=headers([counter], now=now),
        )
    if rule.measure == "money":
        amount = f"{rule.amount * MONEY_UNIT:,.2f} {rule.currency}".strip()
        what = f"may spend {amount}"
    else:
        what = f"may use {rule.amount:,} {rule.measure}"
    wait = max(1, math.ceil(counter.end - now))
    if rule.period == "minute":
        return errors.too_many(
            f"This {scope} {what} a minute{model}. Try again in {wait} s.",
            code="rate_limit_exceeded",
            retry_after_seconds=wait,
            headers=headers([counter], now=now),
        )
    hint = ""
    if counter.room and need > counter.room:
        hint = ", which might use more than is left: set max_tokens lower"
    return errors.too_many(
        f"This {scope} {what} a {rule.period}{model}: its budget has no room for this request{hint}. "
        f"It begins anew in {_duration(wait)}.",
        code="insufficient_quota",
        retry_after_seconds=wait,
        headers=headers([counter], now=now),
    )


def away() -> ApiError:
    return errors.unavailable(
        "Limits cannot be checked at the moment. Try again.", code="limits_unavailable"
    )


def headers(counters: Iterable[Counter], *, now: float) -> Headers:
    """x-ratelimit-* of the narrowest limit on requests and on tokens, as OpenAI's API names them:
    of rates before budgets."""
    found: dict[str, tuple[tuple[bool, int], Counter]] = {}
    for counter in counters:
        noun = NOUNS.get(counter.rule.measure)
        if noun is not None:
            rank = (counter.rule.period != "minute", counter.room + counter.free)
            if noun not in found or rank < found[noun][0]:
                found[noun] = (rank, counter)
    pairs: Headers = []
    for noun, ((_, left), counter) in found.items():
        reset = _duration(max(0, math.ceil(counter.end - now)))
        for name, value in (
            ("limit", str(counter.rule.amount)),
            ("remaining", str(max(0, left))),
            ("reset", reset),
        ):
            pairs.append((f"x-ratelimit-{name}-{noun}".encode(), value.encode()))
    return pairs


def _duration(seconds: int) -> str:
    """As OpenAI's API writes it: 12s, 6m0s, 3h5m0s."""
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest}s"
    if hours or minutes:
        text = f"{minutes}m{text}"
    return f"{hours}h{text}" if hours else text
