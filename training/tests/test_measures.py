"""Gates and results go by a metric as it was configured, not by what it was called."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from accounts.tests.make import NOW
from common.errors import InvalidInput
from models_registry.models import AliasGate
from training.metrics import measures
from training.metrics.measures import Measure
from training.tests.test_gates import pair, promote, refused, rule_on, set_gate, show

pytestmark = pytest.mark.django_db
__all__ = ["pair"]  # the fixture

REGEX = {"kind": "regex", "pattern": r"order (\d+)"}
OTHER = {"kind": "regex", "pattern": r"\d+"}
JUDGE = {"kind": "judge", "model": "qwen3-8b", "rubric": "Polite?"}


def key(metric: dict[str, Any], name: str) -> str:
    return find(metric, name).key


def find(metric: dict[str, Any], name: str) -> Measure:
    return measures.find([metric], [name])[name]


def test_a_key_is_of_kind_and_options_and_of_nothing_else() -> None:
    assert key({"kind": "rouge"}, "rouge_l") == "rouge_l"
    assert key({"kind": "rouge", "name": "overlap"}, "overlap_l") == "rouge_l"
    assert key(REGEX, "regex") == key({**REGEX, "name": "number"}, "number")
    assert key(REGEX, "regex") != key(OTHER, "regex")
    assert key(JUDGE, "judge") != key({**JUDGE, "rubric": "Short?"}, "judge")
    assert key(JUDGE, "judge") != key({**JUDGE, "model": "other"}, "judge")
    loose = {"kind": "json_fields", "relative_tolerance": 0.01}
    assert key(loose, "field.amount").startswith("field.amount#")
    assert key(loose, "field.amount") == key({**loose, "fields": ["amount"]}, "field.amount")
    assert key(loose, "json_fields") != key({**loose, "fields": ["amount"]}, "json_fields")
    assert key(REGEX, "exact_match") == "exact_match"  # measured in any case, as ever
    assert key({"kind": "exact_match", "ignore_case": True}, "exact_match") != "exact_match"


def test_units_directions_and_labels() -> None:
    assert find(JUDGE, "judge").unit == "rating"
    assert find({**JUDGE, "mode": "pairs"}, "judge").unit == "share"
    assert find(REGEX, "regex").label == r"regex (pattern “order (\d+)”)"
    assert find(REGEX, "perplexity").lower_is_better
    assert measures.is_lower_better("wikitext.word_perplexity")
    assert not measures.is_lower_better("arc_easy.acc")


def test_a_metric_of_the_same_name_with_other_options_does_not_open_a_gate(pair: tuple) -> None:
    organization, version, first, second = pair
    set_gate(version, first, conditions=[{"measure": REGEX, "at_least": 0.9}])
    (kept,) = AliasGate.objects.get().rule["conditions"]
    assert (kept["metric"], kept["measure"]) == (key(REGEX, "regex"), REGEX)
    wrong = {"regex": find(OTHER, "regex").as_json()}
    show(version, second, 1.0, metrics={"regex": 1.0}, measures=wrong)
    assert "order" in refused(organization, second).message  # says which regex is meant
    right = {"numbers": find(REGEX, "regex").as_json()}
    later = NOW + timedelta(1)
    show(version, second, 1.0, metrics={"numbers": 1.0}, measures=right, created_at=later)
    assert promote(organization, second).revision == second


def test_older_results_are_read_by_name_where_the_name_says_all(pair: tuple) -> None:
    organization, version, first, second = pair
    condition = {"metric": "exact_match", "at_least": 0.9}
    set_gate(version, first, conditions=[condition])
    loose = {"exact_match": find({"kind": "exact_match", "ignore_case": True}, "exact_match")}
    show(version, second, 1.0, measures={name: each.as_json() for name, each in loose.items()})
    refused(organization, second)  # exact but for case is not exact
    show(version, second, 1.0, created_at=NOW + timedelta(1))  # as older rows are
    assert promote(organization, second).revision == second


@pytest.mark.parametrize(
    ("condition", "field"),
    [
        ({"metric": "regex", "at_least": 1}, "metric"),
        ({"metric": "judge", "at_least": 4}, "metric"),
        ({"metric": "regex#0000000000", "at_least": 1}, "metric"),
        ({"measure": {"kind": "regex", "pattern": "("}, "at_least": 1}, "measure.pattern"),
        ({"measure": {"kind": "hope"}, "at_least": 1}, "measure.kind"),
        ({"measure": {"kind": "rouge"}, "at_least": 1}, "metric"),
        ({"measure": REGEX, "metric": "bleu", "at_least": 1}, "metric"),
        ({"measure": "regex", "at_least": 1}, "measure"),
        ({"metric": "perplexity", "at_least": 3}, "at_least"),
    ],
)
def test_what_does_not_say_what_is_measured_is_refused(
    pair: tuple, condition: dict, field: str
) -> None:
    _organization, version, first, _second = pair
    with pytest.raises(InvalidInput) as refusal:
        set_gate(version, first, conditions=[condition])
    assert refusal.value.field == f"rule.conditions.0.{field}"


def test_a_name_that_results_have_means_what_it_meant_there(pair: tuple, tmp_path: Path) -> None:
    _organization, version, first, second = pair
    one, two = find(REGEX, "regex").as_json(), find(OTHER, "regex").as_json()
    show(version, second, 1.0, metrics={"number": 1.0}, measures={"number": one})
    rule = rule_on(version, conditions=[{"metric": "number", "at_least": 0.5}])
    set_gate(version, first, conditions=rule["conditions"])
    assert AliasGate.objects.get().rule["conditions"][0]["metric"] == one["key"]
    show(version, second, 1.0, metrics={"number": 1.0}, measures={"number": two})
    with pytest.raises(InvalidInput, match="2 metrics of that name"):
        set_gate(version, first, conditions=rule["conditions"])
