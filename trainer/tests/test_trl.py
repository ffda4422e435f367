"""Our preference losses against TRL's trainers: same weights, same batches, step by step."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from trainer import reference
from trainer.data import TokenSet
from trainer.model import load_model
from trainer.objectives import Dpo, Kto, Objective
from trainer.optimizer import MasterAdamW
from trainer.tests.make import (
    label_rows,
    make_spec,
    make_tokenizer,
    preference_rows,
    write_rows,
)

BATCH, STEPS, RATE = 4, 4, 3e-3


def test_dpo_has_trls_losses(base: Path, tmp_path: Path) -> None:
    from trl import DPOConfig, DPOTrainer

    path = write_rows(tmp_path / "data.jsonl", preference_rows(BATCH * STEPS))
    objective = Dpo(256, beta=0.3)
    data = objective.read(path, make_tokenizer())
    rows = []
    for unit in range(data.units):
        chosen, rejected = (split(data, place) for place in (2 * unit, 2 * unit + 1))
        rows.append({"prompt_ids": chosen[0], "chosen_ids": chosen[1], "rejected_ids": rejected[1]})
    theirs = trl_losses(DPOTrainer, DPOConfig, base, tmp_path, rows, beta=0.3)
    assert our_losses(objective, data, base, tmp_path) == pytest.approx(theirs, abs=1e-4)
    assert theirs[0] == pytest.approx(0.693147, abs=1e-5)
    assert max(theirs) - min(theirs) > 0.01  # the losses move, so equality says something


def test_kto_has_trls_losses(base: Path, tmp_path: Path) -> None:
    from trl import KTOConfig, KTOTrainer

    path = write_rows(tmp_path / "data.jsonl", label_rows(BATCH * STEPS))
    objective = Kto(256, beta=0.3, weights=(1.0, 1.5))
    data = objective.read(path, make_tokenizer())
    rows = []
    for unit in range(data.units):
        prompt, answer = split(data, unit)
        giver = unit - 1 if unit % BATCH else unit + BATCH - 1
        rows.append(
            {
                "prompt_ids": prompt,
                "completion_ids": answer,
                "KL_completion_ids": split(data, giver)[1],
                "label": data.desirable[unit],
            }
        )
    theirs = trl_losses(KTOTrainer, KTOConfig, base, tmp_path, rows, beta=0.3, desirable_weight=1.5)
    assert our_losses(objective, data, base, tmp_path) == pytest.approx(theirs, abs=1e-4)
    assert max(theirs) - min(theirs) > 0.01


def split(data: TokenSet, place: int) -> tuple[list[int], list[int]]:
    """Prompt and answer of an example, less the layout after it, which is not learnt."""
    example = data.examples[place]
    begin, end = int(example.marks.argmax()), int(example.marks.nonzero()[0][-1]) + 1
    tokens = example.tokens.tolist()
    return tokens[:begin], tokens[begin:end]


def trl_losses(
    trainer: Any, config: Any, base: Path, folder: Path, rows: list[dict[str, Any]], **given: Any
) -> list[float]:
    from datasets import Dataset

    seen: list[float] = []

    class InOrder(trainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *rest: Any) -> Any:
            return dataset  # tokens already, the very ones that we train on

        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return torch.utils.data.SequentialSampler(dataset or self.train_dataset)

        def compute_loss(self, *arguments: Any, **named: Any) -> Any:
            loss = super().compute_loss(*arguments, **named)
            seen.append(loss.item())
            return loss

    arguments = config(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=BATCH,
        max_steps=STEPS,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        bf16=False,
        gradient_checkpointing=False,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        **given,
    )
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    InOrder(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=make_tokenizer(),
    ).train()
    return seen


def our_losses(objective: Objective, data: TokenSet, base: Path, folder: Path) -> list[float]:
    loaded = load_model(make_spec(folder, base=base))
    steps: list[Sequence[int]] = [range(i, i + BATCH) for i in range(0, BATCH * STEPS, BATCH)]
    data.unmatched = objective.unmatched(data, steps)
    reference.settle(
        folder / "checkpoints",
        [("train", data)],
        loaded=loaded,
        fingerprint="f",
        batch_size=BATCH,
        share=True,
        stopping=lambda: False,
    )
    optimizer = MasterAdamW(loaded.trained, weight_decay=0.0)
    losses = []
    for units in steps:
        work = objective.make(data, units, share=True)
        loss, _ = objective.loss(loaded, work, divisor=work.weight)
        loss.backward()
        optimizer.collect()
        optimizer.clip(1.0)
        optimizer.step(learning_rate=RATE)
        losses.append(loss.item())
    return losses
