"""Checked against published shapes and against what was measured."""

import dataclasses

import pytest

from planner import memory, training
from planner.memory import GIB
from planner.shapes import ModelShape
from planner.training import Job

# From the models' config files. Weight bytes of the 27B: its safetensors index; of the others:
# parameters x 2. KV bytes a token in bfloat16, state bytes a sequence in float32.
QWEN3_06B = ModelShape(
    parameters=596_000_000,
    layers=28,
    full_attention_layers=28,
    hidden_size=1024,
    attention_heads=16,
    key_value_heads=8,
    head_dim=128,
    intermediate_size=3072,
    vocabulary=151_936,
)
QWEN25_7B = ModelShape(
    parameters=7_616_000_000,
    layers=28,
    full_attention_layers=28,
    hidden_size=3584,
    attention_heads=28,
    key_value_heads=4,
    head_dim=128,
    intermediate_size=18944,
    vocabulary=152_064,
)
QWEN35_27B = ModelShape(
    parameters=27_781_503_388,
    layers=64,
    full_attention_layers=16,
    hidden_size=5120,
    attention_heads=24,
    key_value_heads=4,
    head_dim=256,
    intermediate_size=17408,
    vocabulary=248_320,
    linear_value_heads=48,
    linear_key_heads=16,
    linear_key_head_dim=128,
    linear_value_head_dim=128,
    linear_conv_kernel=4,
)


@pytest.mark.parametrize(
    ("shape", "kv_bytes", "state_bytes", "weights_bytes"),
    [
        (QWEN3_06B, 114_688, 0, 1_192_000_000),
        (QWEN25_7B, 57_344, 0, 15_232_000_000),
        (QWEN35_27B, 65_536, 156_893_184, 55_563_006_776),
    ],
)
def test_cache_state_and_weights_are_as_published(
    shape: ModelShape, kv_bytes: int, state_bytes: int, weights_bytes: int
) -> None:
    assert memory.kv_bytes_per_token(shape) == kv_bytes
    assert memory.linear_state_bytes(shape) == state_bytes
    assert memory.weight_bytes(shape) == weights_bytes


def test_serving_adds_up_and_grows_with_context_and_concurrency() -> None:
    answer = memory.serving(QWEN35_27B, context_tokens=1000, concurrency=2, overhead_bytes=7)
    assert answer.cache_bytes == 2 * (1000 * 65_536 + 156_893_184)
    assert answer.total_bytes == 55_563_006_776 + answer.cache_bytes + 7
    narrow = memory.serving(
        QWEN35_27B, context_tokens=1000, concurrency=2, dtype="int4", cache_dtype="float8_e4m3"
    )
    assert narrow.weights_bytes * 4 == answer.weights_bytes
    assert narrow.cache_bytes == 2 * (1000 * 32_768 + 156_893_184)


def test_adapters_on_every_linear_layer_are_as_many_as_peft_makes() -> None:
    assert memory.lora_parameters(QWEN3_06B, rank=16) == 10_092_544  # peft counts 10.1 M


def test_a_shape_comes_from_a_revisions_facts() -> None:
    facts = {
        "layers": 28,
        "hidden_size": 1024,
        "attention_heads": 16,
        "key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": 3072,
        "vocabulary": 151_936,
    }
    shape = ModelShape.from_facts(parameter_count=596_000_000, dtype="bfloat16", facts=facts)
    assert shape == QWEN3_06B
    del facts["head_dim"], facts["key_value_heads"]
    shape = ModelShape.from_facts(parameter_count=596_000_000, dtype="U4", facts=facts)
    assert shape == dataclasses.replace(QWEN3_06B, head_dim=64, key_value_heads=16)
    assert ModelShape.from_facts(parameter_count=None, dtype="", facts=facts) is None
    assert ModelShape.from_facts(parameter_count=1, dtype="", facts={}) is None


def test_the_demos_size_fits_a_slot_of_a_small_machine() -> None:
    """A quarter of 12 GiB must hold a model of a few million parameters with its cache."""
    tiny = ModelShape(
        parameters=6_000_000,
        layers=6,
        full_attention_layers=6,
        hidden_size=256,
        attention_heads=4,
        key_value_heads=2,
        head_dim=64,
        intermediate_size=768,
        vocabulary=4096,
    )
    assert memory.serving(tiny, context_tokens=1024, concurrency=16).total_bytes < 3 * GIB
    job = Job(tuning="full", batch_size=16, max_length_tokens=512)
    assert training.memory_needed(tiny, job).total_bytes < 3 * GIB
