import json

import pytest
from django.core.management import call_command

from chips import services
from chips.management.commands.load_accelerator_types import SHEETS
from chips.models import AcceleratorType

pytestmark = pytest.mark.django_db


def test_the_shipped_sheets_load_whole_and_again() -> None:
    rows = json.loads(SHEETS.read_text())
    call_command("load_accelerator_types")
    assert AcceleratorType.objects.count() == len(rows)
    card = AcceleratorType.objects.get(slug="nvidia-h200-sxm")
    assert card.memory_bytes == 141 * 2**30
    assert card.bandwidth_bytes_per_second == 4_800_000_000_000
    assert card.bf16_flops == 989_000_000_000_000
    assert (card.slots, card.visible_devices_variable) == (1, "CUDA_VISIBLE_DEVICES")
    assert "vllm" in card.engines
    cpu = AcceleratorType.objects.get(slug="generic-cpu-x86-64-host")
    assert (cpu.slots, cpu.torch_device, cpu.memory_bytes, cpu.bf16_flops) == (4, "cpu", None, None)
    assert "vllm" in cpu.engines
    AcceleratorType.objects.filter(pk=cpu.pk).update(slots=8, vendor_country="XX")
    call_command("load_accelerator_types")
    again = AcceleratorType.objects.get(slug=cpu.slug)
    assert (again.pk, again.slots, again.vendor_country) == (cpu.pk, 8, "")


def test_every_sheet_has_its_source_and_a_slug_of_its_own() -> None:
    call_command("load_accelerator_types")
    assert not AcceleratorType.objects.filter(source="").exists()
    assert not AcceleratorType.objects.filter(data_sheet={}).exists()


@pytest.mark.parametrize(
    ("vendor", "name", "slug"),
    [
        ("NVIDIA", "NVIDIA H200", "nvidia-h200-sxm"),
        ("NVIDIA", "NVIDIA H20", "nvidia-h20-96gb"),
        ("NVIDIA", "NVIDIA H20-3e", "nvidia-h20-141gb"),
        ("NVIDIA", "NVIDIA L40S", "nvidia-l40s"),
        ("NVIDIA", "NVIDIA L4", "nvidia-l4"),
        ("NVIDIA", "NVIDIA L40", None),
        ("NVIDIA", "Tesla T4", "nvidia-t4"),
        ("NVIDIA", "NVIDIA GB200", "nvidia-gb200-per-gpu"),
        ("NVIDIA", "NVIDIA B200", "nvidia-b200-sxm"),
        ("NVIDIA", "NVIDIA GeForce RTX 4090 D", "nvidia-rtx-4090-d"),
        ("NVIDIA", "NVIDIA A100-SXM4-80GB", "nvidia-a100-80gb-sxm"),
        ("", "Ascend910B4-1", "huawei-ascend-ascend-910b4-1"),
        ("T-Head", "PPU-ZW810E", "t-head-zhenwu-810e"),
        ("Generic CPU", "aarch64", "generic-cpu-arm64-host"),
        ("AMD", "NVIDIA H200", None),
    ],
)
def test_the_drivers_name_finds_the_type(vendor: str, name: str, slug: str | None) -> None:
    call_command("load_accelerator_types")
    found = services.find_type(list(AcceleratorType.objects.all()), vendor=vendor, name=name)
    assert (found.slug if found else None) == slug
