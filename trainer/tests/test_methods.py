"""Every method and every way of tuning gets better at its own task: the shipped Qwen3 on the
messages that ship with it, by what it makes of messages that it has not seen."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from demo.data import write_dataset
from demo.job import MODEL_FOLDER
from trainer import objectives
from trainer.adapters import target_names
from trainer.errors import FailureReason, SpecError, TrainingFailure
from trainer.model import load_model, load_tokenizer
from trainer.spec import TrainSpec
from trainer.tests.make import events, make_spec, run_here, write_rows

SMALL = {"batch_size": 16, "max_length_tokens": 160, "epochs": 1.0, "warmup_ratio": 0.1}
SMALL |= {"checkpoint_every_seconds": 600.0, "seed": 1}

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> tuple[Rows, Rows]:
    """Some messages to learn from, and some others: each with the JSON that it should become."""
    folder = tmp_path_factory.mktemp("messages")
    paths = write_dataset("retail-support", folder, train=128, heldout=32, harder=1)
    train, held_out = (
        [json.loads(line) for line in paths[name].read_text().splitlines()]
        for name in ("train", "heldout")
    )
    return train, held_out


def as_pairs(rows: Rows) -> Rows:
    """The same facts as JSON are preferred to a list."""
    return [
        {
            "input": {"messages": row["messages"][:-1]},
            "preferred_output": [row["messages"][-1]],
            "non_preferred_output": [{"role": "assistant", "content": as_list(row)}],
        }
        for row in rows
    ]


def as_labels(rows: Rows) -> Rows:
    labelled = []
    for number, pair in enumerate(as_pairs(rows)):
        good = number % 2 == 0
        (answer,) = pair["preferred_output" if good else "non_preferred_output"]
        labelled.append({"messages": [*pair["input"]["messages"], answer], "label": good})
    return labelled


def as_list(row: dict[str, Any]) -> str:
    facts = json.loads(row["messages"][-1]["content"])
    return " ".join(str(fact) for fact in facts.values() if fact)


def trained(
    folder: Path, chats: tuple[Rows, Rows], shape: Callable[[Rows], Rows] = list, **given: Any
) -> tuple[TrainSpec, dict[str, Any]]:
    """A finished run on these rows, and its last word about the held-out ones."""
    spec = make_spec(folder, base=MODEL_FOLDER, **(SMALL | {"dtype": "bfloat16"} | given))
    for path, rows in zip((spec.train_path, spec.eval_path), chats, strict=True):
        write_rows(Path(str(path)), shape(rows))
    assert run_here(spec) == 0, events(spec)
    return spec, events(spec, "eval")[-1]


def loss_before(spec: TrainSpec) -> float:
    """The held-out loss of the model that the run began with."""
    objective, loaded = objectives.of(spec), load_model(spec)
    data = objective.read(Path(str(spec.eval_path)), load_tokenizer(spec))
    work = objective.make(data, range(data.units), share=False)
    with torch.no_grad():
        return float(objective.loss(loaded, work, divisor=work.weight)[0])


@pytest.mark.parametrize(
    "given",
    [
        {"tuning": "full", "learning_rate": 1e-3},
        {"tuning": "lora", "learning_rate": 4e-3},
        {"tuning": "lora", "learning_rate": 1e-3, "lora_variant": "rslora"},
        {"tuning": "lora", "learning_rate": 4e-3, "lora_variant": "dora"},
        {"tuning": "lora", "learning_rate": 8e-3, "lora_targets": "q_proj,v_proj"},
    ],
    ids=["full", "lora", "rslora", "dora", "two_layers"],
)
def test_sft_lowers_the_held_out_loss(
    tmp_path: Path, chats: tuple[Rows, Rows], given: dict[str, Any]
) -> None:
    spec, told = trained(tmp_path, chats, **given)
    assert told["eval_loss"] < 0.8 * loss_before(spec)
    if spec.tuning == "lora":
        config = json.loads((Path(spec.output_path) / "adapter_config.json").read_text())
        variant = spec.hyperparameters.lora_variant
        assert config["use_rslora"] == (variant == "rslora")
        assert config["use_dora"] == (variant == "dora")


@pytest.mark.parametrize(
    "given",
    [{"tuning": "full", "learning_rate": 4e-4}, {"tuning": "lora", "learning_rate": 3e-3}],
    ids=["full", "lora"],
)
def test_dpo_raises_the_share_of_pairs_told_apart(
    tmp_path: Path, chats: tuple[Rows, Rows], given: dict[str, Any]
) -> None:
    few = (chats[0][:64], chats[1])
    spec, told = trained(tmp_path, few, as_pairs, method="dpo", **given)
    assert likelier(spec) < 0.1  # a list is shorter, and more of what the model was made of
    result: dict[str, Any] = {"base_path": spec.output_path, "output_path": str(tmp_path / "other")}
    if spec.tuning == "lora":
        result = {"init_path": spec.output_path}
    after = likelier(dataclasses.replace(spec, **result))
    assert after > 0.3
    assert told["metrics"]["reward_accuracy"] > 0.9
    assert told["metrics"]["reward_margin"] > 0.5
    assert told["eval_loss"] < 0.55  # 0.693 before the first step


def likelier(spec: TrainSpec) -> float:
    """The share of held-out pairs whose preferred answer is the likelier one."""
    objective, loaded = objectives.of(spec), load_model(spec)
    data = objective.read(Path(str(spec.eval_path)), load_tokenizer(spec))
    loaded.model.eval()
    with torch.no_grad():
        found = objectives.answer_log_probabilities(
            loaded, objectives.rows_of(data.examples, share=False)
        )
    return float((found[0::2] > found[1::2]).float().mean())


def test_kto_raises_the_margin_of_desirable_answers(
    tmp_path: Path, chats: tuple[Rows, Rows]
) -> None:
    few = (chats[0][:96], chats[1])
    spec, told = trained(tmp_path, few, as_labels, method="kto", tuning="lora", learning_rate=1e-3)
    first, last = events(spec, "step")[0]["metrics"], told["metrics"]
    assert first["reward_margin"] == pytest.approx(0.0, abs=1e-6)
    assert last["reward_chosen"] > 0 > last["reward_rejected"]
    assert last["reward_margin"] > 1.0
    assert {"kl"} <= last.keys()
    assert told["eval_loss"] < 0.45  # 0.5 before the first step


def test_an_adapter_goes_on_where_another_run_left_it(
    tmp_path: Path, chats: tuple[Rows, Rows]
) -> None:
    given: dict[str, Any] = {"tuning": "lora", "learning_rate": 4e-3, "lora_rank": 4}
    first, told = trained(tmp_path / "first", chats, **given)
    second, after = trained(
        tmp_path / "second", chats, **(given | {"lora_rank": 64, "init_path": first.output_path})
    )
    assert loss_before(second) == pytest.approx(told["eval_loss"], rel=0.02)
    assert after["eval_loss"] < told["eval_loss"]
    config = json.loads((Path(second.output_path) / "adapter_config.json").read_text())
    assert config["r"] == 4  # its own


def test_layers_are_chosen_by_group_or_name(base: Path, tmp_path: Path) -> None:
    model = load_model(make_spec(tmp_path, base=base)).model
    attention = ["k_proj", "o_proj", "q_proj", "v_proj"]
    mlp = ["down_proj", "gate_proj", "up_proj"]
    assert target_names(model, "attention") == attention
    assert target_names(model, "mlp") == mlp
    assert target_names(model, "all") == sorted([*attention, *mlp])
    assert target_names(model, "v_proj, q_proj") == ["q_proj", "v_proj"]
    with pytest.raises(SpecError, match="no layers w_proj") as refusal:
        target_names(model, "q_proj,w_proj")
    assert refusal.value.field == "hyperparameters.lora_targets"
    assert "gate_proj" in refusal.value.remedy


def test_four_bits_are_refused_where_the_node_has_no_way_to_them(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(tmp_path, base=base, tuning="qlora", device="cuda:0")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SpecError, match="bitsandbytes") as refusal:
        load_model(spec)
    assert (refusal.value.field, bool(refusal.value.remedy)) == ("tuning", True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SpecError, match="torch sees none"):
        load_model(spec)


def test_an_adapter_of_another_kind_or_pickled_is_not_continued(base: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    spec = make_spec(tmp_path, base=base, tuning="lora", init_path=str(adapter))
    for config, problem in (
        (None, "no adapter_config.json"),
        ({"peft_type": "IA3"}, "type IA3"),
        ({"peft_type": "LORA"}, "no adapter_model.safetensors"),
    ):
        if config is not None:
            (adapter / "adapter_config.json").write_text(json.dumps(config))
        with pytest.raises(TrainingFailure, match=problem) as refusal:
            load_model(spec)
        assert refusal.value.reason is FailureReason.UNSUPPORTED_MODEL
