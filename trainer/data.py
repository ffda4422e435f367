"""Conversations -> tokens, with the tokens of trained answers marked.

An answer's span is found by rendering: the template's text up to the prompt for that answer must
be the beginning of its text up to and with the answer; what was added is the answer. Templates
that rewrite history (Qwen3 drops the thoughts of earlier turns) break that for a conversation as
a whole; such a conversation becomes one example an answer, each with the history that the model
will see when it has to give that answer.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.conversations import (
    Conversation,
    bad_line,
    read_conversations,
    read_labelled,
    read_pairs,
)
from trainer.errors import FailureReason, TrainingFailure

logger = logging.getLogger(__name__)

_TOKENIZE_AT_ONCE = 512
_NAMED_LINES = 10

Tokens = np.ndarray[Any, np.dtype[np.int32]]
Marks = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass(frozen=True)
class Example:
    """`tokens[i]` counts in the loss where `marks[i]`; the first token is never marked."""

    tokens: Tokens
    marks: Marks
    line: int = 0  # of the file that it came from, counted from 1; 0: of none


@dataclass
class TokenSet:
    """What is trained on, or held out. A unit, which counts as one in a batch, is `width` examples
    in a row: one, or a preferred answer and the other one."""

    examples: list[Example] = field(default_factory=list)
    width: int = 1
    desirable: list[bool] = field(default_factory=list)  # of each unit, where they are labelled
    truncated: int = 0  # units cut at the length limit and still of use
    dropped: int = 0  # units cut so early that nothing to learn was left
    # Filled before the first step by methods that compare with the model as it was then.
    unmatched: list[Example] = field(default_factory=list)
    reference: torch.Tensor | None = None  # [examples]
    unmatched_reference: torch.Tensor | None = None

    @property
    def units(self) -> int:
        return len(self.examples) // self.width

    @property
    def tokens(self) -> int:
        return sum(len(example.tokens) for example in self.examples)

    @property
    def lengths(self) -> list[int]:
        """Places that each unit takes in a batch padded to it."""
        sizes = [len(example.tokens) for example in self.examples]
        width = self.width
        return [width * max(sizes[i : i + width]) for i in range(0, len(sizes), width)]

    def examples_of(self, units: Sequence[int]) -> list[Example]:
        width = self.width
        return [self.examples[unit * width + place] for unit in units for place in range(width)]

    def fingerprint(self) -> str:
        """Equal for equal tokens, marks and labels in equal order."""
        digest = hashlib.sha256()
        for example in self.examples:
            digest.update(len(example.tokens).to_bytes(4, "little"))
            digest.update(example.tokens.tobytes())
            digest.update(example.marks.tobytes())
        digest.update(bytes(self.desirable))
        return digest.hexdigest()


@dataclass(frozen=True)
class _Rendered:
    line: int
    text: str
    spans: tuple[tuple[int, int], ...]  # of trained answers, in characters


@dataclass(frozen=True)
class _Unit:
    line: int
    parts: tuple[_Rendered, ...]
    desirable: bool | None = None


def tokenize_file(
    path: Path, tokenizer: Any, *, max_length_tokens: int, kind: str = "chat"
) -> TokenSet:
    """All of a jsonl file of `kind` chat, preference or label.

    Raises TrainingFailure(bad_data) with the line that is off.
    """
    result = TokenSet(width=2 if kind == "preference" else 1)
    dropped_lines: list[int] = []
    for unit, examples in _tokenize(_units(path, tokenizer, kind), tokenizer):
        kept = [
            Example(each.tokens[:max_length_tokens], each.marks[:max_length_tokens], unit.line)
            for each in examples
        ]
        if not all(each.marks.any() for each in kept):
            result.dropped += 1
            dropped_lines.append(unit.line)
            continue
        result.truncated += any(
            len(one.tokens) < len(whole.tokens) for one, whole in zip(kept, examples, strict=True)
        )
        result.examples += kept
        if unit.desirable is not None:
            result.desirable.append(unit.desirable)
    if dropped_lines:
        named = ", ".join(map(str, dropped_lines[:_NAMED_LINES]))
        logger.warning(
            "%s: %d examples have no answer within %d tokens and are left out (lines %s%s)",
            path.name,
            result.dropped,
            max_length_tokens,
            named,
            " ..." if result.dropped > _NAMED_LINES else "",
        )
    if not result.examples:
        raise TrainingFailure(
            FailureReason.BAD_DATA,
            f"{path.name} holds nothing to learn within {max_length_tokens} tokens",
            remedy="raise max_length_tokens, or shorten the prompts",
        )
    return result


def _units(path: Path, tokenizer: Any, kind: str) -> Iterator[_Unit]:
    match kind:
        case "preference":
            for pair in read_pairs(path):
                parts = tuple(_render(path, each, tokenizer)[0] for each in pair)
                yield _Unit(pair[0].line, parts)
        case "label":
            for conversation, desirable in read_labelled(path):
                parts = tuple(_render(path, conversation, tokenizer))
                yield _Unit(conversation.line, parts, desirable)
        case _:
            for conversation in read_conversations(path):
                for part in _render(path, conversation, tokenizer):
                    yield _Unit(part.line, (part,))


def _render(path: Path, conversation: Conversation, tokenizer: Any) -> list[_Rendered]:
    def render(count: int, *, prompt: bool) -> str:
        try:
            text = tokenizer.apply_chat_template(
                list(conversation.messages[:count]),
                tools=list(conversation.tools) if conversation.tools else None,
                tokenize=False,
                add_generation_prompt=prompt,
            )
        except Exception as error:  # templates are programs of others: they raise what they like
            raise bad_line(
                path,
                conversation.line,
                f"the chat template refuses it: {error}",
                remedy="check the order of roles",
            ) from error
        return str(text)

    turns: list[_Rendered] = []
    for index in conversation.trained:
        before, text = render(index, prompt=True), render(index + 1, prompt=False)
        if not text.startswith(before):
            raise bad_line(
                path,
                conversation.line,
                f"the chat template does not put message {index + 1} after its own prompt",
                remedy="use a template whose generation prompt begins the answer",
            )
        # What follows the end-of-turn token is layout that the model never has to produce.
        turns.append(_Rendered(conversation.line, text, ((len(before), len(text.rstrip())),)))
    whole = turns[-1].text
    if all(whole.startswith(turn.text) for turn in turns):
        spans = tuple(span for turn in turns for span in turn.spans)
        return [_Rendered(conversation.line, whole, spans)]
    return turns


def _tokenize(units: Iterable[_Unit], tokenizer: Any) -> Iterator[tuple[_Unit, list[Example]]]:
    iterator = iter(units)
    while chunk := list(islice(iterator, _TOKENIZE_AT_ONCE)):
        encoded = tokenizer(
            [part.text for unit in chunk for part in unit.parts],
            add_special_tokens=False,  # the template writes them itself
            return_offsets_mapping=True,
            return_attention_mask=False,
        )
        each = zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        for unit in chunk:
            yield unit, [_example(part, *next(each)) for part in unit.parts]


def _example(part: _Rendered, tokens: list[int], offsets: list[tuple[int, int]]) -> Example:
    starts = np.fromiter((start for start, _ in offsets), dtype=np.int64, count=len(tokens))
    marks = np.zeros(len(tokens), dtype=np.bool_)
    for begin, end in part.spans:
        marks |= (starts >= begin) & (starts < end)
    marks[:1] = False  # nothing comes before it that could predict it
    return Example(np.asarray(tokens, dtype=np.int32), marks)
