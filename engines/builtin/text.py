"""Words to tokens and back: the chat template and the vocabulary of one model folder."""

import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jinja2
from transformers import AutoTokenizer

from engines.builtin.shape import token_set
from engines.process import CannotServe
from engines.protocol.errors import invalid, unsupported
from engines.protocol.requests import Sampling

Thought = Literal["none", "opened", "closed"]
PLAIN_CHARACTERS = 8  # a token: texts with more for each token that fits are counted first


class TooLong(Exception):
    """A text of more tokens than were allowed."""


class Text:
    """The tokenizer of a model. Encoding is safe from several threads."""

    def __init__(self, folder: str) -> None:
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError) as error:
            raise CannotServe("unreadable_tokenizer", f"{folder}: {error}") from None
        self._fast: Any = getattr(self._tokenizer, "backend_tokenizer", None)
        if self._fast is None or not _is_byte_level(self._fast.to_str()):
            raise CannotServe(
                "unsupported_tokenizer", f"{folder}: only byte-level BPE in tokenizer.json is read"
            )
        self._own = frozenset(inspect.signature(self._tokenizer.apply_chat_template).parameters)
        added = self._tokenizer.added_tokens_decoder
        special = {token for token, entry in added.items() if entry.special}
        self._special = special | set(self._tokenizer.all_special_ids)
        self._added = {token: str(entry).encode() for token, entry in added.items()}
        self._raw: dict[int, bytes] = {}
        self.eos_tokens = token_set(self._tokenizer.eos_token_id)
        template = self._tokenizer.chat_template or ""
        self.chat_template: str = template if isinstance(template, str) else str(template)

    def encode(self, text: str, *, most: int | None = None) -> list[int]:
        """Token ids of a plain prompt, with what the tokenizer puts around one.

        Raises TooLong where there are far more than `most`; a few more are not looked for.
        """
        self._check_length(text, most)
        ids: list[int] = self._fast.encode(text).ids
        return ids

    def encode_bare(self, text: str) -> list[int]:
        """Token ids of exactly this text."""
        ids: list[int] = self._fast.encode(text, add_special_tokens=False).ids
        return ids

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        arguments: Mapping[str, Any],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        most: int | None = None,
    ) -> list[int]:
        """Token ids of a conversation, ready for the assistant's turn. Raises ApiError, and TooLong
        as `encode`."""
        if not self._tokenizer.chat_template:
            raise unsupported(
                "messages", "This model has no chat template; use /v1/completions instead."
            )
        for name, value in arguments.items():
            if name in self._own or not isinstance(value, str | int | float | bool | None):
                param = f"chat_template_kwargs.{name}"
                raise unsupported(param, f"'{param}' cannot be set.")
        try:
            text = self._tokenizer.apply_chat_template(
                list(messages),
                tools=list(tools) if tools else None,
                tokenize=False,
                add_generation_prompt=True,
                **arguments,
            )
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, RecursionError) as error:
            raise invalid(
                "messages", f"The model's chat template refuses this conversation: {error}"
            ) from None
        self._check_length(text, most)
        return self.encode_bare(text)

    def _check_length(self, text: str, most: int | None) -> None:
        """A tokenizer takes hundreds of bytes and microseconds for every token it finds: of a text
        that may never fit, stretches are counted until they are too many."""
        if most is None or len(text) <= (stretch := PLAIN_CHARACTERS * (most + 1)):
            return
        found = 0
        for at in range(0, len(text), stretch):
            found += len(self._fast.encode(text[at : at + stretch], add_special_tokens=False))
            if found > 2 * most:  # where a text is cut there are a few more
                raise TooLong

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of a prompt; special tokens have none."""
        return b"".join(map(self.raw, tokens)).decode(errors="replace")

    def thought_before(self, prompt: Sequence[int]) -> Thought:
        """Whether a prompt ends with a thought that was opened, or with one that was closed."""
        end = b"".join(map(self.raw, prompt[-16:])).rstrip()
        if end.endswith(b"<think>"):
            return "opened"
        return "closed" if end.endswith(b"</think>") else "none"

    def raw(self, token: int) -> bytes:
        """The bytes a token stands for in an answer; none for special tokens."""
        return b"" if token in self._special else self.named(token)

    def named(self, token: int) -> bytes:
        """The bytes a token stands for, special ones by their names."""
        known = self._raw.get(token)
        if known is None:
            known = self._added.get(token)
            if known is None:
                spelled = self._fast.id_to_token(token) or ""  # ids may be padded past the end
                known = bytes(BYTE_OF[character] for character in spelled)
            self._raw[token] = known
        return known


def read_generation_defaults(folder: str) -> tuple[Sampling, frozenset[int]]:
    """What generation_config.json recommends: sampling, and the tokens that end an answer."""
    try:
        values = json.loads((Path(folder) / "generation_config.json").read_bytes())
    except FileNotFoundError:
        return Sampling(), frozenset()
    except (OSError, ValueError) as error:
        raise CannotServe(
            "unreadable_config", f"{folder}/generation_config.json: {error}"
        ) from None
    names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
    known = {name: values[name] for name in names if values.get(name) is not None}
    if values.get("do_sample") is False:
        known["temperature"] = 0.0
    return Sampling(**known), token_set(values.get("eos_token_id"))


def _is_byte_level(serialized: str) -> bool:
    decoder = json.loads(serialized).get("decoder") or {}
    parts = decoder.get("decoders", [decoder])
    return any(part.get("type") == "ByteLevel" for part in parts)


def _byte_of() -> dict[str, int]:
    """The inverse of GPT-2's spelling of bytes as printable characters."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    return table | {chr(256 + index): byte for index, byte in enumerate(others)}


BYTE_OF = _byte_of()
