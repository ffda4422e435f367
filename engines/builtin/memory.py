"""What fits into memory, and how to tell that something did not."""

import psutil
import torch

from engines.process import CannotServe

FREE_MEMORY_SHARE = 0.8  # of what the machine has free, where the spec gives no bound
OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


def parts_that_fit(
    *,
    wanted: int,
    least: int,
    part_bytes: int,
    context: int,
    device: str,
    weight_bytes: int,
    memory_bytes: int | None,
) -> int:
    """How many of the wanted parts of a cache fit beside the weights.

    One sequence of `context` tokens takes `least`. Raises CannotServe if not even that many fit.
    """
    if memory_bytes is None:
        room = int(_free_bytes(device) * FREE_MEMORY_SHARE)
    else:
        room = memory_bytes - weight_bytes
    fitting = min(wanted, room // part_bytes)
    if fitting < least:
        raise CannotServe(
            "memory_short",
            f"weights take {weight_bytes} bytes and one sequence of {context} tokens"
            f" {least * part_bytes} more; give more memory or a smaller max_context_tokens",
        )
    return fitting


def _free_bytes(device: str) -> int:
    kind = torch.device(device).type
    if kind == "cpu":
        return int(psutil.virtual_memory().available)
    return int(torch.get_device_module(kind).mem_get_info(device)[0])


def is_out_of_memory(error: Exception) -> bool:
    """torch's CPU allocator says so in words alone."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(each in str(error) for each in OUT_OF_MEMORY)
