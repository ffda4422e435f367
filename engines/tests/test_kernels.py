"""The compiled kernels against torch's own operations, and what happens where there are none."""

import threading
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from engines.builtin import engine as builtin
from engines.builtin import shape as shapes
from engines.builtin.blocks import BLOCK_TOKENS
from engines.builtin.cache import BlockCache
from engines.builtin.kernels import library
from engines.builtin.kernels.decoder import CompiledDecoder
from engines.builtin.kernels.packed import PackedProjection, packing
from engines.builtin.kernels.runner import CompiledRunner
from engines.builtin.lora import Adaptations, list_sites
from engines.builtin.model import Decoder
from engines.builtin.projection import Projection
from engines.builtin.runner import Runner, StepRunner, Work
from engines.builtin.weights import load_weights
from engines.process import CannotServe
from engines.protocol.requests import Request, Sampling
from engines.tests.make import make_model, make_spec
from native import build

CONTEXT = 256
SOURCES = Path(library.__file__).parent
MODELS: dict[str, dict[str, Any]] = {
    "qwen3": {"family": "qwen3", "tie_word_embeddings": True},
    "qwen3-wide-heads": {"family": "qwen3", "head_dim": 128, "attention_bias": True},
    "qwen2-one-key-head": {
        "family": "qwen2",
        "hidden_size": 256,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
    },
}


@pytest.fixture(scope="module")
def compiled():
    found = library.load()
    assert found is not None, "these tests need a C compiler, as the engine's speed does"
    return found


def random_rows(*size, seed):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed)).bfloat16()


@pytest.mark.parametrize(("outputs", "inputs"), [(416, 64), (96, 98), (33, 256), (1000, 384)])
@pytest.mark.parametrize("threads", [1, 2])
def test_products_are_linear_maps(compiled, outputs, inputs, threads):
    weight = random_rows(outputs, inputs, seed=1)
    bias = random_rows(outputs, seed=2)
    packed = PackedProjection(compiled, weight, bias, parts={"a": outputs}, threads=threads)
    assert torch.equal(packed.unpacked(), weight)
    for count in (1, 2, 3, 11, 12, 13, 32, 67):
        rows = random_rows(count, inputs, seed=count)
        exact = F.linear(rows.float(), weight.float(), bias.float())
        torch.testing.assert_close(packed(rows).float(), exact, rtol=8e-3, atol=1e-2)


def test_four_bits_are_near_and_the_same_for_one_row_and_many(compiled):
    weight = random_rows(100, 384, seed=3)
    packed = PackedProjection(compiled, weight, parts={"a": 100}, threads=2, bits=4)
    near = packed.unpacked().float()
    assert packed.total_bytes < weight.numel() * 2 * 0.36  # 4 padded panels of 32 for 100 outputs
    assert (near - weight).norm() / weight.norm() < 0.11  # what is best for normal values: 0.1
    rows = random_rows(30, 384, seed=4)
    exact = F.linear(rows.float(), near)
    torch.testing.assert_close(packed(rows).float(), exact, rtol=2e-2, atol=0.15)
    for index, row in enumerate(rows[:3]):
        torch.testing.assert_close(packed(row[None])[0].float(), exact[index], rtol=2e-2, atol=0.15)


def test_a_weight_that_is_zero_stays_zero_in_four_bits(compiled):
    weight = torch.zeros(40, 128, dtype=torch.bfloat16)
    weight[3, 5] = 1.5
    packed = PackedProjection(compiled, weight, parts={"a": 40}, threads=1, bits=4)
    assert torch.equal(packed.unpacked(), weight)


@pytest.fixture(scope="module", params=MODELS)
def folder(request, tmp_path_factory):
    return make_model(tmp_path_factory.mktemp(request.param), **MODELS[request.param])


class Pair:
    """One model twice, eager and compiled, each with a cache of its own and blocks in disorder."""

    def __init__(self, folder, compiled, *, dtype=torch.bfloat16, slots=4):
        shape = shapes.read_shape(shapes.read_config(str(folder)))
        self.weights = [
            load_weights(str(folder), shape, device="cpu", dtype=dtype, make=make)
            for make in (Projection, packing(compiled, threads=2, bits=16))
        ]
        self.caches = []
        for _ in self.weights:
            cache = BlockCache(
                shape,
                blocks=slots * CONTEXT // BLOCK_TOKENS,
                slots=slots,
                context=CONTEXT,
                device="cpu",
                dtype=dtype,
            )
            order = torch.randperm(
                slots * CONTEXT // BLOCK_TOKENS, generator=torch.Generator().manual_seed(5)
            )
            for slot, blocks in enumerate(order.view(slots, -1).tolist()):
                cache.place(slot, blocks)
            self.caches.append(cache)
        eager = Decoder(shape, self.weights[0], context=CONTEXT)
        packed = CompiledDecoder(compiled, shape, self.weights[1], context=CONTEXT, threads=2)
        self.sites = [list_sites(each) for each in self.weights]
        self.runners: list[StepRunner] = [
            Runner(eager, self.caches[0], Adaptations(self.sites[0])),
            CompiledRunner(packed, self.caches[1], Adaptations(self.sites[1])),
        ]

    def run(self, *work):
        return [runner.run(work).clone() for runner in self.runners]


def tokens(count, *, seed):
    dice = torch.Generator().manual_seed(seed)
    return torch.randint(3, 400, (count,), generator=dice).tolist()


STEPS = [
    [Work(0, 0, tokens(130, seed=1), True), Work(1, 0, tokens(7, seed=2), True)],
    [Work(0, 130, [9], True), Work(1, 7, [8], False), Work(2, 0, tokens(65, seed=3), False)],
    [Work(0, 131, [4], True), Work(2, 65, tokens(50, seed=4), True), Work(3, 0, [5, 6], True)],
    [Work(3, 2, [7], True), Work(0, 132, [3], True), Work(2, 115, [3], True)],
]


def test_a_step_as_the_eager_pass_computes_it(folder, compiled):
    """Singles, whole prompts, prompts in pieces and all of them mixed; both round to bfloat16, so
    each is compared with the same model in float32."""
    pair = Pair(folder, compiled)
    exact = Pair(folder, compiled, dtype=torch.float32).runners[0]
    for work in STEPS:
        eager, fast = pair.run(*work)
        right = exact.run(work)
        for row in range(len(right)):
            limit = 1.3 * (eager[row] - right[row]).norm() + 0.01 * right[row].norm()
            assert (fast[row] - right[row]).norm() < limit


LENGTHS = [3, 20, 33, 48, 64, 80, 97, 120]  # of eight prompts, read in pieces of 40


def pieces(slot, length):
    """What one sequence brings to each step: its prompt in pieces, then three tokens."""
    prompt = tokens(length, seed=10 + slot)
    cuts = [*range(0, length, 40), length]
    read = [Work(slot, start, prompt[start:end], end == length) for start, end in pairwise(cuts)]
    return [*read, *(Work(slot, length + more, [7 + more], True) for more in range(3))]


@pytest.mark.parametrize("together", [True, False], ids=["together", "alone"])
def test_eight_are_as_near_to_float32_as_the_eager_pass(folder, compiled, together):
    pair = Pair(folder, compiled, slots=8)
    exact = Pair(folder, compiled, dtype=torch.float32, slots=8).runners[0]
    each = [pieces(slot, length) for slot, length in enumerate(LENGTHS)]
    alone = [[work] for own in each for work in own]
    steps = [[w for w in step if w] for step in zip_longest(*each)] if together else alone
    errors = torch.zeros(2)
    for step in steps:
        work = sorted(step, key=lambda each: len(each.tokens) > 1)  # single tokens come first
        right = exact.run(work)
        errors += torch.stack([(each - right).square().sum() for each in pair.run(*work)])
    eager, fast = errors.sqrt().tolist()
    assert eager > 0
    assert fast < 1.3 * eager


class Shift:
    """Stands in for adapters: adds a known part of the inputs to the outputs."""

    active = True

    def __init__(self, projection):
        self.weight = random_rows(projection.outputs, projection.inputs, seed=9) * 0.1

    def add(self, rows, out):
        out += F.linear(rows, self.weight)


def test_adapters_take_part(folder, compiled):
    pair = Pair(folder, compiled)
    plain = pair.run(*STEPS[0])
    for sites in pair.sites:
        for site in sites:
            site.projection.adaptation = Shift(site.projection)
    eager, fast = pair.run(*STEPS[0])
    assert (eager - plain[0]).norm() > 0.1 * plain[0].norm()
    torch.testing.assert_close(fast, eager, rtol=0.1, atol=0.06 * float(eager.abs().max()))


def test_experts_take_part(tmp_path, compiled):
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=416, hidden_size=64, intermediate_size=96, moe_intermediate_size=32,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
        num_experts=4, num_experts_per_tok=2, decoder_sparse_step=2, max_position_embeddings=512,
        initializer_range=0.1,
    )  # fmt: skip
    Qwen3MoeForCausalLM(config).save_pretrained(tmp_path)
    pair = Pair(tmp_path, compiled)
    eager, fast = pair.run(*STEPS[0])
    torch.testing.assert_close(fast, eager, rtol=0.1, atol=0.03 * float(eager.abs().max()))


def generated(folder, **changes):
    """Twelve greedy tokens of one prompt through a whole engine, and what ran them."""
    done = threading.Event()
    spec = make_spec(model_path=str(folder), max_context_tokens=CONTEXT, **changes)
    engine = builtin.load(
        spec, publish=lambda news: done.set() if news[-1][1].finish_reason else None
    )
    thread = threading.Thread(target=engine.scheduler.run)
    thread.start()
    rules = Sampling(temperature=0.0, max_tokens=12, ignore_eos=True)
    request = Request(is_chat=False, model="tiny", prompts=[tokens(40, seed=6)], sampling=rules)
    answers, _ = engine.answers(request, ticket=None)
    engine.scheduler.submit(answers)
    assert done.wait(60)
    engine.scheduler.stop()
    thread.join(10)
    return answers[0].tokens[40:], engine.scheduler._runner


@pytest.fixture
def no_compiler(monkeypatch, tmp_path):
    monkeypatch.setattr(build, "COMPILER", str(tmp_path / "no-such-compiler"))
    library.load.cache_clear()
    yield
    library.load.cache_clear()


def test_without_a_compiler_torch_does_the_work(tiny_model, no_compiler, caplog):
    seen, runner = generated(tiny_model, dtype="bfloat16")
    assert isinstance(runner, Runner)
    assert len(seen) == 12
    assert "no compiled kernels" in caplog.text


def test_without_a_compiler_there_are_no_four_bit_weights(tiny_model, no_compiler):
    with pytest.raises(CannotServe) as caught:
        builtin.load(make_spec(model_path=str(tiny_model), dtype="int4"), publish=lambda news: None)
    assert caught.value.code == "unsupported_dtype"


@pytest.mark.parametrize("dtype", ["bfloat16", "int4"])
def test_an_engine_runs_on_the_kernels(tiny_model, dtype):
    seen, runner = generated(tiny_model, dtype=dtype)
    assert isinstance(runner, CompiledRunner)
    assert len(seen) == 12


def test_what_does_not_compile_or_computes_wrong_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "FLAGS", (*build.FLAGS, "-fno-such-flag"))
    with pytest.raises(build.CannotBuild):
        build.library_path(SOURCES, folder=tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(build, "CHECK", "import sys; sys.exit(1)")
    with pytest.raises(build.CannotBuild):
        build.library_path(SOURCES, folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_library_is_compiled_once_for_any_processor(tmp_path, monkeypatch, compiled):
    """The same sources for any 64-bit x86 or ARM: slower, and as right (checked when built)."""
    special = build.FLAGS
    plain = [flag for flag in special if not flag.startswith("-march")]
    monkeypatch.setattr(build, "FLAGS", plain)
    first = build.library_path(SOURCES, folder=tmp_path)
    written_at = first.stat().st_mtime_ns
    assert build.library_path(SOURCES, folder=tmp_path) == first
    assert first.stat().st_mtime_ns == written_at
    monkeypatch.setattr(build, "FLAGS", (*special, "-O1"))
    assert build.library_path(SOURCES, folder=tmp_path) != first
