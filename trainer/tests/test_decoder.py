"""Our forward pass against transformers' and PEFT's own, example by example."""

import copy
import subprocess
import sys
from typing import Any

import numpy as np
import peft
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from trainer import decoder, projection
from trainer.batches import make_batch
from trainer.data import Example
from trainer.decoder import Decoder
from trainer.kernels import library
from trainer.model import Loaded

LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
SHAPE = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def make_model(family: str, tuning: str, *, head_size: int = 32) -> Any:
    torch.manual_seed(5)
    if family == "qwen3":
        config = Qwen3Config(**SHAPE, head_dim=head_size, tie_word_embeddings=True)
        model: Any = Qwen3ForCausalLM(config)
    else:  # with a bias in queries, keys and values, and a head of its own
        model = Qwen2ForCausalLM(Qwen2Config(**SHAPE, tie_word_embeddings=False))
    for parameter in model.parameters():  # norms and biases at values that matter
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter, 0.7, 0.3)
    if tuning == "full":
        return model
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=LINEARS if tuning != "some" else ["k_proj", "up_proj"],
        use_rslora=tuning == "rslora",
        use_dora=tuning == "dora",
        modules_to_save=None,
    )
    model = peft.get_peft_model(model, config, autocast_adapter_dtype=False)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, 0.0, 0.1)
    return model


def loaded_from(model: Any) -> Loaded:
    whole = getattr(model, "base_model", model).model if hasattr(model, "peft_config") else model
    body = whole.model
    assert decoder.supports(body)
    return Loaded(model, body, whole.lm_head, [], Decoder(body))


def make_examples(
    lengths: tuple[int, ...] = (130, 17, 64, 33), *, beginning: int = 11
) -> list[Example]:
    chance = np.random.default_rng(3)
    first = chance.integers(0, 128, beginning)
    examples = []
    for length in lengths:
        tokens = np.concatenate([first, chance.integers(0, 128, length)]).astype(np.int32)
        marks = np.zeros(len(tokens), dtype=np.bool_)
        marks[beginning + 2 :] = chance.random(length - 2) < 0.6
        marks[-1] = True
        examples.append(Example(tokens, marks))
    return examples


def reference(model: Any, examples: list[Example]) -> tuple[float, dict[str, torch.Tensor]]:
    labels = sum(int(example.marks.sum()) for example in examples)
    model.zero_grad()
    total = 0.0
    for example in examples:
        ids = torch.from_numpy(example.tokens.astype("int64"))[None]
        wanted = ids.masked_fill(~torch.from_numpy(example.marks)[None], -100)
        loss = model(input_ids=ids, labels=wanted).loss * (int(example.marks.sum()) / labels)
        loss.backward()
        total += loss.item()
    return total, gradients(model)


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}


def ours(loaded: Loaded, examples: list[Example], *, share: bool) -> tuple[float, dict[str, Any]]:
    loaded.model.zero_grad()
    batch = make_batch(examples, share=share)
    assert (batch.shared > 0) == share
    loss = loaded.loss(batch, divisor=len(batch.targets))
    loss.backward()
    return loss.item(), gradients(loaded.model)


def distance(found: dict[str, torch.Tensor], exact: dict[str, torch.Tensor]) -> float:
    apart = sum(float((found[name].float() - exact[name]).square().sum()) for name in exact)
    size = sum(float(value.square().sum()) for value in exact.values())
    return float((apart / size) ** 0.5)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("tuning", ["full", "lora", "rslora", "dora", "some"])
@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_losses_and_gradients_are_those_of_the_modules(
    family: str, tuning: str, share: bool
) -> None:
    model, examples = make_model(family, tuning), make_examples()
    expected, exact = reference(model, examples)
    loss, found = ours(loaded_from(model), examples, share=share)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert found.keys() == exact.keys()
    for name, gradient in exact.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_compiled_kernels_are_as_exact_as_the_modules(
    family: str, tuning: str, share: bool
) -> None:
    """In bfloat16: no further from float32's gradients than transformers' own modules are."""
    assert library.load() is not None, "these tests need a C compiler, as the trainer's speed does"
    head_size = 64 if family == "qwen3" else 16
    model = make_model(family, tuning, head_size=head_size).bfloat16()
    examples = make_examples((250, 17, 96, 33, 2))  # more than one block of queries
    wide_loss, exact = reference(copy.deepcopy(model).float(), examples)
    _, theirs = reference(model, examples)
    loss, found = ours(loaded_from(model), examples, share=share)
    assert loss == pytest.approx(wide_loss, rel=2e-3)
    assert distance(found, exact) < 1.25 * distance(theirs, exact)


def test_without_a_compiler_torch_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, examples = make_model("qwen3", "lora").bfloat16(), make_examples()
    loaded = loaded_from(model)
    loss, found = ours(loaded, examples, share=True)
    monkeypatch.setattr(library, "load", lambda: None)
    plain, expected = ours(loaded, examples, share=True)
    assert loss == pytest.approx(plain, rel=2e-3)
    assert distance(found, {name: value.float() for name, value in expected.items()}) < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_documents_on_a_line_do_not_see_each_other(dtype: torch.dtype) -> None:
    loaded = loaded_from(make_model("qwen3", "full").to(dtype))
    examples = make_examples()
    together = loaded.hidden(make_batch(examples))
    alone = torch.cat([loaded.hidden(make_batch([example])) for example in examples])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    others = [examples[0], *make_examples((40, 90, 5), beginning=12)]
    labels = int(examples[0].marks.sum())
    again = loaded.hidden(make_batch(others))[:labels]
    torch.testing.assert_close(again, together[:labels], rtol=1e-5, atol=1e-5)


def test_layers_that_keep_nothing_give_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, examples = loaded_from(make_model("qwen3", "lora").bfloat16()), make_examples()
    loss, found = ours(loaded, examples, share=True)
    monkeypatch.setattr(decoder, "_free_bytes", lambda like: 1000)
    again, expected = ours(loaded, examples, share=True)
    assert again == loss
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient)


def test_adapters_may_be_switched_off_and_weights_replaced() -> None:
    model, examples = make_model("qwen2", "lora"), make_examples()
    loaded = loaded_from(model)
    with model.disable_adapter():
        expected, _ = plain_loss(model, examples)
        batch = make_batch(examples)
        assert float(loaded.loss(batch, divisor=len(batch.targets))) == pytest.approx(expected)
    model.double().float()  # the joined weights are views no more
    expected, exact = reference(model, examples)
    loss, found = ours(loaded, examples, share=False)
    assert loss == pytest.approx(expected, rel=1e-6)
    assert distance(found, exact) < 1e-5


def plain_loss(model: Any, examples: list[Example]) -> tuple[float, int]:
    total, labels = 0.0, 0
    with torch.no_grad():
        for example in examples:
            ids = torch.from_numpy(example.tokens.astype("int64"))
            logits = model(input_ids=ids[None]).logits[0, :-1]
            wanted = ids.masked_fill(~torch.from_numpy(example.marks), -100)[1:]
            total += float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
            labels += int(example.marks.sum())
    return total / labels, labels


def test_a_frozen_weight_gets_no_gradient_and_no_copy() -> None:
    model = make_model("qwen3", "lora")
    loaded = loaded_from(model)
    ours(loaded, make_examples(), share=False)
    frozen = [p for name, p in model.named_parameters() if "lora" not in name]
    assert all(parameter.grad is None for parameter in frozen)
    joined = loaded.decoder._layers[0].query_key_value
    parts = [linear.weight for linear in joined._linears or []]
    assert projection._are_views(parts, joined._weight)


def test_the_kernels_can_be_built_by_a_process_that_knows_no_torch() -> None:
    code = (
        "import pathlib, sys; from native import build;"
        "print(build.library_path(pathlib.Path('trainer/kernels'))); assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
