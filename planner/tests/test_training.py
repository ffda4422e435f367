"""What a run takes: checked against what was measured of real trainers and against hand counts."""

import pytest

from planner import training
from planner.tests.test_memory import QWEN3_06B, QWEN25_7B
from planner.training import Job, Span

GB = 10**9


def test_full_tuning_takes_twenty_bytes_a_parameter_before_activations() -> None:
    """In bfloat16: weight 2, gradient 2 and its sum 4, master 4, moments 8. In float32 the weight
    is its own master, and the gradient its own sum: 4 + 4 + 8."""
    answer = training.memory_needed(QWEN3_06B, Job(tuning="full"))
    fixed = answer.weights_bytes + answer.gradients_bytes + answer.optimizer_bytes
    assert fixed == 20 * QWEN3_06B.parameters
    wide = training.memory_needed(QWEN3_06B, Job(tuning="full", dtype="float32"))
    assert wide.weights_bytes + wide.gradients_bytes + wide.optimizer_bytes == (
        16 * QWEN3_06B.parameters
    )


def test_lora_is_within_what_was_measured_of_a_loop_that_keeps_whole_logits() -> None:
    """Rank 16, two rows of 512: a plain PEFT loop peaked at 8.3 GB, of which logits of 1,024 x
    151,936 in bfloat16, in float32, their softmax and its gradient are about 2.2 GB."""
    answer = training.memory_needed(QWEN3_06B, Job(batch_size=2, max_length_tokens=512))
    logits = 1024 * QWEN3_06B.vocabulary * (2 + 3 * 4)
    assert 0.7 * 8.3 * GB < answer.total_bytes + logits < 1.05 * 8.3 * GB
    assert answer.optimizer_bytes == 12 * 10_092_544


def test_four_bit_weights_leave_embeddings_wide() -> None:
    """7.6 billion parameters, 1.09 of them in the two tables: 2.2 GB, and 3.4 GB of the others."""
    quantized = training.base_bytes(QWEN25_7B, Job(tuning="qlora"))
    assert 5.4 * GB < quantized < 5.7 * GB
    assert training.base_bytes(QWEN25_7B, Job(tuning="lora")) == 2 * QWEN25_7B.parameters


def test_activations_follow_the_batch_the_longest_example_and_the_method() -> None:
    def activations(**job: object) -> int:
        return training.memory_needed(QWEN3_06B, Job(**job)).activations_bytes  # type: ignore[arg-type]

    head = activations(batch_size=1, longest_tokens=1) - (
        activations(batch_size=2, longest_tokens=1) - activations(batch_size=1, longest_tokens=1)
    )
    one = activations(batch_size=1, max_length_tokens=512) - head
    assert activations(batch_size=4, max_length_tokens=512) - head == 4 * one
    assert activations(batch_size=1, longest_tokens=256) - head == one // 2
    assert activations(batch_size=1, max_length_tokens=512, method="dpo") - head == 2 * one


def test_an_unknown_tuning_is_refused() -> None:
    with pytest.raises(ValueError, match="full, lora, qlora"):
        training.memory_needed(QWEN3_06B, Job(tuning="half"))


def test_a_token_costs_six_operations_a_parameter_or_four_where_the_base_is_frozen() -> None:
    full = training.operations_per_token(QWEN3_06B, Job(tuning="full", longest_tokens=1))
    assert full == pytest.approx(6 * QWEN3_06B.parameters, rel=0.001)
    lora = training.operations_per_token(QWEN3_06B, Job(longest_tokens=1))
    assert lora == pytest.approx(4 * QWEN3_06B.parameters + 6 * 10_092_544, rel=0.001)
    kto = training.operations_per_token(QWEN3_06B, Job(longest_tokens=1, method="kto"))
    assert kto - lora == pytest.approx(4 * QWEN3_06B.parameters, rel=0.001)


def test_steps_are_counted_as_the_trainer_counts_them() -> None:
    assert training.count_steps(100, epochs=3, examples_a_step=16) == 21
    assert training.count_steps(100, epochs=0.5, examples_a_step=16) == 4
    assert training.count_steps(100, epochs=3, examples_a_step=16, max_steps=5) == 5
    assert training.count_steps(1, epochs=0.01, examples_a_step=16) == 1


def test_time_is_a_range_where_it_can_be_known_and_nothing_where_it_cannot() -> None:
    assert training.speed_from_runs([]) is None
    assert training.speed_from_runs([100.0]) == Span(80.0, 120.0)
    assert training.speed_from_runs([90.0, 120.0, 100.0]) == Span(90.0, 120.0)
    assert training.speed_from_rate(QWEN3_06B, Job(), bf16_flops=None) is None
    # 2 cores at 1.7e12 a second: at most about 700 tokens a second at rank 16 by the matrix rate
    speed = training.speed_from_rate(
        QWEN3_06B, Job(longest_tokens=512), bf16_flops=1_700_000_000_000
    )
    assert speed is not None
    assert 55 < speed.low < 75
    assert 275 < speed.high < 375
    assert training.seconds_for(1000, None, max_seconds=None) is None
    assert training.seconds_for(1000, Span(50, 100), max_seconds=None) == Span(10, 20)
    assert training.seconds_for(1000, Span(50, 100), max_seconds=15) == Span(10, 15)
