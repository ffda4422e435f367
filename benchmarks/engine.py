"""The built-in engine beside what a user would install instead, over HTTP, with the same weights.

    python benchmarks/engine.py [--quick] [--threads N] [--rounds N] [--only NAMES]
                                [--vllm FOLDER] [--shape 0.6B|8B] [--device cpu|cuda]

A random Qwen3 of a true shape in bfloat16; prompts of about 128 tokens, 64 tokens out, greedy,
streamed, clients that ask again once they are answered. Each server is a process of its own with
the same threads; they take turns, round by round, and the best round of each counts; one load
generator counts for all. vLLM is
measured where an environment with it is named (--vllm, or BENCH_VLLM), else a line says that it is
missing. `generate` runs in process, batches padded, without HTTP. The ceiling follows from the
machine's bandwidth and matrix rate, measured in the same run (benchmarks/limits.py). With a GPU,
clients are 1, 32 and 256. The last line of output is one JSON object; the exit status is 1 if a
target is missed.
"""

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import checkpoints, limits  # noqa: E402
from engines.host import ServeSpec  # noqa: E402

TOKEN = "bench-token"
PROMPT_TOKENS, ANSWER_TOKENS = 128, 64
CONTEXT = 256
WORDS = "order parcel city today refund paid late box street north "
OURS, INT4, SERVE, VLLM = "ours", "ours int4", "transformers serve", "vllm"
START_SECONDS = 400.0
# Least part of vLLM's rate by clients; then the others.
TARGETS = {1: 1.0, 8: 0.95, 32: 0.9}
TARGET_GENERATE, TARGET_INT4 = 1.6, 25.0
TARGET_FIRST_TOKEN_SECONDS, TARGET_PEAK_BYTES = 8.0, 4e9


@dataclass(frozen=True)
class Server:
    """How one engine is started, and the name of its model."""

    command: Sequence[str]
    model: str
    port: int
    environment: Mapping[str, str] = field(default_factory=dict)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one round, and only our engine")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only", help="of: ours, ours int4, transformers serve, vllm, generate")
    parser.add_argument("--vllm", type=Path, default=os.environ.get("BENCH_VLLM"))
    parser.add_argument("--shape", choices=checkpoints.SHAPES, default="0.6B")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--data", type=Path, default=ROOT / ".factory" / "benchmarks")
    options = parser.parse_args()
    # Asked to end, end the servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    options.rounds = options.rounds or (1 if options.quick else 2)
    bench = Bench(options)
    result = summary(bench.measure(), options)
    print(json.dumps(result))
    return 0 if all(target["met"] for target in result["targets"].values()) else 1


class Bench:
    """One run of everything that was asked for."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        made = [sys.executable, "-m", "benchmarks.checkpoints", str(options.data), options.shape]
        self.folder = Path(json.loads(last_line(made))["folder"])
        self.levels = (1, 8, 32) if options.device == "cpu" else (1, 32, 256)

    def measure(self) -> dict[str, Any]:
        options = self.options
        default = OURS + ("" if options.quick else f",{INT4},{SERVE},{VLLM},generate")
        names = (options.only or default).split(",")
        with (
            tempfile.TemporaryDirectory(prefix="benchmark-engine-") as scratch,
            contextlib.ExitStack() as stack,
        ):
            servers = self.servers(Path(scratch))
            started: dict[str, Started] = {}
            for name in [name for name in names if name in servers]:
                log = Path(scratch) / f"{name.replace(' ', '-')}.log"
                started[name] = self.start(servers[name], log, stack)
                print(f"{name}: first token after {started[name].seconds:.1f} s", flush=True)
            levels = self.take_turns(started)
            seen: dict[str, Any] = {
                name: {
                    "start_to_first_token_seconds": one.seconds,
                    "peak_bytes": one.memory.stop(),
                    "levels": levels[name],
                }
                for name, one in started.items()
            }
        if VLLM in names and VLLM not in servers:
            print("vllm: not installed (name its environment with --vllm)", flush=True)
        if "generate" in names:
            seen["generate"] = {size: self.generate(size) for size in self.levels}
            print("generate", seen["generate"], flush=True)
        found = last_line(
            [sys.executable, "-m", "benchmarks.limits", str(options.threads), options.device]
        )
        return seen | {"limits": json.loads(found)}

    def servers(self, scratch: Path) -> dict[str, Server]:
        own = {OURS: "bfloat16"} | ({INT4: "int4"} if self.options.device == "cpu" else {})
        found = {name: self.own_server(scratch, dtype) for name, dtype in own.items()}
        port = free_port()
        command = [str(Path(sys.executable).with_name("transformers")), "serve", str(self.folder)]
        command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "bfloat16"]
        command += ["--device", self.options.device, "--continuous-batching"]
        command += ["--cb-block-size", "32", "--cb-num-blocks", "512"]
        command += ["--cb-max-batch-tokens", "512"]
        threads = {"OMP_NUM_THREADS": str(self.options.threads)}
        found[SERVE] = Server(command, str(self.folder), port, threads)
        if self.options.vllm and (self.options.vllm / "bin" / "vllm").exists():
            found[VLLM] = self.vllm_server()
        return found

    def own_server(self, scratch: Path, dtype: str) -> Server:
        cpu = self.options.device == "cpu"
        spec = ServeSpec(
            name=f"bench-{dtype}",
            engine="transformers",
            model_path=str(self.folder),
            served_model_name="bench",
            port=free_port(),
            token=TOKEN,
            device=self.options.device,
            dtype=dtype,
            threads=self.options.threads,
            cores=sorted(os.sched_getaffinity(0))[: self.options.threads] if cpu else (),
            max_context_tokens=CONTEXT,
            max_concurrency=max(self.levels),
        )
        path = scratch / f"{dtype}.json"
        path.write_text(spec.to_json())
        command = [sys.executable, "-m", "engines.transformers_server", str(path)]
        return Server(command, "bench", spec.port)

    def vllm_server(self) -> Server:
        """As engine-notes of its makers and ours found quickest: no core kept for its front."""
        home, port = self.options.vllm, free_port()
        command = [str(home / "bin" / "python"), str(home / "bin" / "vllm"), "serve"]
        command += [str(self.folder), "--served-model-name", "bench", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--dtype", "bfloat16"]
        command += ["--max-model-len", str(CONTEXT), "--max-num-seqs", str(max(self.levels))]
        cores = sorted(os.sched_getaffinity(0))[: self.options.threads]
        environment = {
            "VLLM_CPU_KVCACHE_SPACE": "2",
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(str(core) for core in cores),
            "VLLM_NO_USAGE_STATS": "1",
            "DO_NOT_TRACK": "1",
            "VIRTUAL_ENV": str(home),
            "PATH": f"{home / 'bin'}:{os.environ['PATH']}",
        }
        return Server(command, "bench", port, environment)

    def start(self, server: Server, log: Path, stack: contextlib.ExitStack) -> "Started":
        process = stack.enter_context(running(server, log))
        memory = Memory(process)
        try:
            seconds = self.first_token(server, process)
        except SystemExit:
            print(log.read_text(errors="replace")[-3000:], flush=True)
            raise
        pause(process)
        return Started(server, process, memory, seconds)

    def take_turns(self, started: Mapping[str, "Started"]) -> dict[str, dict[int, dict[str, Any]]]:
        """The best round of each engine and level. They alternate, those that wait are stopped: what
        else the machine does meets all of them alike, and ever makes things slower only."""
        best: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in started}
        for clients in self.levels:
            for turn in range(self.options.rounds):
                for name, one in started.items():
                    if name == INT4 and clients > 1:
                        continue
                    resume(one.process)
                    found = self.level(one.server, clients, is_first=turn == 0)
                    pause(one.process)
                    print(f"{name} at {clients}: {found['tokens_per_second']:.1f}", flush=True)
                    known = best[name].get(clients, found)
                    best[name][clients] = max(
                        known, found, key=lambda each: each["tokens_per_second"]
                    )
        return best

    def first_token(self, server: Server, process: psutil.Process) -> float:
        """Seconds from the process's start to the first token that it gave."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and is_alive(process):
            with contextlib.suppress(OSError, subprocess.CalledProcessError, ValueError):
                socket.create_connection(("127.0.0.1", server.port), 1).close()
                seen = self.load(server, clients=1, times=1, tokens=1)
                if seen["first_token_p50_ms"] is not None:
                    waited = seen["first_token_p50_ms"] / 1e3
                    return float(seen["began_at"] + waited - process.create_time())
            time.sleep(0.1)
        raise SystemExit(f"{server.command} gives no token")

    def level(self, server: Server, clients: int, *, is_first: bool) -> dict[str, Any]:
        if is_first:  # shapes, pools, caches
            self.load(server, clients=clients, times=1, tokens=4)
        found = self.load(server, clients=clients, times=2)
        if found["failure"]:
            raise SystemExit(f"{server.command} failed: {found['failure']}")
        return found

    def load(
        self, server: Server, *, clients: int, times: int, tokens: int = ANSWER_TOKENS
    ) -> dict[str, Any]:
        asked = {
            "port": server.port, "model": server.model, "clients": clients, "times": times,
            "tokens": tokens, "token": TOKEN, "prompt": self.prompt, "limit": 600,
            "seed": int(time.time() * 10) % 10**6,
        }  # fmt: skip
        found: dict[str, Any] = json.loads(
            last_line([sys.executable, "-m", "benchmarks.stream_load", json.dumps(asked)])
        )
        return found

    @property
    def prompt(self) -> str:
        """Words that make, with number and template, about PROMPT_TOKENS tokens."""
        return WORDS * (PROMPT_TOKENS // 13) + "order parcel city today"

    def generate(self, batch: int) -> dict[str, Any]:
        asked = {
            "folder": str(self.folder), "batch": batch, "prompt": PROMPT_TOKENS,
            "answer": ANSWER_TOKENS, "threads": self.options.threads,
            "device": self.options.device, "rounds": self.options.rounds,
        }  # fmt: skip
        command = [sys.executable, "-m", "benchmarks.generate_rate", json.dumps(asked)]
        found: dict[str, Any] = json.loads(last_line(command))
        return found


@dataclass(frozen=True)
class Started:
    server: Server
    process: psutil.Process
    memory: "Memory"
    seconds: float  # from its start to its first token


class Memory:
    """Watches what a process and its children hold; pages they share count once for each."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._peak = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._ended.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        while not self._ended.wait(0.2):
            held = 0
            with contextlib.suppress(psutil.NoSuchProcess):
                for each in [self._process, *self._process.children(recursive=True)]:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        held += each.memory_info().rss
            self._peak = max(self._peak, held)


@contextlib.contextmanager
def running(server: Server, log: Path) -> Iterator[psutil.Process]:
    with log.open("wb") as said:
        started = subprocess.Popen(
            list(server.command),
            cwd=ROOT,
            env=os.environ | dict(server.environment),
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        yield psutil.Process(started.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGTERM)
            os.killpg(started.pid, signal.SIGCONT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            started.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.wait(20)


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def pause(process: psutil.Process) -> None:
    os.killpg(process.pid, signal.SIGSTOP)


def resume(process: psutil.Process) -> None:
    os.killpg(process.pid, signal.SIGCONT)


def last_line(command: list[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def summary(seen: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    machine = seen.pop("limits")
    clients = [int(level) for level in seen[OURS]["levels"]] if OURS in seen else []
    own_rates = {n: seen[OURS]["levels"][n]["tokens_per_second"] for n in clients}
    ceilings = {
        n: limits.ceiling(
            machine,
            shape=options.shape,
            clients=n,
            prompt=PROMPT_TOKENS,
            answer=ANSWER_TOKENS,
            weight_bytes=checkpoints.weight_bytes(options.shape),
        )
        for n in clients
    }
    figures = {name: told(found) for name, found in seen.items()}
    figures["machine"] = machine | {f"ceiling at {n}": ceilings[n] for n in clients}
    ratios: dict[str, Any] = {f"of the ceiling at {n}": own_rates[n] / ceilings[n] for n in clients}
    targets: dict[str, Any] = {}

    def target(name: str, measured: float, **limit: float) -> None:
        low, high = limit.get("at_least"), limit.get("at_most")
        met = measured >= low if low is not None else measured <= float(high or 0)
        targets[name] = limit | {"measured": round(measured, 3), "met": met}

    if OURS in seen:
        start = seen[OURS]["start_to_first_token_seconds"]
        target("seconds to the first token", start, at_most=TARGET_FIRST_TOKEN_SECONDS)
        if options.shape == "0.6B":
            target("peak bytes", seen[OURS]["peak_bytes"], at_most=TARGET_PEAK_BYTES)
        for n in clients:
            for other in (VLLM, SERVE):
                if other in seen:
                    ratio = own_rates[n] / seen[other]["levels"][n]["tokens_per_second"]
                    ratios[f"times {other} at {n}"] = ratio
                    if other == VLLM and n in TARGETS:
                        target(f"times vllm's rate at {n} clients", ratio, at_least=TARGETS[n])
            if "generate" in seen:
                ratio = own_rates[n] / seen["generate"][n]["tokens_per_second"]
                ratios[f"times generate at {n}"] = ratio
                if n == 32:
                    target("times generate's rate at 32", ratio, at_least=TARGET_GENERATE)
    if INT4 in seen:
        rate = seen[INT4]["levels"][1]["tokens_per_second"]
        target("int4 tokens a second at 1 client", rate, at_least=TARGET_INT4)
    return {
        "benchmark": "engine",
        "settings": {
            "shape": options.shape,
            "device": options.device,
            "threads": options.threads,
            "prompt_tokens": PROMPT_TOKENS,
            "answer_tokens": ANSWER_TOKENS,
        },
        "figures": figures,
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
        "targets": targets,
    }


def told(found: dict[Any, Any]) -> dict[str, Any]:
    """Flat and rounded: what the table of benchmarks shows of one engine."""
    levels = found.get("levels", found)
    flat: dict[str, Any] = {}
    for clients, level in levels.items():
        for name in ("tokens_per_second", "first_token_p50_ms", "between_tokens_p50_ms"):
            if level.get(name) is not None:
                flat[f"{name} at {clients}"] = round(level[name], 1)
    if "levels" in found:
        flat["start_to_first_token_seconds"] = round(found["start_to_first_token_seconds"], 1)
        flat["peak_bytes"] = found["peak_bytes"]
    return flat


if __name__ == "__main__":
    sys.exit(main())
