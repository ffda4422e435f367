"""Make the tiny base model: `python -m demo.tiny_qwen3.pretrain --out DIR`.

Everything comes from the seed: the texts, the tokenizer's merges, the first weights, the order.
Sums of floating-point numbers depend on the processor, so that other machines give other weights
of the same quality. The folder written is a complete model folder for `from_pretrained`.
"""

import argparse
import copy
import itertools
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn import functional
from transformers import AutoTokenizer, GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from demo.tiny_qwen3.corpus import Messages, conversations
from demo.tiny_qwen3.tokenizer import END, END_OF_TEXT, train_tokenizer

CONTEXT = 2048
STEPS = 1000  # some four million tokens
WRITE_EVERY = 50
CONVERSATIONS_A_STEP = 32
POOL_STEPS = 16  # so many steps' conversations are sorted by length together: little padding
PACKED_SHARE = 0.1  # steps on long rows of several conversations
PACKED_LENGTH = 384
PROMPT_SHARE = 0.15  # of the tokens that are not the assistant's, so many are learned too
MATRIX_RATE = 0.02
OTHER_RATE = 0.003
WARM_UP_STEPS = 20
COOL_DOWN = 0.5

Row = tuple[list[int], list[bool]]  # token ids; which of them the assistant says


@dataclass(frozen=True)
class Plan:
    """What one process has to know: all start from the same weights and average gradients."""

    out: Path
    steps: int
    seed: int
    processes: int
    start: Path | None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.tiny_qwen3.pretrain")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model to write")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2, help="one processor core each")
    parser.add_argument("--start", type=Path, help="a folder written before, to go on from")
    plan = Plan(**vars(parser.parse_args()))
    with tempfile.NamedTemporaryFile() as meeting:
        mp.spawn(work, args=(plan, meeting.name), nprocs=plan.processes)


def work(rank: int, plan: Plan, meeting: str) -> None:
    """One process of the pretraining; the first one writes the model."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{meeting}", rank=rank, world_size=plan.processes
    )
    torch.manual_seed(plan.seed)
    tokenizer, model = load(plan.start) if plan.start else make(plan.seed)
    torch.manual_seed(1000 * plan.seed + rank)
    for step in pretrain(model, tokenizer, plan=plan, rank=rank):
        if rank == 0 and (step % WRITE_EVERY == 0 or step == plan.steps):
            copy.deepcopy(model).to(torch.bfloat16).save_pretrained(plan.out)
            tokenizer.save_pretrained(plan.out)
    dist.destroy_process_group()


def make(seed: int) -> tuple[Any, Any]:
    """A new tokenizer and a model for it."""
    tokenizer = train_tokenizer(seed=seed, max_length=CONTEXT)
    return tokenizer, new_model(tokenizer)


def load(folder: Path) -> tuple[Any, Any]:
    """The tokenizer and the model of a folder this program wrote."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = Qwen3ForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    return tokenizer, model


def new_model(tokenizer: Any) -> Any:
    """A Qwen3 of about 4 million random weights."""
    end, pad = tokenizer.convert_tokens_to_ids([END, END_OF_TEXT])
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
        dtype="bfloat16",
    )
    model = Qwen3ForCausalLM(config).float()
    lean_towards_copying(model)
    model.set_attn_implementation("eager")  # on short rows quicker than the fused kernel
    model.generation_config = GenerationConfig(
        eos_token_id=end, pad_token_id=pad, do_sample=False, max_new_tokens=256
    )
    return model


def lean_towards_copying(model: Any) -> None:
    """Start attention, above the first layer, near what copying needs.

    Keys of the second group lean towards their queries (look for what is alike) and outputs
    towards the transposed values (say what is seen: with tied embeddings that raises the token
    looked at). The idea of Trockman and Kolter, "Mimetic Initialization" (2023).
    """
    with torch.no_grad():
        size = model.config.head_dim
        for layer in model.model.layers[1:]:
            attention = layer.self_attn
            for matrix in (attention.q_proj, attention.k_proj, attention.v_proj):
                matrix.weight.normal_(std=matrix.in_features**-0.5)
            alike = attention.q_proj.weight[2 * size : 3 * size]
            attention.k_proj.weight[size:].mul_(0.75**0.5).add_(alike, alpha=0.5)
            values = attention.v_proj.weight.view(2, size, -1).repeat_interleave(2, dim=0)
            attention.o_proj.weight.add_(values.flatten(0, 1).T, alpha=0.5)


def pretrain(model: Any, tokenizer: Any, *, plan: Plan, rank: int) -> Iterator[int]:
    """Train in place, Muon for the layers' matrices, AdamW for the rest; yields steps done."""
    layers = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    matrices = {id(weight) for weight in layers}
    others = [weight for weight in model.parameters() if id(weight) not in matrices]
    optimizers = [
        torch.optim.Muon(layers, lr=MATRIX_RATE, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, plan.steps))
        for optimizer in optimizers
    ]
    model.train()
    started, tokens, answer_loss = time.monotonic(), 0, 0.0
    source = batches(tokenizer, seed=plan.seed + rank)
    for step, (ids, said) in enumerate(itertools.islice(source, plan.steps), start=1):
        learned = said | ((torch.rand(said.shape) < PROMPT_SHARE) & (ids != tokenizer.pad_token_id))
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.model(ids, use_cache=False).last_hidden_state[:, :-1]
            logits = model.lm_head(hidden[learned[:, 1:]])
        targets, ours = ids[:, 1:][learned[:, 1:]], said[:, 1:][learned[:, 1:]]
        losses = functional.cross_entropy(logits.float(), targets, reduction="none")
        losses.mean().backward()
        average_gradients(model, plan.processes)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        tokens += ids.numel() * plan.processes
        loss = losses[ours].mean().item()
        answer_loss = loss if step == 1 else 0.95 * answer_loss + 0.05 * loss
        if rank == 0 and step % 25 == 0:
            seconds = time.monotonic() - started
            print(
                f"step {step}/{plan.steps}: answer loss {answer_loss:.3f}, {tokens} tokens, "
                f"{tokens / seconds:.0f} tokens/s, {seconds:.0f} s",
                flush=True,
            )
        yield step


def average_gradients(model: Any, processes: int) -> None:
    """Give every process the mean of all processes' gradients, in one message."""
    gradients = [weight.grad for weight in model.parameters()]
    message = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(message)
    message /= processes
    for gradient, mean in zip(
        gradients, message.split([gradient.numel() for gradient in gradients]), strict=True
    ):
        gradient.copy_(mean.view_as(gradient))


def rate_at(step: int, steps: int) -> float:
    """Share of the full rate: up, level, then down along a cosine."""
    down = COOL_DOWN * steps
    if step < WARM_UP_STEPS:
        return (step + 1) / WARM_UP_STEPS
    if step < steps - down:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (1 - (steps - step) / down)))


def batches(tokenizer: Any, *, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Ids and who said them, of rows alike in length: one conversation each, or several packed."""
    rng = Random(f"{seed}/batches")
    rows = (tokenized(tokenizer, messages) for messages in conversations(1000 + seed))
    while True:
        pool = list(itertools.islice(rows, CONVERSATIONS_A_STEP * POOL_STEPS))
        pool.sort(key=lambda row: len(row[0]))
        cuts = list(range(0, len(pool), CONVERSATIONS_A_STEP))
        rng.shuffle(cuts)
        for cut in cuts:
            batch = pool[cut : cut + CONVERSATIONS_A_STEP]
            yield padded(packed(batch) if rng.random() < PACKED_SHARE else batch, tokenizer)


def packed(rows: list[Row]) -> list[Row]:
    """The rows one after the other, cut into rows of the packed length."""
    ids = [token for row in rows for token in row[0]]
    said = [flag for row in rows for flag in row[1]]
    cuts = range(0, len(ids), PACKED_LENGTH)
    return [(ids[cut : cut + PACKED_LENGTH], said[cut : cut + PACKED_LENGTH]) for cut in cuts]


def padded(rows: list[Row], tokenizer: Any) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(len(ids) for ids, _ in rows)
    pad = tokenizer.pad_token_id
    ids = [ids + [pad] * (length - len(ids)) for ids, _ in rows]
    said = [said + [False] * (length - len(said)) for _, said in rows]
    return torch.tensor(ids), torch.tensor(said)


def tokenized(tokenizer: Any, messages: Messages) -> Row:
    """A conversation in the chat template; what the assistant says includes its end mark."""
    prompt = tokenizer.apply_chat_template(
        messages[:-1], tokenize=False, add_generation_prompt=True
    )
    answer = messages[-1]["content"] + END
    prompt_ids, answer_ids = tokenizer([prompt, answer])["input_ids"]
    line_end = tokenizer.encode("\n")
    ids = prompt_ids + answer_ids + line_end
    said = [False] * len(prompt_ids) + [True] * len(answer_ids) + [False] * len(line_end)
    return ids, said


if __name__ == "__main__":
    main()
