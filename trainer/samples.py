"""Sample answers: what the model under training says to a few fixed prompts, on the way.

Greedy, short and bounded in time, so that they show how answers change and cost next to nothing.
No random number is drawn: a run with samples has the losses of one without.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from trainer.model import Loaded
from trainer.spec import TrainSpec

MOST_PROMPTS = 8
FROM_DATA = 3  # prompts taken from the data where none are given
PROMPT_TOKENS = 512  # of a longer one the end is asked
ANSWER_TOKENS = 64
SECONDS = 10.0  # for all answers of one step together
TEXT_CHARACTERS = 600  # of prompt and answer as they are told
_LINES_LOOKED_AT = 200

Message = dict[str, Any]


class Sampler:
    """The prompts, ready to be asked any number of times."""

    def __init__(self, prompts: list[list[Message]], tokenizer: Any, *, device: str) -> None:
        self._tokenizer, self._device = tokenizer, device
        self._asked = [_said(prompt) for prompt in prompts]
        self._ids = [
            tokenizer.apply_chat_template(
                prompt, tokenize=True, add_generation_prompt=True, return_dict=False
            )[-PROMPT_TOKENS:]
            for prompt in prompts
        ]

    @classmethod
    def of(cls, spec: TrainSpec, tokenizer: Any) -> Sampler | None:
        """The prompts that were given, a line each; else some of the held-out lines, or of those
        trained on. None where no samples are wanted."""
        given = spec.hyperparameters
        if given.sample_every_steps is None:
            return None
        texts = [line.strip() for line in given.sample_prompts.splitlines() if line.strip()]
        prompts = [[{"role": "user", "content": text}] for text in texts[:MOST_PROMPTS]]
        if not prompts:
            prompts = _from_data(Path(spec.eval_path or spec.train_path))
        return cls(prompts, tokenizer, device=spec.device) if prompts else None

    def ask(self, loaded: Loaded, *, stopping: Callable[[], bool]) -> list[dict[str, str]]:
        """[{"prompt", "answer"}]; answers end early once the time is over or a stop is asked for."""
        until = time.monotonic() + SECONDS
        was_training = loaded.model.training
        loaded.model.eval()
        try:
            with torch.no_grad():
                return [
                    {"prompt": asked, "answer": self._answer(loaded, ids, until, stopping)}
                    for asked, ids in zip(self._asked, self._ids, strict=True)
                ]
        finally:
            loaded.model.train(was_training)

    def _answer(
        self, loaded: Loaded, ids: list[int], until: float, stopping: Callable[[], bool]
    ) -> str:
        """Token after token, each prompt's keys and values kept between them."""
        ends = _ends(loaded, self._tokenizer)
        given = torch.tensor([ids], device=self._device)
        cache: Any = None
        answer: list[int] = []
        while len(answer) < ANSWER_TOKENS and time.monotonic() < until and not stopping():
            seen = loaded.body(input_ids=given, past_key_values=cache, use_cache=True)
            cache = seen.past_key_values
            token = int(loaded.head(seen.last_hidden_state[0, -1]).argmax())
            if token in ends:
                break
            answer.append(token)
            given = torch.tensor([[token]], device=self._device)
        text: str = self._tokenizer.decode(answer, skip_special_tokens=True)
        return text[:TEXT_CHARACTERS]


def _ends(loaded: Loaded, tokenizer: Any) -> set[int]:
    """Tokens that end an answer: the tokenizer's, and those that the model itself names."""
    config = getattr(loaded.model, "generation_config", None)
    named = getattr(config, "eos_token_id", None)
    several = named if isinstance(named, list) else [named]
    return {token for token in (*several, tokenizer.eos_token_id) if token is not None}


def _from_data(path: Path) -> list[list[Message]]:
    """What comes before the answer, of lines spread over the beginning of the file."""
    found = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            if number == _LINES_LOOKED_AT:
                break
            row = json.loads(line) if line.strip() else {}
            messages = row.get("messages") or (row.get("input") or {}).get("messages") or []
            asked = [_plain(message) for message in _before_answer(messages)]
            if asked:
                found.append(asked)
    every = max(len(found) // FROM_DATA, 1)
    return found[::every][:FROM_DATA]


def _before_answer(messages: list[Message]) -> list[Message]:
    answers = [i for i, message in enumerate(messages) if message.get("role") == "assistant"]
    return messages[: answers[-1]] if answers else messages


def _plain(message: Message) -> Message:
    return {key: value for key, value in message.items() if key != "weight"}


def _said(prompt: list[Message]) -> str:
    """The last message, for people to read."""
    content = prompt[-1].get("content")
    return (content if isinstance(content, str) else json.dumps(content))[:TEXT_CHARACTERS]
