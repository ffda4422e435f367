"""What readers make of what gateways counted."""

import pytest

from deployments import signals
from deployments.signals import FIRST_TOKEN_BOUNDS, Now, Totals, Window


def make_totals(*first_tokens: float, **counts: int) -> Totals:
    totals = Totals()
    for name, count in counts.items():
        setattr(totals, name, count)
    for seconds in first_tokens:
        totals.count_first_token(seconds)
    return totals


def test_totals_survive_their_way_through_redis_and_add_up() -> None:
    one = make_totals(0.1, 0.1, 3.0, requests=7, errors=2, timeouts=1, output_tokens=90)
    same = Totals.decode(one.encode())
    assert same == one
    same.add(make_totals(0.1, 500.0, requests=1, input_tokens=5))
    assert (same.requests, same.errors, same.input_tokens, same.output_tokens) == (8, 2, 5, 90)
    assert sum(same.first_tokens.values()) == 5
    assert same.error_share == 0.25


@pytest.mark.parametrize("share", [0.5, 0.95])
def test_percentiles_are_right_to_the_width_of_an_interval(share: float) -> None:
    waits = [0.01 * (1 + number) for number in range(200)]  # 10 ms to 2 s
    exact = waits[int(share * len(waits)) - 1]
    found = make_totals(*waits).first_token_seconds(share)
    assert found == pytest.approx(exact, rel=0.1)


def test_percentiles_of_nothing_and_of_the_very_slow() -> None:
    assert Totals().first_token_seconds(0.95) is None
    assert make_totals(10_000.0).first_token_seconds(0.5) == FIRST_TOKEN_BOUNDS[-1]


def test_a_window_adds_the_replicas_that_are_asked_for() -> None:
    window = Window(20.0, {"a": make_totals(requests=1), "b": make_totals(requests=2)})
    assert window.of(["a", "b", "unknown"]).requests == 3
    assert window.of(["unknown"]) == Totals()


def test_what_is_open_now_is_the_sum_of_all_gateways() -> None:
    now = Now()
    now.add_encoded(Now(in_flight={"a": 2}, held={"d": 1}).encode())
    now.add_encoded(Now(in_flight={"a": 3, "b": 1}).encode())
    assert (now.gateways, now.in_flight_on(["a", "b"]), now.held_for("d")) == (2, 6, 1)


def test_without_redis_nobody_knows_anything(settings) -> None:
    settings.REDIS_URL = "redis://127.0.0.1:1/0"
    signals._client.cache_clear()
    try:
        assert signals.read_now() is None
        assert signals.read_window(seconds=60) is None
        assert signals.read_window(seconds=60, replica_ids=["a"]) is None
        assert signals.read_history(["a"], seconds=60) is None
    finally:
        signals._client.cache_clear()
