"""Weights published as 8-bit floats are read as the values they stand for."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from engines.architectures import BUILTIN, refusal
from engines.builtin import engine as builtin
from engines.process import CannotServe
from engines.tests.make import make_spec
from engines.tests.make_families import make_family, make_fp8
from engines.tests.test_parity import Collector, generated, prompts

COUNT = 12


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("qwen3_moe", (32, 16)),
        ("qwen3_moe-plain", (40, 24)),  # no side of a matrix is a multiple
        ("qwen3_5", (4, 16)),  # read by transformers, which wants multiples
        ("qwen3_next", (8, 16)),
    ],
)
def test_answers_are_those_of_the_same_values_unquantized(tmp_path, name, block):
    folder = make_family(tmp_path / "quantized", name)
    plain = make_fp8(folder, block=block)
    config = json.loads((plain / "config.json").read_text())
    model_class = getattr(transformers, config["architectures"][0])
    reference = model_class.from_pretrained(plain, dtype=torch.float32).eval()
    reference.generation_config.eos_token_id = None
    asked = prompts([30, 5], seed=8)
    engine = Collector(folder, max_concurrency=2)
    try:
        expected = [generated(reference, prompt, count=COUNT) for prompt in asked]
        assert engine.tokens(asked, max_tokens=COUNT) == expected
    finally:
        engine.close()


@pytest.mark.parametrize("name", ["qwen3_moe", "qwen3_next"])
def test_scales_that_are_not_there_are_not_made_up(tmp_path, name):
    folder = make_family(tmp_path / "quantized", name)
    make_fp8(folder, block=(8, 16))
    tensors = load_file(folder / "model.safetensors")
    scales = next(each for each in sorted(tensors) if each.endswith("o_proj.weight_scale_inv"))
    del tensors[scales]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert _refusal(folder) == "unreadable_weights"
    _say_block(folder, None)
    assert _refusal(folder) == "unsupported_quantization"


def test_a_grid_of_another_shape_is_refused(tmp_path):
    folder = make_family(tmp_path / "quantized", "qwen3_moe")
    make_fp8(folder, block=(32, 16))
    _say_block(folder, [16, 16])
    assert _refusal(folder) == "unreadable_weights"


def test_the_list_knows():
    assert refusal(BUILTIN, model_type="qwen3", quantization="fp8") is None
    assert refusal(BUILTIN, model_type="qwen3", quantization="gptq") is not None


def _say_block(folder, block):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"]["weight_block_size"] = block
    path.write_text(json.dumps(config))


def _refusal(folder):
    with pytest.raises(CannotServe) as caught:
        builtin.load(make_spec(model_path=str(folder)), publish=lambda news: None)
    return caught.value.code
