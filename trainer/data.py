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
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from trainer.conversations import Conversation, bad_line, read_conversations
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


@dataclass
class TokenSet:
    examples: list[Example] = field(default_factory=list)
    truncated: int = 0  # cut at the length limit and still of use
    dropped: int = 0  # cut so early that nothing to learn was left

    @property
    def tokens(self) -> int:
        return sum(len(example.tokens) for example in self.examples)

    @property
    def lengths(self) -> list[int]:
        return [len(example.tokens) for example in self.examples]

    def fingerprint(self) -> str:
        """Equal for equal tokens and marks in equal order."""
        digest = hashlib.sha256()
        for example in self.examples:
            digest.update(len(example.tokens).to_bytes(4, "little"))
            digest.update(example.tokens.tobytes())
            digest.update(example.marks.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class _Rendered:
    line: int
    text: str
    spans: tuple[tuple[int, int], ...]  # of trained answers, in characters


def tokenize_file(path: Path, tokenizer: Any, *, max_length_tokens: int) -> TokenSet:
    """All of a jsonl file; raises TrainingFailure(bad_data) with the line that is off."""
    rendered = (
        part
        for conversation in read_conversations(path)
        for part in _render(path, conversation, tokenizer)
    )
    result = TokenSet()
    dropped_lines: list[int] = []
    for line, example in _tokenize(rendered, tokenizer):
        kept = Example(example.tokens[:max_length_tokens], example.marks[:max_length_tokens])
        if not kept.marks.any():
            result.dropped += 1
            dropped_lines.append(line)
            continue
        result.truncated += len(kept.tokens) < len(example.tokens)
        result.examples.append(kept)
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


def _tokenize(rendered: Iterable[_Rendered], tokenizer: Any) -> Iterator[tuple[int, Example]]:
    iterator = iter(rendered)
    while part := list(islice(iterator, _TOKENIZE_AT_ONCE)):
        encoded = tokenizer(
            [item.text for item in part],
            add_special_tokens=False,  # the template writes them itself
            return_offsets_mapping=True,
            return_attention_mask=False,
        )
        for item, tokens, offsets in zip(
            part, encoded["input_ids"], encoded["offset_mapping"], strict=True
        ):
            starts = np.fromiter((start for start, _ in offsets), dtype=np.int64, count=len(tokens))
            marks = np.zeros(len(tokens), dtype=np.bool_)
            for begin, end in item.spans:
                marks |= (starts >= begin) & (starts < end)
            marks[:1] = False  # nothing comes before it that could predict it
            yield item.line, Example(np.asarray(tokens, dtype=np.int32), marks)
