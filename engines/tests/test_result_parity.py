"""`python -m engines.parity`: trained results compared with what the engine serves of them."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from engines import parity
from engines.parity import ParitySpec, compare, judge
from engines.tests.make import make_adapter, make_model
from engines.tests.test_parity import prompts

SCORED = 16


def write_record(folder: Path, model: Any, base: Path, *, dtype: str) -> None:
    """As the trainer leaves it, from transformers' own forward pass."""
    rows = []
    for tokens in prompts([5, 17, 40, 90, 2, 33, 60, 21, 12], seed=4):
        with torch.no_grad():
            told = model(torch.tensor([tokens])).logits[0].float().log_softmax(-1)
        start = max(1, len(tokens) - SCORED)
        rows.append(
            {
                "tokens": tokens,
                "logprobs": [float(told[at - 1, tokens[at]]) for at in range(start, len(tokens))],
            }
        )
    hashes = parity._hashes(str(base))
    record = {"dtype": dtype, "device": "cpu", "prompts": rows} | hashes
    (folder / parity.FILE).write_text(json.dumps(record))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"))


def spec_of(result: Path, base: Path, *, is_adapter: bool, dtype: str = "float32") -> ParitySpec:
    report = str(result / "report.json")
    return ParitySpec(
        result=str(result), base=str(base), is_adapter=is_adapter, report=report, dtype=dtype
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_is_the_model_that_was_trained_both_ways(
    base: Path, tmp_path: Path, dtype: str
) -> None:
    folder = make_adapter(tmp_path / "adapter", base)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
    model = peft.PeftModel.from_pretrained(plain, folder).eval()
    write_record(folder, model, base, dtype=dtype)
    told = compare(spec_of(folder, base, is_adapter=True, dtype=dtype))
    assert [(check["way"], check["passed"]) for check in told["checks"]] == [
        ("adapter", True),
        ("merged", True),
    ], told["checks"]
    assert told["prompts"] == 9


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_another_adapter_is_found_out(base: Path, tmp_path: Path, dtype: str) -> None:
    trained = make_adapter(tmp_path / "trained", base, seed=1)
    served = make_adapter(tmp_path / "served", base, seed=2)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    write_record(served, peft.PeftModel.from_pretrained(plain, trained).eval(), base, dtype=dtype)
    told = compare(spec_of(served, base, is_adapter=True, dtype=dtype))
    assert [check["passed"] for check in told["checks"]] == [False, False]
    assert "differ by up to" in told["checks"][0]["reason"]


def test_a_full_result_is_checked_by_the_command(base: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(1.01)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path)
    write_record(tmp_path, model, base, dtype="float32")
    spec = spec_of(tmp_path, base, is_adapter=False)
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(vars(spec)))
    assert parity.main([str(path)]) == 0
    told = json.loads(Path(spec.report).read_text())
    assert [(check["way"], check["passed"]) for check in told["checks"]] == [("full", True)]
    assert told["checks"][0]["max_abs_logprob_diff"] < 1e-4


def test_another_template_is_found_out(base: Path, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "adapter", base)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    write_record(
        folder, peft.PeftModel.from_pretrained(plain, folder).eval(), base, dtype="float32"
    )
    record = json.loads((folder / parity.FILE).read_text())
    (folder / parity.FILE).write_text(json.dumps(record | {"template_sha256": "other"}))
    *_, last = compare(spec_of(folder, base, is_adapter=True))["checks"]
    assert (last["way"], last["passed"]) == ("text", False)
    assert "template" in last["reason"]


def test_what_the_engine_refuses_is_unchecked_and_says_why(base: Path, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "adapter", base)
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    write_record(folder, plain, base, dtype="float32")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    told = compare(spec_of(folder, base, is_adapter=True))
    assert [check["passed"] for check in told["checks"]] == [None, None]
    assert "DoRA" in told["checks"][0]["reason"]


def test_what_is_no_number_does_not_pass() -> None:
    told = judge([{"logprobs": [-1.0]}], [[float("nan")]], tolerance=(1.0, 1.0))
    assert told["passed"] is False
