"""What the machine itself allows: bandwidth and matrix rate, and the rates that follow from them.

Run as `python -m benchmarks.limits THREADS [DEVICE]`: prints one JSON object.
"""

import json
import sys
import time
from collections.abc import Callable

from benchmarks import checkpoints

READ_BYTES = 2**30
CUBE = 2048


def measure(threads: int, device: str) -> dict[str, float]:
    """The best of several runs of each: bytes read a second, bfloat16 operations a second."""
    import torch

    torch.set_num_threads(threads)

    def seconds(run: Callable[[], object]) -> float:
        best = float("inf")
        for _ in range(8):
            began = time.perf_counter()
            run()
            if device != "cpu":
                torch.get_device_module(device).synchronize()
            best = min(best, time.perf_counter() - began)
        return best

    block = torch.ones(READ_BYTES // 4, device=device)
    matrix = torch.randn(CUBE, CUBE, device=device).bfloat16()
    rates = [READ_BYTES / seconds(block.sum)]
    if device == "cpu":
        # One row by one matrix reads too, with other instructions; the better of the two counts.
        tall = torch.ones(READ_BYTES // 4096, 1024, device=device)
        rates.append(READ_BYTES / seconds(lambda: tall @ tall[0]))
    return {
        "read_bytes_per_second": max(rates),
        "matrix_operations_per_second": 2 * CUBE**3 / seconds(lambda: matrix @ matrix),
    }


def ceiling(
    limits: dict[str, float],
    *,
    shape: str,
    clients: int,
    prompt: int,
    answer: int,
    weight_bytes: float,
) -> float:
    """Output tokens a second that no engine passes: every prompt at the matrix rate, every decoded
    step at the slower of reading (weights once, all sequences' keys and values) and computing."""
    layers, head = checkpoints.layer_parameters(shape), checkpoints.head_parameters(shape)
    rate, read = limits["matrix_operations_per_second"], limits["read_bytes_per_second"]
    prefill = clients * 2 * layers * prompt / rate
    cached = clients * (prompt + answer / 2) * checkpoints.kv_bytes_per_token(shape)
    step = max((weight_bytes + cached) / read, clients * 2 * (layers + head) / rate)
    return clients * answer / (prefill + answer * step)


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "cpu")))
