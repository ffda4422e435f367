from typing import Any

from gateway.limits.rules import (
    TEMPLATE_TOKENS,
    Prices,
    Rule,
    Rules,
    Tariff,
)


def make_rule(**fields) -> Rule:
    values: dict[str, Any] = {"id": "r", "measure": "requests", "period": "day", "amount": 10}
    return Rule(**(values | fields))


def test_limits_of_the_organization_its_key_and_its_model_apply_at_once():
    everybody = make_rule(id="all")
    mine = make_rule(id="mine", key_id="key-1")
    other = make_rule(id="other", key_id="key-2")
    model = make_rule(id="model", model_name="tiny")
    both = make_rule(id="both", key_id="key-1", model_name="big")
    rules = Rules(rules=(everybody, mine, other, model, both))
    assert rules.applying("key-1", "tiny") == (everybody, mine, model)
    assert rules.applying("key-1", "big") == (everybody, mine, both)
    assert rules.applying("key-3", "small") == (everybody,)


def test_what_a_request_could_use_is_bounded_by_its_body_and_the_context():
    rules = Rules(
        context_tokens={"tiny": 1000}, tariffs={"tiny": Tariff(prices=(Prices(2, 1, 5),))}
    )

    def demand(**fields):
        values = {
            "body_bytes": 100,
            "expected_input_tokens": 30,
            "max_output_tokens": 50,
            "answers": 1,
            "now": 0.0,
        }
        return rules.demand("tiny", **(values | fields))

    small = demand()
    assert small.tokens == 100 + TEMPLATE_TOKENS + 50
    assert small.money == (100 + TEMPLATE_TOKENS) * 2 + 50 * 5
    assert small.expected_tokens == 30 + 50
    assert demand(max_output_tokens=None).money == (100 + TEMPLATE_TOKENS) * 2 + 1000 * 5
    assert demand(body_bytes=10**7).money == 1000 * 2 + 50 * 5
    assert demand(answers=3, max_output_tokens=150, body_bytes=10**7).money == 3000 * 2 + 150 * 5


def test_cached_tokens_have_their_own_price_and_a_request_is_rounded_up():
    rules = Rules(tariffs={"tiny": Tariff(prices=(Prices(2.0, 0.5, 5.0),))})
    assert rules.cost("tiny", input_tokens=10, cached=4, output_tokens=1, now=0) == 19
    assert rules.cost("tiny", input_tokens=1, cached=1, output_tokens=0, now=0) == 1
    assert rules.cost("free", input_tokens=10, cached=4, output_tokens=1, now=0) == 0


def test_a_price_holds_from_its_start():
    tariff = Tariff(starts=(0.0, 100.0), prices=(Prices(output=1), Prices(output=3)))
    assert [tariff.at(at).output for at in (0, 99.9, 100, 1e9)] == [1, 1, 3, 3]
