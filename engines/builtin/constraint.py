"""Keeps answers to a grammar: which tokens may come next, by llguidance.

Grammars are compiled once and remembered; each answer follows a copy of its own. Compiling and
each step's work are bounded by the library's fuel, so that no schema can stop the others' answers:
past it, the one answer is refused.
"""

import re
import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from engines.builtin.text import Text
from engines.protocol.errors import ApiError, invalid

MOST_REMEMBERED = 64  # compiled grammars
LONGEST = 256 << 10  # characters of one; compiled it takes about ten times as much
LIMITS = LLParserLimits(
    initial_lexer_fuel=1_000_000,  # about 20 ms
    step_lexer_fuel=200_000,  # about 15 ms
    step_max_items=50_000,
    max_lexer_states=50_000,  # 1 to 2 kB each
    max_grammar_size=500_000,
    verbose_errors=False,
)


POSITION = re.compile(r"^at \d+\(\d+\): (failed to compile JSON schema: )?")


class Constraint:
    """One answer's way through a grammar. Owned by the scheduler's thread."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher

    def fill(self, words: NDArray[np.int32]) -> None:
        """Writes which tokens may come next, a bit each, into one row."""
        self._matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)

    def take(self, token: int) -> None:
        """Follows a token that was chosen."""
        self._matcher.consume_token(token)

    @property
    def is_complete(self) -> bool:
        """Nothing may follow."""
        return self._matcher.is_stopped() and not self._matcher.is_error()

    @property
    def failure(self) -> str:
        """Why it cannot be followed any further; empty while it can."""
        return self._matcher.get_error()


class Grammars:
    """Compiles grammars over one tokenizer. May be used from several threads."""

    def __init__(self, text: Text, *, vocabulary: int, eos_tokens: Sequence[int]) -> None:
        self._text = text
        self._vocabulary = vocabulary
        self._eos_tokens = list(eos_tokens)
        self._tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def constraint(self, grammar: str, *, param: str) -> Constraint:
        """Raises ApiError naming `param` if the grammar cannot be followed."""
        if len(grammar) > LONGEST:
            raise _refusal(param, f"it has more than {LONGEST} characters")
        with self._lock:
            known = self._compiled.get(grammar)
            if known is not None:
                self._compiled.move_to_end(grammar)
                return Constraint(known.deep_copy())
            tokenizer = self._tokenizer = self._tokenizer or self._read_tokenizer()
        compiled = LLMatcher(tokenizer, grammar, log_level=0, limits=LIMITS)
        if compiled.is_error():
            raise _refusal(param, compiled.get_error())
        with self._lock:
            self._compiled[grammar] = compiled
            while len(self._compiled) > MOST_REMEMBERED:
                self._compiled.popitem(last=False)
            return Constraint(compiled.deep_copy())

    def _read_tokenizer(self) -> LLTokenizer:
        """Takes about a second for a large vocabulary: only those who need it pay."""
        wrapped = TokenizerWrapper(_Vocabulary(self._text, self._vocabulary, self._eos_tokens))
        return LLTokenizer(wrapped, n_vocab=self._vocabulary, eos_token=self._eos_tokens)


class _Vocabulary:
    """What llguidance asks of a tokenizer. Tokens are the bytes that an answer shows for them."""

    bos_token_id = None

    def __init__(self, text: Text, size: int, eos_tokens: list[int]) -> None:
        self._text = text
        raw = [text.raw(token) for token in range(size)]
        self.eos_token_id = eos_tokens[0]
        self.special_token_ids = [token for token, each in enumerate(raw) if not each]
        self.tokens = [each or b"\xff[%d]" % token for token, each in enumerate(raw)]

    def __call__(self, text: str) -> list[int]:
        return self._text.encode_bare(text)


def _refusal(param: str, problem: str) -> ApiError:
    lines = problem.strip().splitlines() or ["it is too complex"]
    reason = POSITION.sub("", lines[0])
    return invalid(param, f"'{param}' cannot be followed: {reason}", code="invalid_schema")
