"""How long the dataset doctor takes: a million short conversations, every check, tokens counted.

`python benchmarks/doctor.py [--lines 1000000] [--quick]`. The file is made from a seed: questions of
10 to 30 words, answers in JSON, among them lines that are repeated, nearly repeated, leaked into the
held-out split or hold personal data, as many as are then to be found. The two programs run as the
platform runs them. The last line is one JSON object; the exit status is 1 if a target is missed.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "demo" / "tiny_qwen3" / "model"
SECONDS_A_MILLION = 180.0
MEMORY_BYTES = 2 * 2**30
WORDS = 5000
INTENTS = ("track", "return", "refund", "cancel", "address", "invoice", "complaint", "other")
REPEATED, CHANGED, LEAKED, PRIVATE = 97, 89, 83, 101  # every so many lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the lines")
    options = parser.parse_args()
    result = run(options.lines // 20 if options.quick else options.lines)
    for name, value in result["figures"].items():
        print(f"{name:28} {value:>16,}")
    print(json.dumps(result))
    return 0 if all(target["met"] for target in result["targets"].values()) else 1


def run(lines: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="doctor-bench-") as name:
        folder = Path(name)
        train, heldout = folder / "train.source", folder / "heldout.source"
        planted = write(train, heldout, lines)
        size = train.stat().st_size + heldout.stat().st_size
        prepared, check_seconds, check_bytes = check(folder, train, heldout)
        counted, count_seconds, count_bytes = count(folder, Path(prepared["files"]["train"]))
    seconds = check_seconds + count_seconds
    found = prepared["report"]["findings"]
    figures = {
        "lines": lines,
        "bytes": size,
        "seconds": round(seconds, 1),
        "check_seconds": round(check_seconds, 1),
        "token_seconds": round(count_seconds, 1),
        "lines_per_second": round(lines / seconds),
        "tokens": counted["token_count"],
        "peak_bytes": max(check_bytes, count_bytes),
        "peak_bytes_check": check_bytes,
        "peak_bytes_tokens": count_bytes,
    } | {f"found_{kind}": number for kind, number in found.items()}
    targets = {
        "a million lines within 180 s": seconds <= SECONDS_A_MILLION * lines / 1_000_000
        or lines < 1_000_000,
        "peak memory below 2 GiB": figures["peak_bytes"] < MEMORY_BYTES,
        "every planted repetition found": found.get("duplicate", 0) >= planted["repeated"],
        "every planted leak found": found.get("leak", 0) >= planted["leaked"],
        "19 of 20 planted near repetitions found": found.get("near_duplicate", 0)
        >= 0.95 * planted["changed"],
        "every planted address found": found.get("email", 0) >= planted["private"],
    }
    return {
        "benchmark": "doctor",
        "figures": figures,
        "reference": {
            f"found_{kind}": number for kind, number in planted_as_found(planted).items()
        },
        "ratios": {},
        "targets": {name: {"met": bool(met)} for name, met in targets.items()},
    }


def planted_as_found(planted: dict[str, int]) -> dict[str, int]:
    return {
        "duplicate": planted["repeated"],
        "near_duplicate": planted["changed"],
        "leak": planted["leaked"],
        "email": planted["private"],
    }


def write(train: Path, heldout: Path, lines: int) -> dict[str, int]:
    """The files; how many lines of each sort were planted."""
    draw = random.Random(7)
    words = [
        "".join(draw.choices("abcdefghiklmnoprstuw", k=draw.randint(3, 9))) for _ in range(WORDS)
    ]
    planted = dict.fromkeys(("repeated", "changed", "leaked", "private"), 0)
    last: tuple[list[str], list[str]] = [], []
    with train.open("w") as out, heldout.open("w") as held:
        for number in range(lines):
            said = answered = draw.choices(words, k=draw.randint(10, 30))
            if number % REPEATED == 1 and last[0]:
                said, answered = last
                planted["repeated"] += 1
            elif number % CHANGED == 1 and len(last[0]) > 15:
                said, answered = [words[number % WORDS], *last[0]], last[1]
                planted["changed"] += 1
            elif number % PRIVATE == 1:
                said = [*said, f"{words[number % WORDS]}{number}@example.com"]
                planted["private"] += 1
            line = as_line(said, answered)
            out.write(line)
            if number % LEAKED == 1 and said is not last[0]:
                held.write(line)
                planted["leaked"] += 1
            last = said, answered
        held.write(as_line(["something", "else", "entirely"], []))
    return planted


def as_line(said: list[str], answered: list[str]) -> str:
    """The answer follows from the question, so that a repeated question has no other answer."""
    intent = INTENTS[len("".join(answered)) % len(INTENTS)]
    answer = json.dumps({"intent": intent, "order": str(1000 + len(answered))})
    messages = [
        {"role": "system", "content": "Read the message and answer with JSON."},
        {"role": "user", "content": " ".join(said)},
        {"role": "assistant", "content": answer},
    ]
    return json.dumps({"messages": messages}) + "\n"


def check(folder: Path, train: Path, heldout: Path) -> tuple[dict[str, Any], float, int]:
    """What `training.prepare` says, how long it took, and the memory of all its processes."""
    given = {
        "files": {"train": str(train), "heldout": str(heldout)},
        "into": str(folder),
        "format": "",
        "mapping": {},
        "plan": None,
        "file_names": {},
        "references": {},
    }
    out, seconds, peak = watched(
        [sys.executable, "-m", "training.prepare"], json.dumps(given).encode()
    )
    return json.loads(out.splitlines()[-1])["result"], seconds, peak


def count(folder: Path, lines: Path) -> tuple[dict[str, Any], float, int]:
    """What `training.count_tokens` says with the demo's tokenizer and Qwen3's template."""
    model = folder / "model"
    model.mkdir()
    (model / "tokenizer.json").write_bytes((MODEL / "tokenizer.json").read_bytes())
    template = (MODEL / "chat_template.jinja").read_text(encoding="utf-8")
    (model / "template.json").write_text(json.dumps({"template": template, "context": {}}))
    out, seconds, peak = watched(
        [sys.executable, "-m", "training.count_tokens", str(model)], stdin=lines
    )
    return json.loads(out), seconds, peak


def watched(
    command: list[str], given: bytes | None = None, stdin: Path | None = None
) -> tuple[str, float, int]:
    began = time.perf_counter()
    source = stdin.open("rb") if stdin else subprocess.PIPE
    environment = {"PATH": os.defpath, "LANG": "C.UTF-8", "RAYON_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, stdin=source, stdout=subprocess.PIPE, cwd=ROOT, env=environment
    ) as process:
        peak = [0]
        over = threading.Event()
        watcher = threading.Thread(target=watch, args=(process.pid, peak, over))
        watcher.start()
        out, _ = process.communicate(given)
        over.set()
        watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return out.decode(), time.perf_counter() - began, peak[0]


def watch(pid: int, peak: list[int], over: threading.Event) -> None:
    """The most memory that a process and its children have together, shared pages once."""
    while not over.wait(0.5):
        try:
            top = psutil.Process(pid)
            whole = sum(one.memory_full_info().pss for one in [top, *top.children(recursive=True)])
        except psutil.Error:
            continue
        peak[0] = max(peak[0], whole)


if __name__ == "__main__":
    raise SystemExit(main())
