"""How likely a model finds the expected answers, as a metric that is asked for."""

from dataclasses import dataclass
from typing import ClassVar

from training.metrics.scorer import OptionError

LOSS, PERPLEXITY, BITS = "loss", "perplexity", "bits_per_byte"
SCORES = (LOSS, PERPLEXITY, BITS)


@dataclass(frozen=True, kw_only=True)
class Perplexity:
    """How likely the model finds the expected answers: `loss` in nats a token, as training tells of
    held-out lines, `perplexity` (e to the loss) and `bits_per_byte` of the answers' text, which
    compares models with different tokenizers.

    The tokens are those that count in training: every answer of the conversation whose weight is not
    0. Less is better. Models are compared by the loss and the bits of each line.
    """

    label: ClassVar[str] = "Perplexity"
    name: str = PERPLEXITY

    def check(self) -> None:
        if self.name != PERPLEXITY:
            raise OptionError("name", "It has no other name.", "Leave it out.")
