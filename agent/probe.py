"""What this machine has: groups of CPU cores, NVIDIA cards through NVML, and facts for people."""

import logging
import os
import platform
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pynvml

from chips.services import SeenAccelerator

logger = logging.getLogger(__name__)

GROUPS = 8  # so many groups of cores at most, unless told otherwise
FEWEST_GROUPS = 2  # one may train while another serves, on the smallest machine too


def probe(*, cpu_accelerators: int | None = None) -> list[SeenAccelerator]:
    """Every accelerator of this machine, now: groups of cores first, then cards.

    `cpu_accelerators` says how many groups the cores are dealt into; None lets the number of cores
    decide, 0 leaves the cores out. Takes milliseconds and never raises for faulty hardware: a card
    that answers with an error is reported unhealthy, one that does not answer is not reported.
    """
    cores = sorted(os.sched_getaffinity(0))
    groups = default_groups(len(cores)) if cpu_accelerators is None else cpu_accelerators
    found = group_cores(cores, groups=groups, memory_bytes=memory_limit_bytes())
    return found + probe_nvidia()


def node_facts() -> dict[str, Any]:
    """What people want to know of the machine; JSON values, nothing secret."""
    return {
        "hostname": socket.gethostname(),
        "architecture": platform.machine(),
        "cpu_model": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": memory_limit_bytes(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def default_groups(cores: int) -> int:
    """Groups of `cores // 8` cores, at least one core each, at least two groups."""
    size = max(1, cores // GROUPS)
    return max(FEWEST_GROUPS, cores // size)


def group_cores(
    cores: Iterable[int], *, groups: int, memory_bytes: int | None, machine: str = ""
) -> list[SeenAccelerator]:
    """The cores dealt into groups of neighbours as even as can be, with equal shares of memory.

    Where there are more groups than cores, groups share a core: better two slow ones than none.
    """
    ordered, found = sorted(cores), []
    seen: dict[int, int] = {}
    for index in range(groups):
        start = index * len(ordered) // groups
        end = max((index + 1) * len(ordered) // groups, start + 1)
        first = ordered[start]
        again = seen[first] = seen.get(first, -1) + 1
        found.append(
            SeenAccelerator(
                index=index,
                device_id=f"cpu:{first}.{again}" if again else f"cpu:{first}",
                vendor="Generic CPU",
                name=machine or platform.machine(),
                memory_bytes=None if memory_bytes is None else memory_bytes // groups,
                cores=tuple(ordered[start:end]),
            )
        )
    return found


def probe_nvidia() -> list[SeenAccelerator]:
    """NVIDIA cards by NVML; none where the driver is not installed."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        return []
    except pynvml.NVMLError as error:
        logger.warning("NVML is there but does not start: %s", error)
        return []
    try:
        cards = (_nvidia_card(index) for index in range(pynvml.nvmlDeviceGetCount()))
        return [card for card in cards if card is not None]
    except pynvml.NVMLError as error:
        logger.warning("NVML does not count its cards: %s", error)
        return []
    finally:
        pynvml.nvmlShutdown()


def _nvidia_card(index: int) -> SeenAccelerator | None:
    try:
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        device_id = _text(pynvml.nvmlDeviceGetUUID(handle))
        name = _text(pynvml.nvmlDeviceGetName(handle))
    except pynvml.NVMLError as error:
        logger.warning("NVIDIA card %d does not answer: %s", index, error)
        return None
    memory_bytes, fault = None, ""
    try:
        memory_bytes = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
        fault = _memory_fault(handle)
    except pynvml.NVMLError as error:
        fault = str(error)
    return SeenAccelerator(
        index=index,
        device_id=device_id,
        vendor="NVIDIA",
        name=name,
        memory_bytes=memory_bytes,
        is_healthy=not fault,
        message=fault,
    )


def _memory_fault(handle: Any) -> str:
    """Rows of memory that broke and could not be replaced; cards before Ampere cannot say."""
    try:
        _corrected, _uncorrected, _pending, failed = pynvml.nvmlDeviceGetRemappedRows(handle)
    except pynvml.NVMLError_NotSupported:
        return ""
    return "memory rows broke and no spare ones are left" if failed else ""


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def memory_limit_bytes(root: Path = Path("/")) -> int | None:
    """Memory that processes here may use: the machine's, or less where a control group says so."""
    limits = [_memory_total(root / "proc/meminfo")]
    groups = root / "sys/fs/cgroup"
    limits.append(_number(groups / "memory/memory.limit_in_bytes"))  # version 1
    own = _own_group(root / "proc/self/cgroup")
    limits.extend(_number(groups / folder / "memory.max") for folder in (own, *own.parents))
    known = [limit for limit in limits if limit is not None]
    return int(min(known)) if known else None


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name as Linux gives it; empty where it gives none (Arm)."""
    try:
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return ""


def _own_group(listing: Path) -> Path:
    """This process's control group of version 2, relative to where they are mounted."""
    try:
        for line in listing.read_text(encoding="utf-8").splitlines():
            if line.startswith("0::"):
                path = Path(line[3:].lstrip("/"))
                return Path() if ".." in path.parts else path  # outside of what we can see
    except OSError:
        pass
    return Path()


def _memory_total(path: Path) -> int | None:
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemTotal:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not there, or "max"
        return None
