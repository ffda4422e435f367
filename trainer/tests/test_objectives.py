"""The preference losses: their parts here, the whole against TRL in test_trl.py."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer import head, objectives, reference
from trainer.data import TokenSet
from trainer.errors import FailureReason, TrainingFailure
from trainer.likelihood import label_log_probabilities
from trainer.model import Loaded, load_model
from trainer.objectives import Dpo, Kto, answer_log_probabilities, rows_of
from trainer.tests.make import (
    label_rows,
    make_spec,
    make_tokenizer,
    preference_rows,
    write_rows,
)


@pytest.fixture(scope="module")
def loaded(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return load_model(make_spec(tmp_path_factory.mktemp("spec"), base=base))


def pairs(folder: Path, count: int = 6) -> TokenSet:
    path = write_rows(folder / "pairs.jsonl", preference_rows(count))
    return Dpo(256, beta=0.1).read(path, make_tokenizer())


def labelled(folder: Path, count: int = 6) -> TokenSet:
    path = write_rows(folder / "labelled.jsonl", label_rows(count))
    return Kto(256, beta=0.1).read(path, make_tokenizer())


def test_chunked_log_probabilities_have_autograds_values_and_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", 11 * 3)  # three labels at a time
    torch.manual_seed(0)
    given = [torch.randn(*size, requires_grad=True) for size in ((8, 5), (11, 5), (11,))]
    targets, slope = torch.randint(0, 11, (8,)), torch.randn(8)
    hidden, weight, bias = given
    ours = label_log_probabilities(hidden=hidden, weight=weight, bias=bias, targets=targets)
    logits = torch.nn.functional.linear(hidden, weight, bias)
    theirs = torch.log_softmax(logits, dim=1)[torch.arange(8), targets]
    torch.testing.assert_close(ours, theirs)
    for one, other in zip(
        torch.autograd.grad(ours, given, slope),
        torch.autograd.grad(theirs, given, slope),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("share", [False, True])
def test_each_answer_has_its_own_log_probability(
    loaded: Loaded, tmp_path: Path, share: bool
) -> None:
    data = pairs(tmp_path)
    with torch.no_grad():
        together = answer_log_probabilities(loaded, rows_of(data.examples, share=share))
        for example, found in zip(data.examples, together, strict=True):
            ids = torch.from_numpy(example.tokens.astype("int64"))
            marks = torch.from_numpy(example.marks)
            logs = loaded.model(input_ids=ids[None]).logits[0, :-1].log_softmax(dim=-1)
            single = logs.gather(1, ids[1:, None])[:, 0]
            assert float(found) == pytest.approx(float(single[marks[1:]].sum()), abs=1e-4)


def test_a_pair_is_two_examples_and_one_unit(tmp_path: Path) -> None:
    data = pairs(tmp_path, 3)
    assert (data.units, len(data.examples), len(data.lengths)) == (3, 6, 3)
    text = [make_tokenizer().decode(each.tokens[each.marks]) for each in data.examples_of([2])]
    row = preference_rows(3)[2]
    wanted = [row[name][0]["content"] for name in ("preferred_output", "non_preferred_output")]
    assert text == [f"{each}<|im_end|>" for each in wanted]


def test_label_smoothing_is_the_mean_with_the_pair_turned_round(
    loaded: Loaded, tmp_path: Path
) -> None:
    data = pairs(tmp_path)
    data.reference = torch.randn(len(data.examples))
    turned = TokenSet([*data.examples], width=2)
    turned.examples[0::2], turned.examples[1::2] = data.examples[1::2], data.examples[0::2]
    turned.reference = data.reference.view(-1, 2).flip(1).reshape(-1)
    units = range(data.units)

    def loss(of: TokenSet, smoothing: float) -> float:
        objective = Dpo(256, beta=0.5, smoothing=smoothing)
        work = objective.make(of, units, share=False)
        with torch.no_grad():
            return float(objective.loss(loaded, work, divisor=len(units))[0])

    assert loss(data, 0.0) != pytest.approx(loss(turned, 0.0), abs=1e-3)
    expected = 0.8 * loss(data, 0.0) + 0.2 * loss(turned, 0.0)
    assert loss(data, 0.2) == pytest.approx(expected, abs=1e-6)


def test_unmatched_answers_come_from_the_same_micro_batch(tmp_path: Path) -> None:
    data, objective, decode = labelled(tmp_path), Kto(256, beta=0.1), make_tokenizer().decode
    unmatched = objective.unmatched(data, [[4, 1, 0], [5, 2], [3]])
    for to, giver in {4: 0, 1: 4, 0: 1, 5: 2, 2: 5, 3: 2}.items():
        example, begin = unmatched[to], int(data.examples[to].marks.argmax())
        assert list(example.tokens[:begin]) == list(data.examples[to].tokens[:begin])
        answer = data.examples[giver]
        assert decode(example.tokens[example.marks]) == decode(answer.tokens[answer.marks])


def test_the_reference_is_computed_once_and_kept(loaded: Loaded, tmp_path: Path) -> None:
    data = pairs(tmp_path)

    def settle(fingerprint: str = "f") -> torch.Tensor:
        reference.settle(
            tmp_path,
            [("train", data)],
            loaded=loaded,
            fingerprint=fingerprint,
            batch_size=4,
            share=False,
            stopping=lambda: False,
        )
        assert data.reference is not None
        return data.reference

    first = settle()
    body = next(iter(loaded.body.parameters()))
    kept = body.detach().clone()
    with torch.no_grad():
        body.add_(1.0)  # a model that has been trained meanwhile
    assert torch.equal(settle(), first)
    assert not torch.allclose(settle("other data"), first)
    with torch.no_grad():
        body.copy_(kept)


def test_a_reference_that_is_asked_to_stop_keeps_nothing(loaded: Loaded, tmp_path: Path) -> None:
    with pytest.raises(reference.Stopped):
        reference.settle(
            tmp_path,
            [("train", pairs(tmp_path))],
            loaded=loaded,
            fingerprint="f",
            batch_size=4,
            share=False,
            stopping=lambda: True,
        )
    assert not (tmp_path / "reference").exists()


PAIR: dict[str, Any] = preference_rows(1)[0]
LABELLED: dict[str, Any] = label_rows(1)[0]


@pytest.mark.parametrize(
    ("objective", "row", "problem"),
    [
        (Dpo(64, beta=0.1), {"messages": []}, "has no input"),
        (Dpo(64, beta=0.1), PAIR | {"input": {}}, "has no input messages"),
        (Dpo(64, beta=0.1), PAIR | {"preferred_output": []}, "preferred_output is not one"),
        (Kto(64, beta=0.1), LABELLED | {"label": "yes"}, "has no label"),
        (
            Kto(64, beta=0.1),
            LABELLED | {"messages": [*LABELLED["messages"], {"role": "user", "content": "?"}]},
            "does not end with an answer",
        ),
    ],
)
def test_a_bad_line_of_preferences_is_named(
    tmp_path: Path, objective: objectives.Objective, row: dict[str, Any], problem: str
) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(TrainingFailure, match=f"data.jsonl line 1: .*{problem}") as refusal:
        objective.read(path, make_tokenizer())
    assert refusal.value.reason is FailureReason.BAD_DATA
    assert refusal.value.remedy


def test_margins_of_labelled_answers_come_from_their_means() -> None:
    tally = objectives.Tally()
    tally.add({"reward_chosen": (3.0, 2.0), "reward_rejected": (0.0, 0.0)})
    assert "reward_margin" not in tally.means()
    tally.add({"reward_chosen": (1.0, 2.0), "reward_rejected": (-4.0, 4.0)})
    assert tally.means() == {"reward_chosen": 1.0, "reward_rejected": -1.0, "reward_margin": 2.0}
