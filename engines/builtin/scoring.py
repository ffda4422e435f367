"""How likely a model finds the tokens of a prompt, read off the logits of a step."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engines.builtin.answer import Answer
from engines.builtin.runner import Work
from engines.builtin.sampling import Chosen, choose, explain

TOKENS_A_STEP = 128  # of prompts that are scored: 78 MB of logits with Qwen's 151,936 tokens
ROWS_AT_ONCE = 32  # whose log-probabilities exist together


@dataclass(frozen=True, slots=True)
class Told:
    """What a step says of one piece of work."""

    chosen: Chosen | None = None  # the token that follows, where one was wanted
    scored: Sequence[Chosen] = ()  # the prompt's own tokens, from the one after the work's first


def tell(logits: torch.Tensor, planned: Sequence[tuple[Answer, Work]]) -> list[Told]:
    """One for each piece of work. The logits are used up, the tokens drawn: call it once a step."""
    if not any(work.scores for _, work in planned):
        wanting = [answer.sampler for answer, work in planned if work.wants_logits]
        tokens = iter(choose(logits, wanting) if wanting else [])
        return [Told(next(tokens)) if work.wants_logits else Told() for _, work in planned]
    scores: list[Sequence[Chosen]] = []
    last: list[int] = []
    first = 0
    for answer, work in planned:
        end = first + work.rows
        scores.append(_score(logits[first:end], answer, work) if work.scores else ())
        if work.wants_logits:
            last.append(end - 1)
        first = end
    samplers = [answer.sampler for answer, work in planned if work.wants_logits]
    tokens = iter(choose(logits[last], samplers) if samplers else [])
    return [
        Told(next(tokens) if work.wants_logits else None, scored)
        for (_, work), scored in zip(planned, scores, strict=True)
    ]


def _score(logits: torch.Tensor, answer: Answer, work: Work) -> list[Chosen]:
    following = answer.prompt_after(work.start, len(work.tokens))
    count = answer.prompt_logprobs or 0
    found: list[Chosen] = []
    with torch.inference_mode():
        for start in range(0, len(following), ROWS_AT_ONCE):
            tokens = following[start : start + ROWS_AT_ONCE]
            raw = torch.log_softmax(logits[start : start + len(tokens)].float(), dim=-1)
            found += explain(raw, tokens, [count] * len(tokens))
    return found
