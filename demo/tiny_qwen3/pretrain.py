"""Make the tiny base model: `python -m demo.tiny_qwen3.pretrain --out DIR`.

Everything comes from the seed: the texts, the tokenizer's merges, the first weights, the order.
Sums of floating-point numbers depend on the processor, so that other machines give other weights
of the same quality. The folder written is a complete model folder for `from_pretrained`.
"""

import argparse
import itertools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch.nn import functional
from transformers import GenerationConfig, Qwen3Config, Qwen3ForCausalLM

from demo.tiny_qwen3.corpus import Messages, conversations
from demo.tiny_qwen3.tokenizer import END, END_OF_TEXT, train_tokenizer

CONTEXT = 2048
STEPS = 2400
CONVERSATIONS_A_STEP = 48
POOL_STEPS = 16  # so many steps' conversations are sorted by length together: little padding
PACKED_SHARE = 0.15  # steps on long rows of several conversations
PACKED_LENGTH = 512
PROMPT_SHARE = 0.2  # of the tokens that are not the assistant's, so many are learned too
MATRIX_RATE = 0.02
OTHER_RATE = 0.003
WARM_UP = 0.04
COOL_DOWN = 0.4

Row = tuple[list[int], list[bool]]  # token ids; which of them the assistant says


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m demo.tiny_qwen3.pretrain")
    parser.add_argument("--out", type=Path, required=True, help="folder of the model to write")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    tokenizer = train_tokenizer(seed=options.seed, max_length=CONTEXT)
    model = new_model(tokenizer)
    pretrain(model, tokenizer, steps=options.steps, seed=options.seed)
    model.to(torch.bfloat16).save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)


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
    model.generation_config = GenerationConfig(
        eos_token_id=end, pad_token_id=pad, do_sample=False, max_new_tokens=256
    )
    return model


def pretrain(model: Any, tokenizer: Any, *, steps: int, seed: int) -> None:
    """Train in place: Muon for the matrices of the layers, AdamW for embeddings and norms."""
    layers = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    matrices = {id(weight) for weight in layers}
    others = [weight for weight in model.parameters() if id(weight) not in matrices]
    optimizers = [
        torch.optim.Muon(layers, lr=MATRIX_RATE, weight_decay=0.01, momentum=0.95),
        torch.optim.AdamW(others, lr=OTHER_RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, steps))
        for optimizer in optimizers
    ]
    model.train()
    started, tokens, assistant_loss = time.monotonic(), 0, 0.0
    for step, (ids, said) in enumerate(itertools.islice(batches(tokenizer, seed=seed), steps)):
        learned = said | ((torch.rand(said.shape) < PROMPT_SHARE) & (ids != tokenizer.pad_token_id))
        with torch.autocast("cpu", torch.bfloat16):
            hidden = model.model(ids, use_cache=False).last_hidden_state[:, :-1]
            logits = model.lm_head(hidden[learned[:, 1:]])
        targets, ours = ids[:, 1:][learned[:, 1:]], said[:, 1:][learned[:, 1:]]
        losses = functional.cross_entropy(logits.float(), targets, reduction="none")
        losses.mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        tokens += ids.numel()
        loss = losses[ours].mean().item()
        assistant_loss = loss if step == 0 else 0.95 * assistant_loss + 0.05 * loss
        if step % 25 == 0 or step == steps - 1:
            seconds = time.monotonic() - started
            print(
                f"step {step}/{steps}: answer loss {assistant_loss:.3f}, {tokens} tokens, "
                f"{tokens / seconds:.0f} tokens/s, {seconds:.0f} s",
                flush=True,
            )


def rate_at(step: int, steps: int) -> float:
    """Share of the full rate: up, level, then down along a cosine."""
    up, down = WARM_UP * steps, COOL_DOWN * steps
    if step < up:
        return (step + 1) / up
    if step < steps - down:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (1 - (steps - step) / down)))


def batches(tokenizer: Any, *, seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Ids and who said them, of rows alike in length: one conversation each, or several packed."""
    rng = Random(f"{seed}/batches")
    rows = (tokenized(tokenizer, messages) for messages in conversations(seed + 1))
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
