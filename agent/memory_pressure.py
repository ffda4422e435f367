"""Whether this machine, or this container, has run out of memory and killed for it."""

from pathlib import Path

VMSTAT = Path("/proc/vmstat")
GROUPS = (Path("/sys/fs/cgroup/memory.events"), Path("/sys/fs/cgroup/memory/memory.oom_control"))


def count_kills() -> int:
    """Processes that the kernel has killed for memory since the machine began, as far as it tells;
    0 where it does not. Only that it grows means anything."""
    return max((_kills_in(path) for path in (VMSTAT, *GROUPS)), default=0)


def _kills_in(path: Path) -> int:
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    except (OSError, ValueError):
        pass
    return 0
