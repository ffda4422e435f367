"""Our losses and gradients against transformers' own."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from trainer import head
from trainer.batches import make_batch
from trainer.data import Example, tokenize_file
from trainer.model import Loaded, can_share, load_model, load_tokenizer
from trainer.tests.make import make_spec


@pytest.fixture
def examples(base: Path, tmp_path: Path) -> list[Example]:
    spec = make_spec(tmp_path, base=base, rows=12)
    data = tokenize_file(Path(spec.train_path), load_tokenizer(spec), max_length_tokens=128)
    assert len(set(data.lengths)) > 3  # rows of many lengths, so padding is at stake
    return data.examples


@pytest.fixture
def loaded(base: Path, tmp_path: Path) -> Loaded:
    return load_model(make_spec(tmp_path, base=base))


def reference(base: Path, examples: list[Example]) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients by transformers, each example alone, averaged over labels."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    labels = sum(int(example.marks.sum()) for example in examples)
    total = 0.0
    for example in examples:
        ids = torch.from_numpy(example.tokens.astype("int64"))[None]
        wanted = ids.masked_fill(~torch.from_numpy(example.marks)[None], -100)
        loss = model(input_ids=ids, labels=wanted).loss * (int(example.marks.sum()) / labels)
        loss.backward()
        total += loss.item()
    return total, {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("chunk", [16 * 1024 * 1024, 512 * 7])
def test_a_batch_has_the_loss_and_gradients_of_its_examples_one_by_one(
    base: Path,
    loaded: Loaded,
    examples: list[Example],
    chunk: int,
    share: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(head, "CHUNK_ELEMENTS", chunk)  # the second: 7 positions at a time
    assert can_share(loaded)
    batch = make_batch(examples, share=share)
    assert (batch.shared > 8) == share  # they begin alike
    loss = loaded.loss(batch, divisor=len(batch.targets))
    loss.backward()
    expected, gradients = reference(base, examples)
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    for name, parameter in loaded.trained:
        torch.testing.assert_close(parameter.grad, gradients[name], atol=1e-6, rtol=1e-4)


def test_accumulated_micro_batches_equal_one_batch(loaded: Loaded, examples: list[Example]) -> None:
    whole = make_batch(examples)
    parts = [make_batch(examples[i : i + 5]) for i in range(0, len(examples), 5)]
    labels = len(whole.targets)
    with torch.no_grad():
        split = sum(loaded.loss(part, divisor=labels).item() for part in parts)
        assert split == pytest.approx(loaded.loss(whole, divisor=labels).item(), abs=1e-6)


def test_the_loss_in_bfloat16_is_near_the_one_in_float32(
    base: Path, loaded: Loaded, examples: list[Example], tmp_path: Path
) -> None:
    half = load_model(make_spec(tmp_path, base=base, dtype="bfloat16"))
    batch = make_batch(examples)
    with torch.no_grad():
        exact = loaded.loss(batch, divisor=len(batch.targets)).item()
        assert half.loss(batch, divisor=len(batch.targets)).item() == pytest.approx(exact, rel=5e-3)


def test_only_what_all_rows_begin_with_is_shared(examples: list[Example]) -> None:
    assert make_batch(examples[:1], share=True).shared == 0
    other = Example(examples[0].tokens.copy(), examples[0].marks)
    other.tokens[0] += 1
    assert make_batch([examples[0], other], share=True).shared == 0
    same = make_batch([examples[0], examples[0]], share=True)
    assert same.shared == int(examples[0].marks.argmax()) - 1
