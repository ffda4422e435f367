"""What a training run takes: memory, operations, steps, time. Pure; sources with each formula.

Memory is that of one training process. Time is a range: from speeds that were measured, or from an
accelerator's rate and the share of it that training has been seen to reach; or None.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from planner import memory
from planner.memory import TrainingMemory
from planner.shapes import DTYPE_BYTES, ModelShape

TUNINGS = ("full", "lora", "qlora")
# Answers of one example that are in a micro-batch at once.
ROWS = {"sft": 1, "dpo": 2, "kto": 1}
# Passes forward without gradients beside the one with them, in tokens of the data: the reference's
# view of every answer, and for KTO one more of mismatched answers.
EXTRA_FORWARDS = {"sft": 0, "dpo": 1, "kto": 2}

# Bits a weight in NF4 with double quantization: 4, and 0.127 for the constants (Dettmers and
# others 2023, section 3).
NF4_BITS = 4.127

# The share of its matrix rate that an accelerator reaches in training: at most about a half
# (PaLM reached 46.2 % with every effort: Chowdhery and others 2022, section 4.1); from a tenth on
# whatever is short or small.
UTILISATION = (0.1, 0.5)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run as far as planning needs it."""

    method: str = "sft"
    tuning: str = "lora"
    dtype: str = "bfloat16"
    batch_size: int = 8  # examples at once
    gradient_accumulation: int = 1
    max_length_tokens: int = 1024
    longest_tokens: int | None = None  # of the data; None: as long as allowed
    lora_rank: int = 16

    @property
    def longest(self) -> int:
        """Tokens of the longest example as it is trained on."""
        return min(self.longest_tokens or self.max_length_tokens, self.max_length_tokens)

    @property
    def batch_tokens(self) -> int:
        """Places in a micro-batch, padding included, at most."""
        return self.batch_size * ROWS[self.method] * self.longest


@dataclass(frozen=True)
class Span:
    """From `low` to `high`, both included; equal where it is known exactly."""

    low: float
    high: float

    def times(self, factor: float) -> "Span":
        return Span(self.low * factor, self.high * factor)


def memory_needed(
    shape: ModelShape, job: Job, *, overhead_bytes: int = memory.PROCESS_BYTES
) -> TrainingMemory:
    """The peak of one training process, by part. Raises ValueError for an unknown tuning.

    Weights: two bytes each in bfloat16; in QLoRA linear layers have NF4_BITS and the rest stays.
    For each trained parameter: AdamW's two float32 moments (Kingma and Ba 2015, algorithm 1), a
    float32 master where the weights are narrower (Micikevicius and others 2018, 3.1), and a
    gradient, kept in the weights' own width and, where that is narrower, summed in float32.
    Activations: those of `memory.activation_bytes_per_token` for the layers, without recomputation,
    the inputs of adapters among them, and one chunk of logits.
    """
    if job.tuning not in TUNINGS:
        raise ValueError(f"{job.tuning!r} is no tuning: use one of {', '.join(TUNINGS)}")
    width = DTYPE_BYTES[job.dtype]
    adapters = 0 if job.tuning == "full" else memory.lora_parameters(shape, rank=job.lora_rank)
    trained = adapters or shape.parameters
    narrow = width < 4
    per_token = memory.activation_bytes_per_token(shape, dtype=job.dtype)
    return TrainingMemory(
        weights_bytes=base_bytes(shape, job) + math.ceil(adapters * width),
        gradients_bytes=math.ceil(trained * (width + (4 if narrow else 0))),
        optimizer_bytes=trained * (12 if narrow else 8),
        activations_bytes=job.batch_tokens * per_token + memory.HEAD_BYTES,
        overhead_bytes=overhead_bytes,
    )


def base_bytes(shape: ModelShape, job: Job) -> int:
    """The base's weights as they lie in memory; embeddings and head are never quantized."""
    width = DTYPE_BYTES[job.dtype]
    if job.tuning != "qlora":
        return math.ceil(shape.parameters * width)
    linear = max(shape.parameters - 2 * shape.vocabulary * shape.hidden_size, 0)
    return math.ceil(linear * NF4_BITS / 8 + (shape.parameters - linear) * width)


def operations_per_token(shape: ModelShape, job: Job) -> int:
    """Floating-point operations for one token of the data, the head counted at every place.

    Forward 2 a parameter, back 4: 2 towards the inputs and 2 towards the weights (Kaplan and others
    2020, section 2.1). Where the base is frozen the last 2 are spent on adapters alone. Scores of
    causal attention: half of 4 x length x width forward, twice that back.
    """
    forward = 2 * shape.parameters
    adapters = 0 if job.tuning == "full" else memory.lora_parameters(shape, rank=job.lora_rank)
    both = 3 * forward if job.tuning == "full" else 2 * forward + 6 * adapters
    attended = 2 * job.longest * shape.full_attention_layers * _attention_width(shape)
    return both + 3 * attended + EXTRA_FORWARDS[job.method] * (forward + attended)


def _attention_width(shape: ModelShape) -> int:
    return shape.attention_heads * shape.head_dim


def count_steps(
    examples: int, *, epochs: float, examples_a_step: int, max_steps: int | None = None
) -> int:
    """Optimizer updates, as the trainer counts them without packing."""
    each = math.ceil(examples / examples_a_step)
    whole, part = divmod(epochs, 1)
    planned = int(whole) * each + math.ceil(each * part)
    return max(1, min(planned, max_steps or planned))


def speed_from_runs(speeds: Sequence[float]) -> Span | None:
    """Tokens a second that earlier runs had on the same kind of accelerators; None without any.

    One run alone says little of the next: it counts with a fifth either way.
    """
    known = [speed for speed in speeds if speed > 0]
    if not known:
        return None
    if len(known) == 1:
        return Span(known[0] * 0.8, known[0] * 1.2)
    return Span(min(known), max(known))


def speed_from_rate(shape: ModelShape, job: Job, *, bf16_flops: int | None) -> Span | None:
    """Tokens a second from the accelerator's matrix rate; None where that is not published."""
    if not bf16_flops or job.dtype != "bfloat16":
        return None
    most = bf16_flops / operations_per_token(shape, job)
    return Span(most * UTILISATION[0], most * UTILISATION[1])


def seconds_for(tokens: int, speed: Span | None, *, max_seconds: float | None) -> Span | None:
    """Training time alone; a bound on time is kept to. None where the speed is not known."""
    if speed is None:
        return None
    bound = max_seconds or math.inf
    return Span(min(tokens / speed.high, bound), min(tokens / speed.low, bound))
