"""Texts made comparable: what to look past, and where one word ends and the next begins."""

import unicodedata
from dataclasses import dataclass

import regex

# Scripts that are written without spaces between words: each character is a token of its own, as
# is usual for Chinese (sacrebleu's `zh`, the character-level ROUGE of Chinese summarization sets).
UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_UNSPACED = regex.compile(rf"[{UNSPACED}]")
_TOKENS = regex.compile(rf"[{UNSPACED}]|(?:(?![{UNSPACED}])[\p{{L}}\p{{M}}\p{{N}}])+")
_SPACES = regex.compile(r"\s+")


@dataclass(frozen=True, kw_only=True)
class Normal:
    """What makes no difference between two texts. White space around them never does."""

    ignore_case: bool = False
    ignore_whitespace: bool = False  # runs of it count as one space
    ignore_punctuation: bool = False  # marks and symbols of all scripts are left out
    ignore_width: bool = False  # compatibility forms: full-width letters and digits as half-width

    def of(self, text: str) -> str:
        if self.ignore_width:
            text = unicodedata.normalize("NFKC", text)
        if self.ignore_case:
            text = text.casefold()
        if self.ignore_punctuation:
            text = "".join(each for each in text if unicodedata.category(each)[0] not in "PS")
        if self.ignore_whitespace or self.ignore_punctuation:
            text = _SPACES.sub(" ", text)
        return text.strip()


def tokens(text: str) -> list[str]:
    """Lower-case words and numbers; of scripts without spaces, single characters."""
    return _TOKENS.findall(unicodedata.normalize("NFKC", text).casefold())


def is_unspaced(text: str) -> bool:
    """Whether there is anything of a script without spaces between words."""
    return _UNSPACED.search(text) is not None
