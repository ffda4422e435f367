"""What a model makes of messages that it has not seen, by transformers and peft alone: the trainer's
own masks, losses and rewards have no part in it, and so cannot hide what is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

ANSWER_TOKENS = 72

Message = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """A conversation up to the answer, the right answer, and one that is not."""

    messages: list[Message]
    right: str
    wrong: str


@dataclass(frozen=True)
class Reading:
    """Natural logarithms of the probabilities of whole answers, in order; `said` holds the model's
    own, greedily, where it was to speak."""

    right: list[float]
    wrong: list[float]
    right_tokens: int
    said: list[str]

    @property
    def loss(self) -> float:
        """Mean cross entropy over the tokens of the right answers."""
        return -sum(self.right) / self.right_tokens


def read(
    base: Path, asked: Sequence[Asked], *, adapter: Path | None = None, speaks: bool = True
) -> Reading:
    tokenizer = AutoTokenizer.from_pretrained(base)
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, str(adapter))
    model.eval()
    prompts = [_tokens(tokenizer, _prompt(tokenizer, each.messages)) for each in asked]
    ends: list[int] = [tokenizer.eos_token_id]
    right = [_tokens(tokenizer, each.right) + ends for each in asked]
    wrong = [_tokens(tokenizer, each.wrong) + ends for each in asked]
    with torch.no_grad():
        return Reading(
            right=_log_probabilities(model, prompts, right),
            wrong=_log_probabilities(model, prompts, wrong),
            right_tokens=sum(map(len, right)),
            said=_answers(model, tokenizer, prompts) if speaks else [],
        )


def _prompt(tokenizer: Any, messages: list[Message]) -> str:
    text: str = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text


def _tokens(tokenizer: Any, text: str) -> list[int]:
    tokens: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return tokens


def _log_probabilities(
    model: Any, prompts: list[list[int]], answers: list[list[int]]
) -> list[float]:
    rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    predicted = model(input_ids=ids, attention_mask=mask).logits[:, :-1].log_softmax(-1)
    single = predicted.gather(2, ids[:, 1:, None])[:, :, 0]
    return [
        float(line[len(prompt) - 1 : len(row) - 1].sum())
        for line, prompt, row in zip(single, prompts, rows, strict=True)
    ]


def _answers(model: Any, tokenizer: Any, prompts: list[list[int]]) -> list[str]:
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(row)) + row for row in prompts])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts])
    made = model.generate(
        input_ids=ids, attention_mask=mask, max_new_tokens=ANSWER_TOKENS, do_sample=False
    )
    return [tokenizer.decode(row[longest:], skip_special_tokens=True) for row in made]
