"""Model folders that cannot be served are refused with a code and a reason."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from engines.builtin import engine as builtin
from engines.builtin.shape import serving_dtype
from engines.process import CannotServe
from engines.tests.make import make_model, make_spec


def load(folder, **changes):
    return builtin.load(make_spec(model_path=str(folder), **changes), publish=lambda news: None)


def refusal(folder, **changes):
    with pytest.raises(CannotServe) as caught:
        load(folder, **changes)
    return caught.value.code


@pytest.fixture
def folder(tmp_path):
    return make_model(tmp_path / "model")


def change_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_empty_folder(tmp_path):
    assert refusal(tmp_path) == "unreadable_config"


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "llama"},
        {"hidden_act": "gelu"},
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
        {"quantization_config": {"quant_method": "awq"}},
        {"layer_types": ["sliding_attention"] * 3, "use_sliding_window": True},
    ],
)
def test_what_the_forward_pass_does_not_know(folder, changes):
    change_config(folder, **changes)
    assert refusal(folder) == "unsupported_architecture"


def test_pickles_are_not_read(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert refusal(folder) == "unreadable_weights"


def test_a_missing_or_misshapen_tensor(folder):
    tensors = load_file(folder / "model.safetensors")
    norm = tensors.pop("model.norm.weight")
    save_file(tensors, folder / "model.safetensors")
    assert refusal(folder) == "unreadable_weights"
    save_file(tensors | {"model.norm.weight": norm[:5]}, folder / "model.safetensors")
    assert refusal(folder) == "unreadable_weights"


def test_a_cut_file(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    assert refusal(folder) == "unreadable_weights"


def test_an_index_stays_in_its_folder(folder):
    index = {"weight_map": {"lm_head.weight": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert refusal(folder) == "unreadable_weights"


def test_sharded_weights_are_joined(folder):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, own in halves.items():
        save_file({name: tensors[name] for name in own}, folder / file)
    index = {"weight_map": {name: file for file, own in halves.items() for name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert load(folder).vocabulary == 416


def test_memory_bounds_the_slots(folder):
    assert refusal(folder, memory_bytes=1_000_000) == "memory_short"
    roomy = load(folder, max_concurrency=8, max_context_tokens=512, memory_bytes=1 << 30)
    assert roomy.scheduler.slots == 8
    # one slot: 2 x 3 layers x 2 heads x 32 values x 4 bytes x 512 tokens
    weights = sum(t.numel() * 4 for t in load_file(folder / "model.safetensors").values())
    slot = 2 * 3 * 2 * 32 * 4 * 512
    fitting = load(
        folder, max_concurrency=8, max_context_tokens=512, memory_bytes=weights + slot * 11 // 2
    )
    assert fitting.scheduler.slots == 5


def test_the_context_is_the_smaller_of_spec_and_model(folder):
    assert load(folder, max_context_tokens=100).context == 100
    assert load(folder, max_context_tokens=100_000).context == 512


def test_auto_dtype_is_as_stored_where_that_can_be_computed():
    assert serving_dtype("auto", stored=torch.bfloat16, device="cpu") is torch.bfloat16
    assert serving_dtype("auto", stored=torch.float16, device="cpu") is torch.float32
    assert serving_dtype("auto", stored=torch.float16, device="cuda:0") is torch.float16
    assert serving_dtype("float32", stored=torch.bfloat16, device="cpu") is torch.float32
