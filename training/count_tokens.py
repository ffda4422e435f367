"""A program that counts tokens: `python -m training.count_tokens FOLDER` with canonical lines on stdin.

FOLDER holds the model's own `tokenizer.json` and `template.json` ({"template", "context"}). Each
line is rendered by the chat template as transformers' `apply_chat_template` does, then tokenized
without adding special tokens: the count that training sees. A preference line is two texts, with
either answer; the longer one is its length. Prints one JSON object: `token_count`, `longest_tokens`, `longest_line`, `histogram`
([upper bound, examples] pairs), `over` ([tokens, examples longer than that] pairs), `kept` ([tokens,
all tokens if examples are cut to that] pairs), `longest` ([line, tokens] pairs), `preview` (the first example, rendered), or `error`.

A chat template is a program of somebody else, so it runs here: in jinja's sandbox, in processes of
their own without the platform's environment, with bounds on memory and time.
"""

import json
import multiprocessing
import os
import resource
import sys
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from heapq import nlargest
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import jinja2
import jinja2.ext
import numpy as np
import orjson
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from common.texts import storable
from trainer.conversations import as_rendered

MEMORY_BYTES = 6 * 2**30  # of address space; Qwen's vocabulary of 250 k takes under 1 GiB
AT_ONCE = 512  # lines
PIECE_BYTES = 2**20
SHARED_FROM_BYTES = 4 * 2**20  # less is counted before a second process has started
MESSAGE_CHARACTERS = 300  # of what a template says when it refuses
LONGEST_KEPT = 100
PREVIEW_CHARACTERS = 4000
LENGTHS = (256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)


class Uncountable(Exception):
    """A line that the template refuses; the message names it."""


@dataclass
class Counts:
    """Of some lines."""

    total: int = 0
    histogram: Counter[int] = field(default_factory=Counter)
    over: Counter[int] = field(default_factory=Counter)
    kept: Counter[int] = field(default_factory=Counter)
    longest: list[tuple[int, int]] = field(default_factory=list)  # (tokens, -line)

    @classmethod
    def of(cls, amounts: dict[int, int], texts: list[int]) -> "Counts":
        """From the tokens of each line's longest text, and those of all texts."""
        tokens = np.fromiter(amounts.values(), dtype=np.int64, count=len(amounts))
        every = np.array(texts, dtype=np.int64)
        counts = cls(total=int(every.sum()))
        for length in LENGTHS:
            counts.over[length] = int((tokens > length).sum())
            counts.kept[length] = int(np.minimum(every, length).sum())
        for value, lines in zip(*np.unique(tokens, return_counts=True), strict=True):
            counts.histogram[bucket(int(value))] += int(lines)
        longest = nlargest(LONGEST_KEPT, amounts.items(), key=lambda item: (item[1], -item[0]))
        counts.longest = [(amount, -line) for line, amount in longest]
        return counts

    def merge(self, other: "Counts") -> None:
        self.total += other.total
        self.histogram.update(other.histogram)
        self.over.update(other.over)
        self.kept.update(other.kept)
        self.longest = nlargest(LONGEST_KEPT, self.longest + other.longest)

    def as_json(self) -> dict[str, Any]:
        longest = [(-line, tokens) for tokens, line in self.longest]
        return {
            "token_count": self.total,
            "longest_tokens": longest[0][1] if longest else 0,
            "longest_line": longest[0][0] if longest else 0,
            "histogram": sorted(self.histogram.items()),
            "over": [(length, self.over[length]) for length in LENGTHS],
            "kept": [(length, self.kept[length]) for length in LENGTHS],
            "longest": longest,
        }


def main(folder: Path, lines: BinaryIO) -> dict[str, Any]:
    counts = Counts()
    size = os.fstat(lines.fileno()).st_size
    workers = min(8, len(os.sched_getaffinity(0))) if size >= SHARED_FROM_BYTES else 1
    prepare(folder)  # a template that cannot be read is told before any process starts
    for part in _counted(folder, lines, workers):
        counts.merge(part)
    return counts.as_json() | {"preview": _preview(lines)}


def _preview(lines: BinaryIO) -> str:
    """The first example as the model would see it, its beginning."""
    lines.seek(0)
    first = next((raw for raw in lines if raw.strip()), b"")
    text = next(rendered(1, first, _Model.template, _Model.context), "")
    return storable(text, limit=PREVIEW_CHARACTERS)


def _counted(folder: Path, lines: BinaryIO, workers: int) -> Iterator[Counts]:
    if workers < 2:
        for first, piece in pieces(lines):
            yield count(first, piece)
        return
    # Processes of their own kind: tokenizers has threads, which do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin, initargs=(folder,)
    ) as pool:
        waiting: deque[Future[Counts]] = deque()
        for first, piece in pieces(lines):
            waiting.append(pool.submit(count, first, piece))
            if len(waiting) > 3 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def pieces(lines: BinaryIO) -> Iterator[tuple[int, list[bytes]]]:
    """(number of the first line, lines) in order."""
    number = 1
    while part := lines.readlines(PIECE_BYTES):
        yield number, part
        number += len(part)


class _Model:
    """The one model of this process."""

    tokenizer: Tokenizer
    template: jinja2.Template
    context: dict[str, Any]


def _begin(folder: Path) -> None:
    bound_memory()
    prepare(folder)


def prepare(folder: Path) -> None:
    """Load tokenizer and template into this process."""
    _Model.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    _Model.tokenizer.no_padding()
    _Model.tokenizer.no_truncation()
    given = json.loads((folder / "template.json").read_text(encoding="utf-8"))
    _Model.template = environment().from_string(given["template"])
    _Model.context = given["context"]


def count(first: int, lines: list[bytes]) -> Counts:
    """Count some lines with the model of this process."""
    amounts: dict[int, int] = {}
    every: list[int] = []
    for begin in range(0, len(lines), AT_ONCE):
        numbers: list[int] = []
        texts: list[str] = []
        for number, raw in enumerate(lines[begin : begin + AT_ONCE], start=first + begin):
            for text in rendered(number, raw, _Model.template, _Model.context):
                numbers.append(number)
                texts.append(text)
        encodings = _Model.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        for number, encoding in zip(numbers, encodings, strict=True):
            amounts[number] = max(amounts.get(number, 0), len(encoding))
            every.append(len(encoding))
    return Counts.of(amounts, every)


def rendered(
    number: int, raw: bytes, template: jinja2.Template, context: dict[str, Any]
) -> Iterator[str]:
    """The texts that training would see of a canonical line; none of a blank one."""
    if not raw.strip():
        return
    for messages, tools in conversations(orjson.loads(raw)):
        try:
            yield template.render(
                messages=messages, tools=tools, add_generation_prompt=False, **context
            )
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError) as error:
            raise Uncountable(f"the chat template refuses line {number}: {said(error)}") from error


def conversations(row: dict[str, Any]) -> Iterator[tuple[list[dict[str, Any]], Any]]:
    """(messages, tools or None) as templates take them: one of a conversation, two of a preference."""
    if "input" in row:
        given = row["input"]
        for name in ("preferred_output", "non_preferred_output"):
            messages = [*given["messages"], *row[name]]
            yield [_as_rendered(message) for message in messages], given.get("tools")
    else:
        yield [_as_rendered(message) for message in row["messages"]], row.get("tools")


def _as_rendered(message: dict[str, Any]) -> dict[str, Any]:
    if len(message) == 2 and message["content"] is not None:
        return message  # as nearly all are
    return as_rendered(message)


def said(error: Exception) -> str:
    """The beginning of a message that the template may have written."""
    return storable(str(error), limit=MESSAGE_CHARACTERS)


def environment() -> ImmutableSandboxedEnvironment:
    """Jinja as transformers sets it up for chat templates."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        extensions=[jinja2.ext.loopcontrols],
    )
    made.filters["tojson"] = _to_json
    made.globals["raise_exception"] = _refuse
    made.globals["strftime_now"] = lambda form: datetime.now().astimezone().strftime(form)
    return made


def bucket(count: int) -> int:
    """The upper bound of a length's class: powers of two from 16."""
    return max(16, 1 << (count - 1).bit_length()) if count else 16


def _to_json(value: object, ensure_ascii: bool = False, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def bound_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


if __name__ == "__main__":
    bound_memory()
    try:
        answer = main(Path(sys.argv[1]), sys.stdin.buffer)
    except Uncountable as refused:
        answer = {"error": str(refused)}
    except jinja2.TemplateError as error:
        answer = {"error": f"the chat template cannot be read: {said(error)}"}
    sys.stdout.write(json.dumps(answer))
