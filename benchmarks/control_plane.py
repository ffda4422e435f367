"""What the control plane carries: many deployments on many nodes, at rest and when nodes die.

`python benchmarks/control_plane.py [--deployments 1000] [--nodes 100] [--quick]`. Real PostgreSQL,
Redis, control worker and beat, as `manage.py up` starts them; real agents' rounds in one process
over engines that are only remembered (`benchmarks/fleet.py`). Deployments want 1, 2, 3, 4, 1 ...
replicas. The last line is one JSON object; the exit status is 1 if a target is missed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

REST_SECONDS = 60.0
LONGEST_SECONDS = 900.0
REST_SHARE_OF_A_CORE = 0.05  # docs: sweeps of 1,000 deployments at rest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deployments", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--quick", action="store_true", help="a tenth of it, and a short rest")
    options = parser.parse_args()
    if options.quick:
        options.deployments, options.nodes = options.deployments // 10, options.nodes // 10
    data = Path(tempfile.mkdtemp(prefix="control-plane-")) / "data"
    data.mkdir()
    os.environ.pop("DATABASE_URL", None)
    os.environ.pop("REDIS_URL", None)
    os.environ |= {"FACTORY_DATA": str(data), "DJANGO_SETTINGS_MODULE": "factory.settings.dev"}
    from factory import embedded

    embedded.start(data)
    try:
        result = run(data, options.deployments, options.nodes, quick=options.quick)
    finally:
        embedded.stop(data)
        shutil.rmtree(data.parent, ignore_errors=True)
    for key, value in result["figures"].items():
        print(f"{key:66} {value:10.2f}")
    print(json.dumps(result))
    return 0 if all(target["met"] for target in result["targets"].values()) else 1


def run(data: Path, deployments: int, nodes: int, *, quick: bool) -> dict[str, Any]:
    subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, check=True)
    import django

    django.setup()
    organization, revision = make_rows(data)
    celery = [sys.executable, "-m", "celery", "-A", "factory.celery"]
    worker = [*celery, "worker", "-Q", "control", "-n", "control@bench", "--pool", "threads"]
    worker += ["-c", "8", "-l", "WARNING", "--without-gossip", "--without-mingle"]
    schedule = ["beat", "--pidfile=", "-s", str(data / "schedule"), "-l", "WARNING"]
    dead = data / "dead"
    fleet = [sys.executable, "-m", "benchmarks.fleet", str(nodes), str(dead)]
    with (
        running(worker) as control,
        running([*celery, *schedule]) as beat,
        running(fleet) as agents,
    ):
        wait_until(dead.exists, "the fleet does not start")
        parts = {
            "control": [control],
            "beat": [beat],
            "agents": [agents],
            "postgres": services(data, "postgres"),
            "redis": services(data, "valkey"),
        }
        began, before = time.monotonic(), spent(parts)
        wanted = want_all(organization, revision, deployments)
        asked = time.monotonic() - began
        wait_until(lambda: is_whole(deployments, wanted), "not every deployment gets ready")
        ready, start_cpu = time.monotonic() - began, difference(spent(parts), before)
        time.sleep(10)  # what the last changes set off
        before, began = spent(parts), time.monotonic()
        time.sleep(REST_SECONDS / 4 if quick else REST_SECONDS)
        rested = time.monotonic() - began
        rest_cpu = difference(spent(parts), before)
        sweeps = time_sweeps()
        began = time.monotonic()
        gone = nodes // 10
        hurt = count_on_first_nodes(gone)
        dead.write_text(str(gone))
        wait_until(lambda: count_lost() == gone, "the lost nodes are not noticed")
        noticed = time.monotonic() - began
        wait_until(lambda: is_whole(deployments, wanted), "it does not become whole again")
        whole = time.monotonic() - began
        wait_until(nothing_left_over, "something stays held for replicas that ended")
    control_share = sum(rest_cpu[name] for name in ("control", "beat")) / rested
    return {
        "benchmark": "control_plane",
        "figures": {
            "deployments": deployments,
            "replicas": wanted,
            "nodes": nodes,
            "all deployments asked for after, s": round(asked, 2),
            "all replicas ready after, s": round(ready, 2),
            "replicas made ready a second": round(wanted / ready, 2),
            "CPU until ready, ms a replica (control, beat, PostgreSQL, Redis)": round(
                sum(start_cpu[each] for each in start_cpu if each != "agents") / wanted * 1e3, 2
            ),
            **{
                f"CPU at rest, ms a replica a minute: {name}": round(
                    seconds / rested * 60 / wanted * 1e3, 3
                )
                for name, seconds in rest_cpu.items()
            },
            "control and beat at rest, share of a core": round(control_share, 4),
            **{f"sweep at rest, ms: {name}": value for name, value in sweeps.items()},
            "nodes lost at once": gone,
            "replicas on them": hurt,
            "loss noticed after, s (a node is lost after 60 s of silence)": round(noticed, 2),
            "all whole again after, s": round(whole, 2),
            "replaced within, s of the notice": round(whole - noticed, 2),
        },
        "targets": {
            "sweeps stay under their period (2 s)": {
                "met": max(sweeps.values()) < 2000 and sweeps["deployments"] < 2000
            },
            "control and beat at rest under 5 % of a core": {
                "met": control_share < REST_SHARE_OF_A_CORE
            },
        },
    }


def make_rows(data: Path) -> tuple[Any, Any]:
    """A pool for the fleet, an organization, a model of a few bytes."""
    from django.utils import timezone

    from accounts.models import Organization
    from chips import services as chips
    from chips.models import AcceleratorType
    from models_registry import services as registry
    from models_registry.choices import RevisionKind, SourceKind
    from models_registry.tests.make import make_model_folder

    now = timezone.now()
    AcceleratorType.objects.create(
        slug="generic-cpu-x86-64-host",
        vendor="Generic CPU",
        model="x86-64 host",
        torch_device="cpu",
        name_match="x86_64",
        slots=4,
    )
    chips.create_pool(name="fleet", is_open=True, now=now)
    organization = Organization.objects.create(name="Bench", slug="bench", created_at=now)
    revision = registry.publish_folder(
        organization=organization,
        name="tiny",
        folder=make_model_folder(data / "model"),
        kind=RevisionKind.BASE,
        source_kind=SourceKind.FOLDER,
        now=now,
    )
    return organization, revision


def want_all(organization: Any, revision: Any, deployments: int) -> int:
    """Ask for all deployments; returns how many replicas they want."""
    from django.utils import timezone

    from deployments import services as service

    wanted = 0
    for number in range(deployments):
        replicas = number % 4 + 1
        service.create_deployment(
            organization=organization,
            name=f"model-{number:05}",
            revision_id=revision.pk,
            engine="fake",
            replicas=replicas,
            now=timezone.now(),
        )
        wanted += replicas
    return wanted


def is_whole(deployments: int, replicas: int) -> bool:
    from chips.choices import NodeStatus
    from deployments.choices import DeploymentStatus, ReplicaStatus
    from deployments.models import Deployment, Replica

    ready = Replica.objects.filter(status=ReplicaStatus.READY, wanted=True)
    return (
        Deployment.objects.filter(status=DeploymentStatus.READY).count() == deployments
        and ready.count() == replicas
        and not ready.filter(node__status=NodeStatus.LOST).exists()
    )


def time_sweeps() -> dict[str, float]:
    """Milliseconds that each periodic task takes in this process, everything being at rest."""
    from chips import tasks as chip_tasks
    from deployments import selectors
    from deployments import tasks as deployment_tasks

    works: dict[str, Callable[[], object]] = {
        "deployments": deployment_tasks.sweep,
        "nodes": chip_tasks.watch_nodes,
        "routing table of a gateway": selectors.get_routing_table,
    }
    found = {}
    for name, work in works.items():
        times = []
        for _ in range(5):
            began = time.perf_counter()
            work()
            times.append((time.perf_counter() - began) * 1e3)
        found[name] = round(sorted(times)[2], 1)
    return found


def count_on_first_nodes(nodes: int) -> int:
    from deployments.models import Replica

    names = [f"node-{number:04}" for number in range(nodes)]
    return Replica.objects.filter(status="ready", node__name__in=names).count()


def count_lost() -> int:
    from chips.choices import NodeStatus
    from chips.models import Node

    return Node.objects.filter(status=NodeStatus.LOST).count()


def nothing_left_over() -> bool:
    from chips.models import Allocation
    from deployments.models import Replica

    live = Replica.objects.filter(ended_at__isnull=True)
    return Allocation.objects.filter(released_at__isnull=True).count() == live.count()


@contextmanager
def running(command: list[str]) -> Iterator[psutil.Process]:
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def services(data: Path, name: str) -> list[psutil.Process]:
    """The embedded service's process; PostgreSQL's children are counted when they are looked at."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if name in line and str(data) in line:
            found.append(process)
    return found


def spent(parts: dict[str, list[psutil.Process]]) -> dict[str, float]:
    """CPU seconds of each part so far, children and children that have ended included."""
    return {name: sum(_seconds(process) for process in group) for name, group in parts.items()}


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in process.children(recursive=True):
        try:
            total += sum(child.cpu_times()[:2])
        except psutil.NoSuchProcess:
            continue
    return float(total)


def difference(after: dict[str, float], before: dict[str, float]) -> dict[str, float]:
    return {name: after[name] - before[name] for name in after}


def wait_until(condition: Callable[[], bool], problem: str) -> None:
    deadline = time.monotonic() + LONGEST_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"{problem} within {LONGEST_SECONDS:.0f} s")
        time.sleep(0.5)


if __name__ == "__main__":
    raise SystemExit(main())
