"""How surprised a model is by the expected answers."""

from dataclasses import dataclass
from typing import ClassVar

from training.metrics.kinds import OptionError


@dataclass(frozen=True, kw_only=True)
class Loss:
    """`loss`: over lines, the mean of each answer's cross-entropy a token (natural logarithm), the
    lower the better; `perplexity` is e to its power. Computed by the trainer's own forward pass
    from the served revision's weights, prompt tokens left out."""

    label: ClassVar[str] = "Loss and perplexity"
    name: str = "loss"
    max_length_tokens: int = 1024  # of prompt and answer together; a longer line is cut

    def check(self) -> None:
        if not 8 <= self.max_length_tokens <= 131_072:
            raise OptionError("max_length_tokens", "It is out of range.", "Give 8 to 131072.")
