"""Padded batched `generate` of transformers: `python -m benchmarks.generate_rate '{"folder":..,
"batch":..,"prompt":..,"answer":..,"threads":..,"device":..}'` prints one JSON object."""

import json
import resource
import sys
import time
from typing import Any


def measure(options: dict[str, Any]) -> dict[str, float]:
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(options["threads"])
    model = AutoModelForCausalLM.from_pretrained(options["folder"], dtype=torch.bfloat16)
    model = model.eval().to(options["device"])
    model.generation_config.eos_token_id = None
    size = (options["batch"], options["prompt"])
    tokens = torch.randint(3, 6000, size, device=options["device"])
    mask = torch.ones_like(tokens)
    mask[::2, :4] = 0  # prompts of two lengths, as a batch of requests would have
    best = float("inf")
    for _ in range(options["rounds"]):
        began = time.perf_counter()
        out = model.generate(
            tokens, attention_mask=mask, max_new_tokens=options["answer"], do_sample=False
        )
        out[0, -1].item()
        best = min(best, time.perf_counter() - began)
    return {
        "tokens_per_second": options["batch"] * options["answer"] / best,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


if __name__ == "__main__":
    print(json.dumps(measure(json.loads(sys.argv[1]))))
