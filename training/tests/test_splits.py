import io
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.prepare import prepare
from training.splits import PlanInvalid, SplitPlan, TooFewGroups, assign


def test_groups_are_never_torn_and_amounts_are_kept_whatever_the_sizes() -> None:
    draw = random.Random(3)
    for seed in range(60):
        groups = draw.randint(20, 200)
        keys = [draw.getrandbits(64) for _ in range(groups)]
        lines = [draw.choice(keys[: 1 + draw.randrange(groups)]) for _ in range(600)] + keys
        plan = SplitPlan(held_out={"heldout": 0.1, "test": 20}, seed=seed)
        names, side = assign(np.array(lines, dtype=np.uint64), plan)
        where: dict[int, set[int]] = {}
        for key, number in zip(lines, side.tolist(), strict=True):
            where.setdefault(key, set()).add(number)
        assert all(len(sides) == 1 for sides in where.values())
        sizes = Counter(names[number] for number in side.tolist())
        assert sizes["test"] <= 20
        assert sizes["heldout"] <= round(0.1 * len(lines))
        assert sizes["heldout"] >= round(0.1 * len(lines)) - 1  # groups of one line fill it up
        assert min(sizes.values()) > 0


def test_the_same_lines_in_another_order_are_dealt_out_alike_and_seeds_differ() -> None:
    keys = np.arange(1000, dtype=np.uint64)
    plan = SplitPlan(held_out={"heldout": 0.2}, seed=5)
    _, side = assign(keys, plan)
    _, turned = assign(keys[::-1].copy(), plan)
    assert (side == turned[::-1]).all()
    assert side.sum() == 200
    _, other = assign(keys, SplitPlan(held_out={"heldout": 0.2}, seed=6))
    assert 100 < (side != other).sum() < 400


def test_one_group_cannot_be_split() -> None:
    with pytest.raises(TooFewGroups):
        assign(np.zeros(9, dtype=np.uint64), SplitPlan(held_out={"heldout": 0.1}))


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "held_out"),
        ({"held_out": {"train": 0.1}}, "held_out"),
        ({"held_out": {"a": 0}}, "held_out"),
        ({"held_out": {"a": 1.5}}, "held_out"),
        ({"held_out": {"a": True}}, "held_out"),
        ({"held_out": {"a": 0.6, "b": 0.6}}, "held_out"),
        ({"held_out": {"a": 0.1}, "seed": -1}, "seed"),
        ({"held_out": {"a": 0.1}, "group_by": 3}, "group_by"),
        ({"held_out": {"a": 0.1}, "sed": 1}, "sed"),
    ],
)
def test_plans_that_cannot_be_followed_are_refused(given: dict[str, Any], field: str) -> None:
    with pytest.raises(PlanInvalid) as refused:
        SplitPlan.from_json(given)
    assert refused.value.field == field


def rows(count: int) -> list[dict[str, Any]]:
    return [
        {"prompt": f"question {n}", "completion": "yes", "about": {"customer": n % 10}}
        for n in range(count)
    ]


def dealt(folder: Path, given: list[dict[str, Any]], **plan: Any) -> dict[str, set[str]]:
    data = "".join(json.dumps(row) + "\n" for row in given).encode()
    prepared = prepare({"train": io.BytesIO(data)}, folder, plan=SplitPlan(**plan))
    assert prepared.report["errors"] == []
    return {
        name: {json.loads(line)["messages"][0]["content"] for line in path.open()}
        for name, path in prepared.files.items()
    }


def test_lines_of_one_customer_land_in_one_split(tmp_path: Path) -> None:
    sides = dealt(tmp_path, rows(200), held_out={"heldout": 0.3}, group_by="about.customer")
    assert {name: len(texts) for name, texts in sides.items()} == {"train": 140, "heldout": 60}
    customers = {name: {int(t.split()[1]) % 10 for t in texts} for name, texts in sides.items()}
    assert customers["train"].isdisjoint(customers["heldout"])


def test_repeated_lines_are_never_on_both_sides(tmp_path: Path) -> None:
    sides = dealt(tmp_path, rows(50) * 3, held_out={"heldout": 30})
    assert sides["train"].isdisjoint(sides["heldout"])
    assert len(sides["heldout"]) == 10


def test_a_line_without_the_key_is_refused_by_number(tmp_path: Path) -> None:
    data = b'{"prompt": "a", "completion": "b", "k": 1}\n{"prompt": "c", "completion": "d"}\n'
    plan = SplitPlan(held_out={"heldout": 1}, group_by="k")
    report = prepare({"train": io.BytesIO(data)}, tmp_path, plan=plan).report
    assert [(e["line"], e["code"], e["field"]) for e in report["errors"]] == [
        (2, "group_key_missing", "k")
    ]
