import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from accounts.tests.make import NOW
from agent import probe
from agent.node import node_facts
from deployments.models import CustomEngine

GIB = 2**30


@pytest.mark.parametrize(
    ("cores", "groups"), [(1, 2), (2, 2), (3, 3), (8, 8), (9, 9), (16, 8), (20, 10), (64, 8)]
)
def test_groups_have_an_eighth_of_the_cores_and_are_at_least_two(cores: int, groups: int) -> None:
    assert probe.default_groups(cores) == groups


def test_cores_and_memory_are_dealt_evenly() -> None:
    found = probe.group_cores(range(10, 20), groups=4, memory_bytes=8 * GIB, machine="x86_64")
    assert [each.cores for each in found] == [(10, 11), (12, 13, 14), (15, 16), (17, 18, 19)]
    assert {each.memory_bytes for each in found} == {2 * GIB}
    assert [each.device_id for each in found] == ["cpu:10", "cpu:12", "cpu:15", "cpu:17"]
    assert {(each.vendor, each.name) for each in found} == {("Generic CPU", "x86_64")}


def test_on_one_core_two_groups_share_it_under_names_of_their_own() -> None:
    found = probe.group_cores([3], groups=2, memory_bytes=None, machine="x86_64")
    assert [(each.index, each.device_id, each.cores) for each in found] == [
        (0, "cpu:3", (3,)),
        (1, "cpu:3.1", (3,)),
    ]


def test_this_machine_has_its_cores_and_some_memory() -> None:
    found = [each for each in probe.probe() if each.vendor == "Generic CPU"]
    assert {core for each in found for core in each.cores} == os.sched_getaffinity(0)
    assert len(found) >= 2
    assert all(each.memory_bytes and each.memory_bytes > 0 for each in found)
    assert not [each for each in probe.probe(cpu_accelerators=0) if each.cores]
    assert probe.node_facts()["cores"] == len(os.sched_getaffinity(0))


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def test_the_smallest_memory_limit_counts(tmp_path: Path) -> None:
    assert probe.memory_limit_bytes(tmp_path) is None
    write(tmp_path, "proc/meminfo", "MemTotal:       16777216 kB\nMemFree: 1 kB\n")
    write(tmp_path, "proc/self/cgroup", "0::/platform/agent\n")
    write(tmp_path, "sys/fs/cgroup/memory.max", "max\n")
    assert probe.memory_limit_bytes(tmp_path) == 16 * GIB
    write(tmp_path, "sys/fs/cgroup/platform/memory.max", f"{8 * GIB}\n")
    assert probe.memory_limit_bytes(tmp_path) == 8 * GIB
    write(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", f"{4 * GIB}\n")
    assert probe.memory_limit_bytes(tmp_path) == 4 * GIB


def fake_nvml(monkeypatch: pytest.MonkeyPatch, cards: list[dict]) -> None:
    """NVML as it would answer with these cards; an exception as value is raised."""

    def answer(key: str):
        def call(handle: dict):
            value = handle[key]
            if isinstance(value, Exception):
                raise value
            return value

        return call

    def handle_of(index: int) -> dict:
        if "lost" in cards[index]:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)
        return cards[index]

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: len(cards))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", handle_of)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", answer("uuid"))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", answer("name"))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMemoryInfo", answer("memory"))
    monkeypatch.setattr(pynvml, "nvmlDeviceGetRemappedRows", answer("rows"))


def card(uuid: str, **values: object) -> dict:
    usual = {
        "uuid": uuid,
        "name": "NVIDIA H200",
        "memory": SimpleNamespace(total=141 * GIB),
        "rows": (0, 0, 0, 0),
    }
    return usual | values


def test_cards_are_reported_with_their_lasting_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    old = card(
        "GPU-b",
        name=b"Tesla T4",
        memory=SimpleNamespace(total=16 * GIB),
        rows=pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED),
    )
    fake_nvml(monkeypatch, [card("GPU-a"), old])
    first, second = probe.probe_nvidia()
    assert (first.index, first.device_id, first.vendor, first.name) == (
        0,
        "GPU-a",
        "NVIDIA",
        "NVIDIA H200",
    )
    assert (first.memory_bytes, first.is_healthy) == (141 * GIB, True)
    assert (second.name, second.is_healthy) == ("Tesla T4", True)


def test_a_faulty_card_is_unhealthy_and_a_lost_one_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = card("GPU-b", rows=(0, 3, 0, 1))
    mute = card("GPU-c", memory=pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN))
    fake_nvml(monkeypatch, [card("GPU-a") | {"lost": True}, broken, mute])
    found = probe.probe_nvidia()
    assert [(each.index, each.device_id, each.is_healthy) for each in found] == [
        (1, "GPU-b", False),
        (2, "GPU-c", False),
    ]
    assert all(each.message for each in found)


def test_without_a_driver_there_are_no_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    assert probe.probe_nvidia() == []


@pytest.mark.django_db
def test_a_heartbeat_tells_which_engines_are_here(tmp_path: Path, settings: Any) -> None:
    settings.FACTORY_DATA = tmp_path
    settings.FACTORY_ENGINES = {}
    assert node_facts()["engines"] == {"fake": "", "transformers": ""}
    home = tmp_path / "engines" / "llamacpp"
    for path in ("bin/python", "lib/python3.11/site-packages/xllamacpp-1.2.dist-info/METADATA"):
        (home / path).parent.mkdir(parents=True)
        (home / path).touch()
    CustomEngine.objects.create(
        name="mine", command=[sys.executable, "{model_path}", "{port}"], created_at=NOW
    )
    assert node_facts()["engines"] == {
        "fake": "", "llamacpp": "1.2", "mine": "", "transformers": "",
    }  # fmt: skip
