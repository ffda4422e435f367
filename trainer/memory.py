"""How much memory this process takes: of its device, or of the host where that is the CPU."""

from __future__ import annotations

from pathlib import Path

import psutil
import torch


def now_bytes(device: torch.device) -> int:
    if device.type == "cpu":
        return int(psutil.Process().memory_info().rss)
    return int(torch.get_device_module(device).memory_reserved(device))


def peak_bytes(device: torch.device) -> int:
    """The most since the process began. Not getrusage's figure, which may be the parent's."""
    if device.type == "cpu":
        return max(_high_water_bytes(), now_bytes(device))
    return int(torch.get_device_module(device).max_memory_reserved(device))


def _high_water_bytes() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    found = next((line for line in lines if line.startswith("VmHWM:")), "VmHWM: 0 kB")
    return int(found.split()[1]) * 1024
