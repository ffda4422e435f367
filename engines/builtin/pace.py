"""How much of the waiting prompts a step may read, so that answers being written flow on."""

SHORT_SECONDS = 0.1  # a step may last so long while others are writing
LONG_SECONDS = 0.6  # ... and so long where more than one is reading for CROWD who are writing
CROWD = 8
FEWEST, FIRST, MOST = 64, 512, 8192  # prompt tokens
WEIGHT = 0.3  # of the newest measurement


class Pace:
    """Learns from past steps what a prompt token costs, and grants as many as the time allows.

    A step that carries only new tokens of answers takes what it takes; prompts beside them may
    double that, or fill the step up to SHORT_SECONDS. Where prompts come in faster than that, half
    of the answers would end up waiting for theirs to be read, while steps run half empty: then a
    step may last LONG_SECONDS.
    """

    def __init__(self) -> None:
        self._ceiling = float(MOST)
        self._writing_seconds = 0.0  # a step without prompts
        self._token_seconds: float | None = None

    def budget(self, *, writing: int, reading: int) -> int:
        """Prompt tokens for a step of so many answers being written and prompts being read."""
        if self._token_seconds is None:
            return int(min(FIRST, self._ceiling))
        limit = LONG_SECONDS if CROWD * reading > writing else SHORT_SECONDS
        seconds = limit
        if writing:
            seconds = max(limit - self._writing_seconds, self._writing_seconds)
        return int(min(max(seconds / self._token_seconds, FEWEST), self._ceiling))

    def saw(self, *, writing: int, prompt_tokens: int, seconds: float) -> None:
        """A step has ended well."""
        self._ceiling = min(self._ceiling * 1.01, MOST)
        if not prompt_tokens:
            self._writing_seconds = _blend(self._writing_seconds or seconds, seconds)
        elif prompt_tokens >= FEWEST:
            own = max(seconds - (self._writing_seconds if writing else 0.0), seconds / 10)
            cost = own / prompt_tokens
            self._token_seconds = _blend(self._token_seconds or cost, cost)

    def fell_short(self, prompt_tokens: int) -> bool:
        """Memory ran out in a step with so many; whether fewer are worth a try."""
        if prompt_tokens <= FEWEST:
            return False
        self._ceiling = max(FEWEST, min(self._ceiling, prompt_tokens) / 2)
        return True


def _blend(old: float, new: float) -> float:
    return old + WEIGHT * (min(new, 4 * old) - old)  # one step held up by others teaches little
