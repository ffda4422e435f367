"""What is left of an engine's tokens a second when clients come through the gateway.

`python benchmarks/through.py [--quick] [--clients 32]`. The built-in engine with a random Qwen3 of
0.6B's shape (`benchmarks/checkpoints.py`), the real gateway in front of it (key, routing, limits,
metering, signals; Redis is real), the same clients in turn on one and on the other, streamed. All
processes share the machine's cores, as on a node that serves itself. The last line is one JSON
object; the exit status is 1 if the target is missed.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import engine as engines  # noqa: E402
from benchmarks.engine import Server, free_port, last_line, running  # noqa: E402
from factory import embedded  # noqa: E402

SECRET = "sk-af-0123456789-" + "s" * 43
LEAST = 0.98


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--data", type=Path, default=ROOT / ".factory" / "benchmarks")
    options = parser.parse_args()
    # Asked to end, end the servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    with tempfile.TemporaryDirectory(prefix="through-") as scratch:
        data = Path(scratch) / "data"
        data.mkdir()
        embedded.start_redis(data)
        try:
            result = run(options, Path(scratch), data)
        finally:
            embedded.stop_redis(data)
    print(json.dumps(result))
    return 0 if all(target["met"] for target in result["targets"].values()) else 1


def run(options: argparse.Namespace, scratch: Path, data: Path) -> dict[str, Any]:
    made = [sys.executable, "-m", "benchmarks.checkpoints", str(options.data), "0.6B"]
    folder = json.loads(last_line(made))["folder"]
    direct = engine_server(scratch, folder, options.clients)
    through = gateway_server(direct.port, data)
    rates: dict[str, list[float]] = {"direct": [], "gateway": []}
    first: dict[str, list[float]] = {"direct": [], "gateway": []}
    with (
        running(direct, scratch / "engine.log"),
        running(through, scratch / "gateway.log"),
    ):
        wait_for(direct, engines.TOKEN)
        wait_for(through, SECRET)
        load(direct, engines.TOKEN, clients=options.clients, tokens=4)
        for _ in range(1 if options.quick else options.rounds):
            for name, server, token in (
                ("direct", direct, engines.TOKEN),
                ("gateway", through, SECRET),
            ):
                tokens = 16 if options.quick else engines.ANSWER_TOKENS
                seen = load(server, token, clients=options.clients, tokens=tokens)
                if seen["failure"]:
                    raise SystemExit(f"{name}: {seen['failure']}")
                rates[name].append(seen["tokens_per_second"])
                first[name].append(seen["first_token_p50_ms"])
                print(name, json.dumps(seen), flush=True)
    middle = {name: statistics.median(found) for name, found in rates.items()}
    share = middle["gateway"] / middle["direct"]
    return {
        "benchmark": "through",
        "figures": {
            "clients": options.clients,
            "tokens/s": round(middle["gateway"], 1),
            "first token p50, ms": round(statistics.median(first["gateway"])),
        },
        "reference": {
            "tokens/s": round(middle["direct"], 1),
            "first token p50, ms": round(statistics.median(first["direct"])),
        },
        "ratios": {"gateway to direct, tokens/s": round(share, 3)},
        "targets": {f"at least {LEAST} of the engine's own rate": {"met": share >= LEAST}},
    }


def engine_server(scratch: Path, folder: str, clients: int) -> Server:
    from engines.host import ServeSpec

    spec = ServeSpec(
        name="bench",
        engine="transformers",
        model_path=folder,
        served_model_name="bench",
        port=free_port(),
        token=engines.TOKEN,
        dtype="bfloat16",
        threads=len(os.sched_getaffinity(0)),
        cores=sorted(os.sched_getaffinity(0)),
        max_context_tokens=engines.CONTEXT,
        max_concurrency=clients,
    )
    path = scratch / "spec.json"
    path.write_text(spec.to_json())
    command = [sys.executable, "-m", "engines.transformers_server", str(path)]
    return Server(command, "bench", spec.port)


def gateway_server(engine_port: int, data: Path) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "benchmarks.gateway_app:application"]
    command += ["--port", str(port), "--lifespan", "on", "--no-access-log"]
    command += ["--log-level", "warning", "--loop", "uvloop", "--http", "httptools"]
    environment = {
        "BENCH_SECRET": SECRET,
        "BENCH_ENGINE_PORT": str(engine_port),
        "BENCH_ENGINE_TOKEN": engines.TOKEN,
        "REDIS_URL": embedded.redis_url(data),
        "DJANGO_SETTINGS_MODULE": "factory.settings.dev",
        "FACTORY_DATA": str(data),
    }
    return Server(command, "bench", port, environment)


def wait_for(server: Server, token: str) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            if not load(server, token, clients=1, tokens=1)["failure"]:
                return
            time.sleep(0.5)
        except subprocess.CalledProcessError:  # nothing listens yet
            time.sleep(0.5)
    raise SystemExit("the engine gives no token")


def load(server: Server, token: str, *, clients: int, tokens: int) -> dict[str, Any]:
    words = engines.WORDS * (engines.PROMPT_TOKENS // 13) + "order parcel city today"
    asked = {
        "port": server.port, "model": server.model, "clients": clients, "times": 2,
        "tokens": tokens, "token": token, "prompt": words, "limit": 600,
        "seed": int(time.time() * 10) % 10**6,
    }  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.stream_load", json.dumps(asked)]
    found: dict[str, Any] = json.loads(last_line(command))
    return found


if __name__ == "__main__":
    raise SystemExit(main())
