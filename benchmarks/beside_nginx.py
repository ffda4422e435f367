"""The gateway beside nginx, which only relays: the same mock engine, the same core, the same run.

`python -m benchmarks.beside_nginx [--quick]`. Needs a C compiler (`cc`) for the engine and the load
generator (wire.c), and nginx, on the path or named by BENCH_NGINX. The proxy has a core of its own. The
last line is one JSON object; the exit status is 1 if a target is missed.
"""

import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil

from benchmarks import load, mock_engine
from benchmarks.gateway import SECRET, best_of, free_port, process
from factory import embedded

DELAY_MICROSECONDS = 10_000
CONFIGURATION = """
worker_processes 1;
daemon off;
master_process off;
error_log stderr crit;
pid {folder}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  upstream engine {{
    server 127.0.0.1:{engine}; keepalive 512; keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://engine; proxy_http_version 1.1;
      proxy_set_header Connection ""; proxy_buffering off;
    }}
  }}
}}
"""


def run(*, nginx: str, quick: bool) -> dict[str, Any]:
    cores = sorted(os.sched_getaffinity(0))
    seconds = 1.0 if quick else 4.0
    rounds = 1 if quick else 3
    folder = Path(tempfile.mkdtemp(prefix="beside-nginx-"))
    wire = folder / "wire"
    source = Path(__file__).parent / "wire.c"
    subprocess.run(["cc", "-O2", "-o", str(wire), str(source)], check=True)
    said = write_what_is_said(folder)
    environment = {
        "DJANGO_SETTINGS_MODULE": "factory.settings.dev",
        "FACTORY_DATA": str(folder),
        "REDIS_URL": embedded.redis_url(folder),
        "FACTORY_SECRET_KEY": "bench" * 10,
        "BENCH_SECRET": SECRET,
    }
    found: dict[str, dict[str, Any]] = {}
    rss = 0
    embedded.start_redis(folder)
    try:
        for delay, loads in (
            (0, (("one", 1, 0), ("many", 64, 0), ("burst", 32, 1))),
            (DELAY_MICROSECONDS, (("paced", 256, 1),)),
        ):
            engine, relay, ours = free_port(), free_port(), free_port()
            conf = folder / f"nginx{delay}.conf"
            conf.write_text(CONFIGURATION.format(folder=folder, engine=engine, port=relay))
            mock = [str(wire), "mock", str(engine), str(delay), *said]
            serve = [sys.executable, "-m", "uvicorn", "benchmarks.gateway_app:application"]
            serve += ["--port", str(ours), "--log-level", "error", "--no-access-log"]
            serve += ["--loop", "uvloop", "--http", "httptools", "--backlog", "4096"]
            known = environment | {"BENCH_ENGINE_PORT": str(engine)}
            with (
                process(mock, cores[-1], engine, {}),
                process([nginx, "-p", str(folder), "-c", str(conf)], cores[0], relay, {}) as plain,
                process(serve, cores[0], ours, known) as running,
            ):
                for name, connections, stream in loads:
                    request = str(folder / f"request{stream}")
                    seen: dict[str, list[dict[str, Any]]] = {"nginx": [], "gateway": []}
                    for _ in range(rounds):
                        for which, port, proxy in (
                            ("nginx", relay, plain),
                            ("gateway", ours, running),
                        ):
                            command = [str(wire), "load", str(port), str(connections)]
                            command += [str(seconds), str(stream), request]
                            seen[which].append(measure(command, cores[-1], proxy))
                    found[name] = {which: best_of(each) for which, each in seen.items()}
                rss = max(rss, running.memory_info().rss)
    finally:
        embedded.stop_redis(folder)
        shutil.rmtree(folder, ignore_errors=True)
    return report(found, rss=rss)


def write_what_is_said(folder: Path) -> list[str]:
    """The files that wire.c speaks from; those of the mock engine."""
    chunks = [struct.pack("<I", len(chunk)) + chunk for chunk in mock_engine.CHUNKS]
    (folder / "whole").write_bytes(mock_engine.WHOLE)
    (folder / "head").write_bytes(mock_engine.STREAM_HEAD)
    (folder / "chunks").write_bytes(b"".join(chunks))
    for stream in (0, 1):
        request = load.build_request(secret=SECRET, stream=bool(stream))
        (folder / f"request{stream}").write_bytes(request)
    return [str(folder / name) for name in ("whole", "head", "chunks")]


def measure(command: list[str], core: int, proxy: psutil.Process) -> dict[str, Any]:
    before = sum(proxy.cpu_times()[:2])
    generator = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    psutil.Process(generator.pid).cpu_affinity([core])
    said, _ = generator.communicate(timeout=120)
    if generator.returncode:
        raise SystemExit("the load generator failed")
    found: dict[str, Any] = json.loads(said)
    spent = (sum(proxy.cpu_times()[:2]) - before) * 1e6
    found["requests_per_second"] = found["requests"] / found["seconds"]
    found["cpu_us_per_request"] = spent / max(1, found["requests"])
    if found["events"]:
        found["events_per_second"] = found["events"] / found["seconds"]
        found["cpu_us_per_event"] = spent / found["events"]
    return found


def report(found: dict[str, dict[str, Any]], *, rss: int) -> dict[str, Any]:
    def figures(which: str) -> dict[str, Any]:
        return {
            "p50_ms": found["one"][which]["p50_ms"],
            "requests_per_second": found["many"][which]["requests_per_second"],
            "cpu_us_per_request": found["many"][which]["cpu_us_per_request"],
            "burst_events_per_second": found["burst"][which]["events_per_second"],
            "paced_cpu_us_per_event": found["paced"][which]["cpu_us_per_event"],
            "paced_first_chunk_p50_ms": found["paced"][which]["first_chunk_p50_ms"],
            "paced_first_chunk_p99_ms": found["paced"][which]["first_chunk_p99_ms"],
        }

    ours, plain = figures("gateway"), figures("nginx")
    lost = sum(each["gateway"]["failures"] for each in found.values())
    ours |= {"rss_mib": round(rss / 2**20, 1), "lost_requests": lost}
    ratio = ours["requests_per_second"] / plain["requests_per_second"]
    added = (ours["p50_ms"] - plain["p50_ms"]) * 1000
    targets = {
        "a_fifth_of_nginx_requests_per_second": ratio >= 0.20,
        "added_p50_at_most_120_us": added <= 120,
        "cpu_at_most_50_us_per_request": ours["cpu_us_per_request"] <= 50,
        "cpu_at_most_12_us_per_event": ours["paced_cpu_us_per_event"] <= 12,
        "nothing_lost": lost == 0,
        "memory_at_most_100_mib": rss <= 100 * 2**20,
    }
    return {
        "benchmark": "beside_nginx",
        "load_average": os.getloadavg()[0],
        "figures": ours | {"added_p50_us": round(added, 1)},
        "reference": plain,
        "ratios": {"requests_per_second": round(ratio, 3)},
        "targets": {name: {"met": bool(met)} for name, met in targets.items()},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="half a minute, and rougher")
    nginx = os.environ.get("BENCH_NGINX") or shutil.which("nginx")
    if nginx is None or shutil.which("cc") is None:
        raise SystemExit("This needs nginx (BENCH_NGINX=/path/to/nginx) and a C compiler.")
    result = run(nginx=nginx, quick=parser.parse_args().quick)
    for name, value in result["figures"].items():
        print(f"{name:28} {value:>14,}   nginx {result['reference'].get(name, '-')}")
    print(json.dumps(result))
    return 0 if all(target["met"] for target in result["targets"].values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
