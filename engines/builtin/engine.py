"""The built-in engine put together from one serve spec."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from engines.builtin.answer import Answer
from engines.builtin.cache import SlotCache
from engines.builtin.lora import Adaptations, Adapter, list_sites
from engines.builtin.lora_files import read_adapter
from engines.builtin.memory import is_out_of_memory, slots_that_fit
from engines.builtin.model import Decoder
from engines.builtin.runner import Runner
from engines.builtin.scheduler import News, Scheduler
from engines.builtin.shape import read_shape, serving_dtype
from engines.builtin.text import Text, read_generation_defaults
from engines.builtin.weights import load_weights
from engines.host import ServeSpec
from engines.process import CannotServe
from engines.protocol.errors import context_length_exceeded, invalid
from engines.protocol.requests import Request, Sampling

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Engine:
    """Everything loaded. `answers` may be called from several threads at once."""

    text: Text
    scheduler: Scheduler
    defaults: Sampling
    eos_tokens: frozenset[int]
    context: int  # tokens of prompt and answer together
    vocabulary: int
    fingerprint: str
    read_adapter: Callable[[Path], Adapter]  # raises ApiError; may be called from any thread

    def answers(
        self, request: Request, *, ticket: object, adapter: Adapter | None = None
    ) -> tuple[list[Answer], int]:
        """The choices a request asks for, ready to submit, and its prompts' tokens.

        Raises ApiError if a prompt does not fit or cannot be read.
        """
        rules = request.sampling
        for token in rules.logit_bias:
            if token >= self.vocabulary:
                raise invalid("logit_bias", f"'logit_bias' has {token}, which is no token id.")
        prompts = self._prompts(request)
        param = "messages" if request.is_chat else "prompt"
        answers: list[Answer] = []
        for prompt in prompts:
            limit = self._limit(prompt, rules.max_tokens, param)
            answers += [
                Answer(
                    ticket=ticket,
                    index=len(answers) + choice,
                    choice=choice,
                    prompt=prompt,
                    rules=rules,
                    max_tokens=limit,
                    eos_tokens=self.eos_tokens,
                    text=self.text,
                    adapter=adapter,
                )
                for choice in range(request.choices)
            ]
        return answers, sum(len(prompt) for prompt in prompts)

    def _prompts(self, request: Request) -> list[list[int]]:
        if request.is_chat:
            return [self.text.encode_chat(request.messages, request.template_arguments)]
        prompts: list[list[int]] = []
        for prompt in request.prompts:
            tokens = self.text.encode(prompt) if isinstance(prompt, str) else prompt
            if not tokens:
                raise invalid("prompt", "'prompt' must not be empty.")
            if not all(0 <= token < self.vocabulary for token in tokens):
                raise invalid("prompt", f"'prompt' has ids outside 0 to {self.vocabulary - 1}.")
            prompts.append(tokens)
        return prompts

    def _limit(self, prompt: list[int], wanted: int | None, param: str) -> int:
        room = self.context - len(prompt)
        if room < 1:
            text = f"the prompt has {len(prompt)}"
            raise context_length_exceeded(param=param, limit=self.context, wanted=text)
        if wanted is not None and wanted > room:
            text = f"the prompt has {len(prompt)} and {wanted} more were asked for"
            raise context_length_exceeded(param=param, limit=self.context, wanted=text)
        return room if wanted is None else wanted


def load(spec: ServeSpec, *, publish: Callable[[News], None]) -> Engine:
    """Reads the model folder and allocates the cache. Raises CannotServe with the reason."""
    began_at = time.monotonic()
    torch.set_num_threads(spec.threads)
    shape = read_shape(spec.model_path)
    text = Text(spec.model_path)
    defaults, eos_tokens = read_generation_defaults(spec.model_path)
    dtype = serving_dtype(spec.dtype, stored=shape.stored_dtype, device=spec.device)
    context = min(spec.max_context_tokens, shape.max_positions)
    try:
        weights = load_weights(spec.model_path, shape, device=spec.device, dtype=dtype)
        slots = slots_that_fit(
            shape,
            wanted=spec.max_concurrency,
            context=context,
            device=spec.device,
            dtype=dtype,
            weight_bytes=weights.total_bytes,
            memory_bytes=spec.memory_bytes,
        )
        cache = SlotCache(shape, slots=slots, context=context, device=spec.device, dtype=dtype)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise CannotServe("memory_short", str(error)) from None
    decoder = Decoder(shape, weights, context=context)
    sites = list_sites(weights)
    runner = Runner(decoder, cache, Adaptations(sites))
    logger.info(
        "loaded %s (%s, %.1f M parameters, %s on %s) in %.1f s: %s slots of %s tokens",
        spec.model_path,
        shape.family,
        weights.total_bytes / dtype.itemsize / 1e6,
        dtype,
        spec.device,
        time.monotonic() - began_at,
        slots,
        context,
    )
    return Engine(
        text=text,
        scheduler=Scheduler(runner=runner, cache=cache, publish=publish),
        defaults=defaults,
        eos_tokens=eos_tokens | text.eos_tokens or shape.eos_tokens,
        context=context,
        vocabulary=shape.vocabulary,
        fingerprint=f"builtin-torch-{torch.__version__}-{str(dtype).removeprefix('torch.')}",
        read_adapter=partial(read_adapter, sites=sites, device=decoder.device, dtype=dtype),
    )
