"""Model folders that cannot be served are refused with a code and a reason."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from engines.builtin import engine as builtin
from engines.builtin.modules_runner import ModulesRunner
from engines.builtin.shape import serving_dtype
from engines.process import CannotServe
from engines.tests.make import make_model, make_spec
from engines.tests.make_families import make_family


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
        {"model_type": "gemma2", "architectures": ["Gemma2ForCausalLM"]},
        {"architectures": ["Qwen3ForSequenceClassification"]},
        {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
        {"layer_types": ["sliding_attention"] * 3, "use_sliding_window": True},  # how wide?
    ],
)
def test_what_no_forward_pass_knows(folder, changes):
    change_config(folder, **changes)
    assert refusal(folder) == "unsupported_architecture"


def test_rotary_kinds_that_change_with_the_batch(tmp_path):
    folder = make_family(tmp_path, "llama")
    change_config(
        folder, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    )
    assert refusal(folder) == "unsupported_architecture"


def test_quantized_weights_are_refused_with_the_engines_that_read_them(folder):
    change_config(folder, quantization_config={"quant_method": "awq"})
    with pytest.raises(CannotServe, match=r"awq.*vllm") as caught:
        load(folder)
    assert caught.value.code == "unsupported_quantization"


def test_modules_take_what_our_forward_pass_does_not_know(folder):
    change_config(folder, hidden_act="gelu")
    assert isinstance(load(folder).scheduler._runner, ModulesRunner)


def test_modules_make_up_no_tensor(tmp_path):
    folder = make_family(tmp_path, "qwen3_next")
    tensors = load_file(folder / "model.safetensors")
    norm = tensors.pop("model.norm.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert refusal(folder) == "unreadable_weights"
    save_file(
        tensors | {"model.norm.weight": norm[:5]},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    assert refusal(folder) == "unreadable_weights"


def test_an_adapter_beside_the_weights_is_not_loaded_unasked(tmp_path):
    folder = make_family(tmp_path, "llama")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
    assert refusal(folder) == "unreadable_weights"


def test_a_decoder_saved_without_its_head(tmp_path):
    """As embedding models are: no "model." before the names, and the head is the embedding."""
    folder = make_model(tmp_path, tie_word_embeddings=True)
    tensors = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    save_file(bare, folder / "model.safetensors")
    assert load(folder).vocabulary == 416


def test_memory_bounds_what_modules_keep(tmp_path):
    """Attention layers take room by the token, linear ones by the sequence."""
    folder = make_family(tmp_path, "qwen3_next")
    weights = sum(each.nbytes for each in load_file(folder / "model.safetensors").values())
    keys_and_values = 2 * 2 * 16 * 4 * 512  # one layer of 2 heads x 16, float32, 512 tokens
    states = (
        3 * (4 * 16 * 16 + 4 * (4 * 16 + 2 * 2 * 16)) * 4
    )  # recurrent, and 4 inputs of the convolution
    need = keys_and_values + states
    tight = load(
        folder, max_concurrency=8, max_context_tokens=512, memory_bytes=weights + need * 7 // 2
    )
    assert tight.scheduler.slots == 3
    assert refusal(folder, memory_bytes=weights + need // 2) == "memory_short"


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


def blocks_of(engine):
    return engine.scheduler._blocks.count


def test_memory_bounds_the_cache(folder):
    assert refusal(folder, memory_bytes=1_000_000) == "memory_short"
    roomy = load(folder, max_concurrency=8, max_context_tokens=512, memory_bytes=1 << 30)
    assert blocks_of(roomy) == 8 * 512 // 32  # a whole context for each; more would lie idle
    # one context: 2 x 3 layers x 2 heads x 32 values x 4 bytes x 512 tokens
    weights = sum(t.numel() * 4 for t in load_file(folder / "model.safetensors").values())
    whole = 2 * 3 * 2 * 32 * 4 * 512
    fitting = load(
        folder, max_concurrency=8, max_context_tokens=512, memory_bytes=weights + whole * 11 // 2
    )
    assert 5 * 512 // 32 < blocks_of(fitting) <= 11 * 512 // 32 // 2
    assert fitting.scheduler.slots == 8  # whoever is short does not pay for whoever is long


def test_the_context_is_the_smaller_of_spec_and_model(folder):
    assert load(folder, max_context_tokens=100).context == 100
    assert load(folder, max_context_tokens=100_000).context == 512


def test_auto_dtype_is_as_stored_where_that_can_be_computed():
    assert serving_dtype("auto", stored=torch.bfloat16, device="cpu") is torch.bfloat16
    assert serving_dtype("auto", stored=torch.float16, device="cpu") is torch.float32
    assert serving_dtype("auto", stored=torch.float16, device="cuda:0") is torch.float16
    assert serving_dtype("float32", stored=torch.bfloat16, device="cpu") is torch.float32
