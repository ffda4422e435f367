"""Run the benchmarks and write their figures into docs/benchmarks.md.

Each benchmark runs alone, in a process of its own, and prints one JSON object as its last line:
benchmark, figures, reference, ratios, targets. This program only calls them and keeps the table.
"""

import argparse
import json
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DOCUMENT = ROOT / "docs" / "benchmarks.md"
BENCHMARKS = (
    "chain",
    "control_plane",
    "doctor",
    "engine",
    "gateway",
    "through",
    "training",
    "training_lora",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=BENCHMARKS, help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="shorter, and not written down")
    options = parser.parse_args()
    missed = []
    for name in options.names:
        command = [sys.executable, f"benchmarks/{name}.py", *(["--quick"] if options.quick else [])]
        print(f"== {name}", flush=True)
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        lines = done.stdout.strip().splitlines()
        print("\n".join(lines[:-1]), flush=True)
        if done.returncode:
            missed.append(name)
        if lines and lines[-1].startswith("{") and not options.quick:
            write_down(name, json.loads(lines[-1]))
    print("targets missed: " + ", ".join(missed) if missed else "all targets met")
    return bool(missed)


def write_down(name: str, result: dict[str, Any]) -> None:
    """Replace the benchmark's table between its markers."""
    text = DOCUMENT.read_text(encoding="utf-8")
    begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"{DOCUMENT} has no place for {name}: add {begin} and {end}")
    body = "\n".join([begin, "", *as_table(name, result), "", end])
    DOCUMENT.write_text(pattern.sub(lambda _: body, text), encoding="utf-8")


def as_table(name: str, result: dict[str, Any]) -> list[str]:
    """Figures beside their reference, ratios and targets, as Markdown."""
    reference = result.get("reference", {})
    lines = [
        f"Made on {time.strftime('%Y-%m-%d')} by `python benchmarks/{name}.py`, on {machine()}.",
        "",
        "| figure | here | reference |",
        "| --- | ---: | ---: |",
    ]
    for key, value in flat(result.get("figures", {})).items():
        lines.append(f"| {key} | {shown(value)} | {shown(flat(reference).get(key, ''))} |")
    for key, value in flat(result.get("ratios", {})).items():
        lines.append(f"| ratio: {key} | {shown(value)} | |")
    for key, target in result.get("targets", {}).items():
        lines.append(f"| target: {key} | {'met' if target['met'] else 'missed'} | |")
    return lines


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as one, their keys joined by spaces."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key} ")
        else:
            found[prefix + str(key)] = value
    return found


def shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def machine() -> str:
    """The processor and how many cores this process may use."""
    import os

    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{len(os.sched_getaffinity(0))} cores of {model}, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
