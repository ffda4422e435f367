import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trainer.errors import SpecError
from trainer.spec import Hyperparameters, TrainSpec

GIVEN: dict[str, Any] = {
    "run_id": "run-1",
    "base_path": "/data/base",
    "train_path": "/data/train.jsonl",
    "output_path": "/data/output",
    "checkpoint_path": "/data/checkpoints",
    "progress_path": "/data/progress.jsonl",
    "cores": [0, 1],
    "hyperparameters": {"epochs": 2, "max_steps": 10},
}


def test_a_spec_survives_the_way_through_json(tmp_path: Path) -> None:
    spec = TrainSpec.from_json(GIVEN)
    file = tmp_path / "spec.json"
    file.write_text(json.dumps(spec.to_json()))
    assert TrainSpec.load(file) == spec
    assert spec.cores == (0, 1)
    assert spec.hyperparameters.max_steps == 10


def test_the_learning_rate_follows_the_tuning_unless_given() -> None:
    assert TrainSpec.from_json(GIVEN | {"tuning": "lora"}).learning_rate == 2e-4
    assert TrainSpec.from_json(GIVEN | {"tuning": "full"}).learning_rate == 2e-5
    assert TrainSpec.from_json(GIVEN | {"method": "dpo"}).learning_rate == 1e-5
    given = GIVEN | {"hyperparameters": {"learning_rate": 3e-3}}
    assert TrainSpec.from_json(given).learning_rate == 3e-3


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"run_id": ""}, "run_id"),
        ({"base_path": "base"}, "base_path"),
        ({"eval_path": "eval.jsonl"}, "eval_path"),
        ({"output_path": "/data/checkpoints"}, "output_path"),
        ({"attempt": 0}, "attempt"),
        ({"threads": True}, "threads"),
        ({"cores": ["0"]}, "cores"),
        ({"cores": [-1]}, "cores"),
        ({"method": "ppo"}, "method"),
        ({"tuning": "half"}, "tuning"),
        ({"dtype": "float16"}, "dtype"),
        ({"colour": "red"}, "colour"),
        ({"hyperparameters": [1]}, "hyperparameters"),
        ({"hyperparameters": {"epochs": 0}}, "hyperparameters.epochs"),
        ({"hyperparameters": {"epochs": float("nan")}}, "hyperparameters.epochs"),
        ({"hyperparameters": {"batch_size": 2.5}}, "hyperparameters.batch_size"),
        ({"hyperparameters": {"batch_size": 0}}, "hyperparameters.batch_size"),
        ({"hyperparameters": {"learning_rate": -1.0}}, "hyperparameters.learning_rate"),
        ({"hyperparameters": {"warmup_ratio": 1.0}}, "hyperparameters.warmup_ratio"),
        ({"hyperparameters": {"scheduler": "sine"}}, "hyperparameters.scheduler"),
        ({"hyperparameters": {"lr": 1e-3}}, "hyperparameters.lr"),
        ({"hyperparameters": {"beta": 0}}, "hyperparameters.beta"),
        ({"hyperparameters": {"label_smoothing": 0.5}}, "hyperparameters.label_smoothing"),
        ({"hyperparameters": {"lora_variant": "ia3"}}, "hyperparameters.lora_variant"),
        ({"hyperparameters": {"lora_targets": "q_proj,"}}, "hyperparameters.lora_targets"),
        ({"hyperparameters": {"warmup_steps": -1}}, "hyperparameters.warmup_steps"),
        ({"method": "kto", "hyperparameters": {"batch_size": 1}}, "hyperparameters.batch_size"),
        ({"ranks": 0}, "ranks"),
        ({"tuning": "full", "init_path": "/data/adapter"}, "tuning"),
        ({"tuning": "qlora"}, "tuning"),
        (
            {"tuning": "qlora", "device": "cuda", "hyperparameters": {"lora_variant": "dora"}},
            "hyperparameters.lora_variant",
        ),
    ],
)
def test_a_refusal_names_the_field_and_the_remedy(change: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError) as refusal:
        TrainSpec.from_json(GIVEN | change)
    assert refusal.value.field == field
    assert refusal.value.remedy
    assert str(refusal.value).startswith(field)


def test_a_missing_field_is_named() -> None:
    with pytest.raises(SpecError, match="train_path: is missing"):
        TrainSpec.from_json({k: v for k, v in GIVEN.items() if k != "train_path"})


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_file_that_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "spec.json"
    file.write_text(text)
    with pytest.raises(SpecError, match="spec"):
        TrainSpec.load(file)


def test_defaults_are_themselves_valid() -> None:
    assert Hyperparameters.from_json(Hyperparameters().to_json()) == Hyperparameters()


def test_spec_and_progress_load_without_torch() -> None:
    probe = "import sys, trainer.spec, trainer.progress; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", probe], check=True)
