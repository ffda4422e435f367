"""How much of the expected text is in an answer, by kept libraries: ROUGE, BLEU, chrF.

The libraries are imported by the first text that is scored: with them come nltk, scikit-learn and
pandas, 170 MiB that web processes, gateways among them, would hold for nothing.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

from training.metrics import texts
from training.metrics.scorer import OptionError

if TYPE_CHECKING:
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

MAX_OVERLAP_CHARACTERS = 20_000  # of each text
MAX_ROUGE_TOKENS = 1000  # likewise: the longest common subsequence takes their product


@dataclass(frozen=True, kw_only=True)
class Rouge:
    """F1 of ROUGE-1, ROUGE-2 and ROUGE-L (rouge-score's), 0 to 1, as `<name>_1`, `_2`, `_l`.

    Words are lower-cased runs of letters and digits; of Chinese and other scripts without spaces
    each character is a token. No stemming.
    """

    label: ClassVar[str] = "ROUGE"
    name: str = "rouge"

    def check(self) -> None:
        pass

    def score(self, expected: str, answer: str) -> dict[str, float]:
        found = _rouge().score(_cut(expected), _cut(answer))
        names = {"rouge1": "1", "rouge2": "2", "rougeL": "l"}
        return {f"{self.name}_{end}": float(found[key].fmeasure) for key, end in names.items()}


@dataclass(frozen=True, kw_only=True)
class Bleu:
    """Sentence BLEU with effective order (sacrebleu's), 0 to 1.

    `tokenize` is sacrebleu's: "13a" for languages with spaces, "zh" for Chinese (each Chinese
    character a token, the rest as 13a), "char", "intl". "auto" takes zh where the expected answer
    has any character of a script without spaces, else 13a.
    """

    label: ClassVar[str] = "BLEU"
    TOKENIZERS: ClassVar[tuple[str, ...]] = ("auto", "13a", "zh", "char", "intl", "none")
    name: str = "bleu"
    tokenize: str = "auto"
    ignore_case: bool = False

    def check(self) -> None:
        if self.tokenize not in self.TOKENIZERS:
            raise OptionError(
                "tokenize",
                f"There is no tokenizer {self.tokenize!r}.",
                f"Use one of {', '.join(self.TOKENIZERS)}.",
            )

    def score(self, expected: str, answer: str) -> dict[str, float]:
        way = self.tokenize
        if way == "auto":
            way = "zh" if texts.is_unspaced(expected) else "13a"
        found = _bleu(way, self.ignore_case).sentence_score(_cut(answer), [_cut(expected)])
        return {self.name: found.score / 100}


@dataclass(frozen=True, kw_only=True)
class Chrf:
    """chrF of one answer (sacrebleu's), 0 to 1: character 6-grams, whatever the language. With
    `word_order` 2 it is chrF++."""

    label: ClassVar[str] = "chrF"
    name: str = "chrf"
    word_order: int = 0
    ignore_case: bool = False

    def check(self) -> None:
        if not 0 <= self.word_order <= 4:
            raise OptionError("word_order", "It is out of range.", "Give 0 (chrF) to 4.")

    def score(self, expected: str, answer: str) -> dict[str, float]:
        scorer = _chrf(self.word_order, self.ignore_case)
        return {self.name: scorer.sentence_score(_cut(answer), [_cut(expected)]).score / 100}


def _cut(text: str) -> str:
    return text[:MAX_OVERLAP_CHARACTERS]


class _Tokenizer:
    """As rouge-score asks for tokens."""

    def tokenize(self, text: str) -> list[str]:
        return texts.tokens(text)[:MAX_ROUGE_TOKENS]


@lru_cache(maxsize=1)
def _rouge() -> "RougeScorer":
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL"], tokenizer=_Tokenizer())


@lru_cache(maxsize=16)
def _bleu(tokenize: str, ignore_case: bool) -> "BLEU":
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(tokenize=tokenize, lowercase=ignore_case, effective_order=True)


@lru_cache(maxsize=16)
def _chrf(word_order: int, ignore_case: bool) -> "CHRF":
    from sacrebleu.metrics.chrf import CHRF

    return CHRF(word_order=word_order, lowercase=ignore_case)
