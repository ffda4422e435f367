"""The demo's seconds by step: a first run on an empty data folder, and a second one after it.

`--quick` leaves the first run out where one has been made before in the same folder.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LONGEST_TRAINING_SECONDS = 180.0
SECOND_TO_FIRST = 1 / 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--data", type=Path, help="keep the data folder, and use it again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chain-") as scratch:
        data = options.data or Path(scratch) / "data"
        result = run(data, again=options.quick and (data / "demo" / "first.json").exists())
    for key, value in result["figures"]["first run, seconds:"].items():
        print(f"{key:66} {value:8.1f} s")
    print(json.dumps(result))
    return 0 if all(target["met"] for target in result["targets"].values()) else 1


def run(data: Path, *, again: bool) -> dict[str, Any]:
    kept = data / "demo" / "first.json"
    if not again:
        first = demonstrate(data)
        kept.write_text(json.dumps(first))
    first = json.loads(kept.read_text())
    second = demonstrate(data)
    training = next(s for title, s in first["seconds"].items() if title.startswith("Fine-tune"))
    accuracy = {
        f"{split} {model}": round(results["exact_match"], 4)
        for split, models in second["accuracy"].items()
        for model, results in models.items()
    }
    ratio = second["wall"] / first["wall"]
    return {
        "benchmark": "chain",
        "figures": {
            "first run, seconds:": first["seconds"] | {"all, with start and stop": first["wall"]},
            "second run, seconds:": {"all, with start and stop": second["wall"]},
            "exact match": accuracy,
        },
        "ratios": {"second run to first": round(ratio, 3)},
        "targets": {
            f"fine-tune within {LONGEST_TRAINING_SECONDS:.0f} s": {
                "met": training <= LONGEST_TRAINING_SECONDS
            },
            "second run within a third of the first": {"met": ratio < SECOND_TO_FIRST},
        },
    }


def demonstrate(data: Path) -> dict[str, Any]:
    """One `manage.py demo --exit`; its report with the seconds from start to end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "REDIS_URL")}
    environment |= {"FACTORY_DATA": str(data), "FACTORY_BASE_URL": f"http://127.0.0.1:{port}"}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "manage.py", "demo", "--exit"],
        cwd=ROOT,
        env=environment,
        stdout=sys.stderr,
        check=False,
    )
    wall = round(time.monotonic() - began, 1)
    if done.returncode:
        raise SystemExit(f"the demo ended with {done.returncode}")
    report: dict[str, Any] = json.loads((data / "demo" / "report.json").read_text())
    report["seconds"] = {title: round(s, 1) for title, s in report["seconds"].items()}
    return report | {"wall": wall}


if __name__ == "__main__":
    sys.exit(main())
