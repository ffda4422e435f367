import json

import pytest

from training.scoring import Score, score, summarize

EXPECTED = '{"intent": "tracking", "order": "12", "urgent": true}'


@pytest.mark.parametrize(
    ("answer", "is_exact", "is_json", "right"),
    [
        (EXPECTED, True, True, {"intent", "order", "urgent"}),
        (
            ' {"urgent":true,\n"order":"12","intent":"tracking"} ',
            True,
            True,
            {"intent", "order", "urgent"},
        ),
        ('{"intent": "tracking", "order": 12, "urgent": 1}', False, True, {"intent"}),
        ('{"intent": "tracking", "more": 1}', False, True, {"intent"}),
        (EXPECTED[:-1] + ', "more": 1}', False, True, {"intent", "order", "urgent"}),
        (f"```json\n{EXPECTED}\n```", False, False, set()),
        ("[1]", False, True, set()),
        ("", False, False, set()),
        ("[" * 100_000, False, False, set()),
    ],
)
def test_json_is_compared_parsed(
    answer: str, is_exact: bool, is_json: bool, right: set[str]
) -> None:
    result = score(EXPECTED, answer)
    assert (result.is_exact, result.is_json) == (is_exact, is_json)
    assert set(result.fields) == {"intent", "order", "urgent"}
    assert {name for name, is_right in result.fields.items() if is_right} == right


@pytest.mark.parametrize(
    ("expected", "answer", "is_exact"),
    [
        ("Yes", " Yes\n", True),
        ("Yes", "yes", False),
        ("42", "42", True),
        ("42", "42.0", False),
        ('"a"', '"a"', True),
    ],
)
def test_anything_else_is_compared_as_text(expected: str, answer: str, is_exact: bool) -> None:
    assert score(expected, answer) == Score(is_exact=is_exact)


def test_lists_have_no_fields() -> None:
    assert score("[1, 2]", "[1,2]") == Score(is_exact=True, is_json=True)
    assert score("[1, 2]", "[2, 1]") == Score(is_exact=False, is_json=True)


def test_shares_are_over_what_was_asked() -> None:
    scores = [
        score('{"a": 1}', '{"a": 1}'),
        score('{"a": 1, "b": 2}', '{"a": 1}'),
        score('{"b": 2}', "no"),
        score("plain", "plain"),
    ]
    summary = summarize(scores)
    assert summary == {
        "examples": 4,
        "exact_match": 0.5,
        "valid_json": pytest.approx(2 / 3),
        "fields": {"a": 1.0, "b": 0.0},
        "metrics": {
            "exact_match": 0.5,
            "valid_json": pytest.approx(2 / 3),
            "field.a": 1.0,
            "field.b": 0.0,
        },
    }
    assert summarize([])["exact_match"] == 0.0
    assert summarize([score("x", "x")])["valid_json"] is None
    json.dumps(summary)
