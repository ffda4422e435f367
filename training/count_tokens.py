"""A program that counts tokens: `python -m training.count_tokens FOLDER` with chat jsonl on stdin.

FOLDER holds the model's own `tokenizer.json` and `template.json` ({"template", "context"}). Each
line is rendered by the chat template as transformers' `apply_chat_template` does, then tokenized
without adding special tokens: the count that training sees. Prints one JSON object: `token_count`,
`longest_tokens`, `longest_line`, `histogram` ([upper bound, examples] pairs), or `error`.

A chat template is a program of somebody else, so it runs here: in jinja's sandbox, in a process of
its own without the platform's environment, with bounds on memory and time.
"""

import json
import resource
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from common.texts import storable
from training import chat_lines

MEMORY_BYTES = 6 * 2**30  # of address space; Qwen's vocabulary of 250 k takes under 1 GiB
AT_ONCE = 512
MESSAGE_CHARACTERS = 300  # of what a template says when it refuses


class Uncountable(Exception):
    """A line that the template refuses; the message names it."""


def main(folder: Path, lines: BinaryIO) -> dict[str, Any]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    given = json.loads((folder / "template.json").read_text(encoding="utf-8"))
    template = environment().from_string(given["template"])
    total = longest = longest_line = 0
    histogram: Counter[int] = Counter()
    rendered = render(lines, template, given["context"])
    while part := list(islice(rendered, AT_ONCE)):
        texts = [text for _, text in part]
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        for (number, _), encoding in zip(part, encodings, strict=True):
            count = len(encoding)
            total += count
            histogram[bucket(count)] += 1
            if count > longest:
                longest, longest_line = count, number
    return {
        "token_count": total,
        "longest_tokens": longest,
        "longest_line": longest_line,
        "histogram": sorted(histogram.items()),
    }


def render(
    lines: BinaryIO, template: jinja2.Template, context: dict[str, Any]
) -> Iterator[tuple[int, str]]:
    """Line numbers and texts of all examples; lines that are not good ones are passed over."""
    for number, raw in enumerate(lines, start=1):
        line = chat_lines.parse(raw)
        if line.problems:
            continue
        messages = [{k: v for k, v in m.items() if k != "weight"} for m in line.messages]
        try:
            text = template.render(messages=messages, add_generation_prompt=False, **context)
        except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError) as error:
            raise Uncountable(f"the chat template refuses line {number}: {said(error)}") from error
        yield number, text


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


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    try:
        answer = main(Path(sys.argv[1]), sys.stdin.buffer)
    except Uncountable as refused:
        answer = {"error": str(refused)}
    except jinja2.TemplateError as error:
        answer = {"error": f"the chat template cannot be read: {said(error)}"}
    sys.stdout.write(json.dumps(answer))
