"""The built-in engine put together from one serve spec."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from engines.builtin.answer import Answer
from engines.builtin.blocks import BLOCK_TOKENS, Blocks, blocks_for
from engines.builtin.cache import BlockCache
from engines.builtin.constraint import Constraint, Grammars
from engines.builtin.embedding import Pooling, Reading, read_pooling, without_head
from engines.builtin.grammar import grammar_for
from engines.builtin.kernels.decoder import CompiledDecoder
from engines.builtin.kernels.packed import packing
from engines.builtin.kernels.runner import CompiledRunner, kernels_for
from engines.builtin.lora import Adaptations, Adapter, list_sites
from engines.builtin.lora_files import read_adapter
from engines.builtin.memory import is_out_of_memory, parts_that_fit
from engines.builtin.model import Decoder
from engines.builtin.modules_cache import make_cache, slot_bytes
from engines.builtin.modules_loading import (
    ModulesShape,
    load_modules,
    probe,
    read_modules_shape,
)
from engines.builtin.modules_runner import ModulesRunner
from engines.builtin.projection import Projection
from engines.builtin.runner import Runner, StepRunner
from engines.builtin.scheduler import News, Scheduler
from engines.builtin.shape import (
    DecoderShape,
    has_own_forward,
    read_config,
    read_shape,
    serving_dtype,
    weight_bits,
)
from engines.builtin.text import Text, TooLong, read_generation_defaults
from engines.builtin.weights import load_weights
from engines.host import ServeSpec
from engines.process import CannotServe
from engines.protocol.dialect import Dialect, find_dialect
from engines.protocol.embeddings import EmbeddingRequest
from engines.protocol.errors import context_length_exceeded, invalid, unsupported
from engines.protocol.requests import Request, Sampling

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Engine:
    """Everything loaded. `answers` may be called from several threads at once."""

    text: Text
    scheduler: Scheduler
    defaults: Sampling
    dialect: Dialect
    grammars: Grammars
    pooling: Pooling | None  # None: it writes
    eos_tokens: frozenset[int]
    context: int  # tokens of prompt and answer together
    vocabulary: int
    fingerprint: str
    read_adapter: Callable[[Path], Adapter]  # raises ApiError; may be called from any thread
    runner: StepRunner  # the scheduler's own; another may use it only where that never runs

    def answers(
        self, request: Request, *, ticket: object, adapter: Adapter | None = None
    ) -> tuple[list[Answer], int]:
        """The choices a request asks for, ready to submit, and its prompts' tokens.

        Raises ApiError if a prompt does not fit or cannot be read.
        """
        if self.pooling is not None:
            raise unsupported("model", "This model makes embeddings; use /v1/embeddings instead.")
        rules = request.sampling
        for param, ids in (
            ("logit_bias", rules.logit_bias),
            ("stop_token_ids", rules.stop_token_ids),
        ):
            for token in ids:
                if token >= self.vocabulary:
                    raise invalid(param, f"'{param}' has {token}, which is no token id.")
        prompts = self._prompts(request)
        param = "messages" if request.is_chat else "prompt"
        answers: list[Answer] = []
        for prompt in prompts:
            limit = self._limit(prompt, rules.max_tokens, param)
            prefix = self.text.decode(prompt) if request.echo else ""
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
                    priority=request.priority,
                    adapter=adapter,
                    prefix=prefix,
                    prompt_logprobs=request.prompt_logprobs,
                    constraint=self._constraint(request, prompt),
                )
                for choice in range(request.choices)
            ]
        return answers, sum(len(prompt) for prompt in prompts)

    def readings(
        self, request: EmbeddingRequest, *, ticket: object, adapter: Adapter | None = None
    ) -> tuple[list[Reading], int]:
        """The texts of a request for vectors, ready to submit, and their tokens."""
        if self.pooling is None:
            raise unsupported("model", "This model makes no embeddings.")
        texts = self._token_lists(request.inputs, "input")
        for text in texts:
            self._limit(text, 1, "input")
        readings = [
            Reading(
                pooling=self.pooling,
                ticket=ticket,
                index=index,
                prompt=text,
                text=self.text,
                priority=request.priority,
                adapter=adapter,
            )
            for index, text in enumerate(texts)
        ]
        return readings, sum(len(text) for text in texts)

    def _constraint(self, request: Request, prompt: list[int]) -> Constraint | None:
        thought = self.text.thought_before(prompt)
        grammar = grammar_for(request, self.dialect, thought=thought)
        if grammar is None:
            return None
        param = request.structure.param if request.structure else "tools"
        return self.grammars.constraint(grammar, param=param)

    def _prompts(self, request: Request) -> list[list[int]]:
        if request.is_chat:
            tools = request.tools.offered if request.tools else None
            with self._refusing_too_long("messages"):
                tokens = self.text.encode_chat(
                    request.messages, request.template_arguments, tools=tools, most=self.context
                )
            return [tokens]
        return self._token_lists(request.prompts, "prompt")

    def _token_lists(self, texts: Sequence[str | list[int]], param: str) -> list[list[int]]:
        found: list[list[int]] = []
        for text in texts:
            if isinstance(text, str):
                with self._refusing_too_long(param):
                    tokens = self.text.encode(text, most=self.context)
            else:
                tokens = text
            if not tokens:
                raise invalid(param, f"'{param}' must not be empty.")
            if not all(0 <= token < self.vocabulary for token in tokens):
                raise invalid(param, f"'{param}' has ids outside 0 to {self.vocabulary - 1}.")
            found.append(tokens)
        return found

    @contextlib.contextmanager
    def _refusing_too_long(self, param: str) -> Iterator[None]:
        try:
            yield
        except TooLong:
            text = "the prompt has more than twice as many"
            raise context_length_exceeded(param=param, limit=self.context, wanted=text) from None

    def _limit(self, prompt: list[int], wanted: int | None, param: str) -> int:
        room = self.context - len(prompt)
        if room < (0 if wanted == 0 else 1):
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
    config = read_config(spec.model_path)
    text = Text(spec.model_path)
    defaults, eos_tokens = read_generation_defaults(spec.model_path)
    load_model = _load_own if has_own_forward(config) else _load_modules
    try:
        model = load_model(spec, config)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise CannotServe("memory_short", str(error)) from None
    logger.info(
        "loaded %s (%s by %s, %.1f MB, %s on %s) in %.1f s:"
        " %s answers at once share %s tokens of cache, each up to %s",
        spec.model_path,
        model.shape.family,
        type(model.runner).__name__,
        model.weight_bytes / 1e6,
        model.dtype,
        spec.device,
        time.monotonic() - began_at,
        model.slots,
        model.blocks * BLOCK_TOKENS,
        model.context,
    )
    eos_tokens = eos_tokens | text.eos_tokens or model.shape.eos_tokens
    return Engine(
        text=text,
        scheduler=Scheduler(
            runner=model.runner, blocks=Blocks(model.blocks), slots=model.slots, publish=publish
        ),
        defaults=defaults,
        dialect=find_dialect(
            text.chat_template, tools=spec.tool_parser, reasoning=spec.reasoning_parser
        ),
        grammars=Grammars(text, vocabulary=model.shape.vocabulary, eos_tokens=sorted(eos_tokens)),
        pooling=model.pooling,
        eos_tokens=eos_tokens,
        context=model.context,
        vocabulary=model.shape.vocabulary,
        fingerprint=f"builtin-torch-{torch.__version__}-{str(model.dtype).removeprefix('torch.')}",
        read_adapter=model.read_adapter,
        runner=model.runner,
    )


def merged_runner(spec: ServeSpec, adapter_folder: Path) -> StepRunner:
    """A runner of the base with the adapter added to its weights, rounded once, as a merge to a
    folder would. Raises CannotServe, ApiError."""
    torch.set_num_threads(spec.threads)
    config = read_config(spec.model_path)
    if not has_own_forward(config):
        raise CannotServe("no_merge", "models run by transformers' modules are not merged here")
    shape = read_shape(config)
    dtype = serving_dtype(spec.dtype, stored=shape.stored_dtype, device=spec.device)
    weights = load_weights(spec.model_path, shape, device=spec.device, dtype=dtype)
    sites = list_sites(weights)
    device = weights.final_norm.device
    adapter = read_adapter(adapter_folder, sites=sites, device=device, dtype=torch.float32)
    for index, pair in adapter.pairs.items():
        projection = sites[index].projection
        if projection.weight is None:
            raise CannotServe("no_merge", "these weights are packed and cannot be added to")
        added = torch.addmm(projection.weight.float(), pair.up, pair.down)
        projection.weight = added.to(dtype)
    context, slots = min(spec.max_context_tokens, shape.max_positions), spec.max_concurrency
    blocks = slots * blocks_for(context)
    cache = BlockCache(
        shape, blocks=blocks, slots=slots, context=context, device=spec.device, dtype=dtype
    )
    return Runner(Decoder(shape, weights, context=context), cache, Adaptations([]))


@dataclass(frozen=True)
class _Model:
    """Weights in memory, what runs them, and how much it can remember."""

    shape: DecoderShape | ModulesShape
    runner: StepRunner
    slots: int  # sequences at once
    blocks: int  # of cache, for all of them together
    context: int  # tokens of one
    weight_bytes: int
    dtype: torch.dtype
    read_adapter: Callable[[Path], Adapter]
    pooling: Pooling | None = None


def _load_own(spec: ServeSpec, config: Any) -> _Model:
    shape = read_shape(config)
    dtype = serving_dtype(spec.dtype, stored=shape.stored_dtype, device=spec.device)
    context = min(spec.max_context_tokens, shape.max_positions)
    bits = weight_bits(spec.dtype)
    pooling = read_pooling(spec.model_path)
    library = None if pooling else kernels_for(shape, device=spec.device, dtype=dtype)
    if library is None and bits < 16:
        raise _no_such_weights(spec)
    make = Projection if library is None else packing(library, threads=spec.threads, bits=bits)
    weights = load_weights(spec.model_path, shape, device=spec.device, dtype=dtype, make=make)
    if pooling:
        weights = without_head(weights)
    slots = spec.max_concurrency
    blocks = parts_that_fit(
        wanted=slots * blocks_for(context),
        least=blocks_for(context),
        part_bytes=shape.kv_values_per_token * BLOCK_TOKENS * dtype.itemsize,
        context=context,
        device=spec.device,
        weight_bytes=weights.total_bytes,
        memory_bytes=spec.memory_bytes,
    )
    cache = BlockCache(
        shape, blocks=blocks, slots=slots, context=context, device=spec.device, dtype=dtype
    )
    sites = list_sites(weights)
    read = partial(read_adapter, sites=sites, device=weights.final_norm.device, dtype=dtype)
    runner: StepRunner
    if library is None:
        runner = Runner(Decoder(shape, weights, context=context), cache, Adaptations(sites))
    else:
        compiled = CompiledDecoder(library, shape, weights, context=context, threads=spec.threads)
        runner = CompiledRunner(compiled, cache, Adaptations(sites))
    return _Model(
        shape,
        runner,
        slots,
        blocks,
        context,
        weights.total_bytes,
        dtype,
        read_adapter=read,
        pooling=pooling,
    )


def _load_modules(spec: ServeSpec, config: Any) -> _Model:
    if weight_bits(spec.dtype) < 16:
        raise _no_such_weights(spec)
    shape = read_modules_shape(config)
    dtype = serving_dtype(spec.dtype, stored=shape.stored_dtype, device=spec.device)
    context = min(spec.max_context_tokens, shape.max_positions)
    modules = load_modules(spec.model_path, config, shape, device=spec.device, dtype=dtype)
    probes = probe(modules)
    slots = parts_that_fit(
        wanted=spec.max_concurrency,
        least=1,
        part_bytes=slot_bytes(probes, context),
        context=context,
        device=spec.device,
        weight_bytes=modules.total_bytes,
        memory_bytes=spec.memory_bytes,
    )
    cache = make_cache(probes[0], modules.config, slots=slots, context=context)
    runner = ModulesRunner(modules, cache)
    blocks = slots * blocks_for(context)  # each slot is a whole context: nobody waits for memory
    return _Model(
        shape,
        runner,
        slots,
        blocks,
        context,
        modules.total_bytes,
        dtype,
        read_adapter=_refuse_adapter,
    )


def _no_such_weights(spec: ServeSpec) -> CannotServe:
    return CannotServe(
        "unsupported_dtype",
        f"{spec.dtype} weights need this engine's own kernels: a CPU, a C compiler, and a model of"
        " its own forward pass with heads of 32 to 256; serve it as bfloat16",
    )


def _refuse_adapter(folder: Path) -> Adapter:
    raise invalid("lora_path", "Models that run through transformers' modules take no adapters.")
