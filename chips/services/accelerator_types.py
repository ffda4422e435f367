"""Accelerator types: data sheets taken in, and the type behind the name that a driver reports."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from django.utils.text import slugify

from chips.models import AcceleratorType

GIB = 2**30
CPU_SLOTS = 4  # groups of cores are shared by small models; cards are held whole unless changed


def load_accelerator_types(rows: Iterable[Mapping[str, Any]]) -> int:
    """Take in data sheets, in the shape of `chips/data/accelerators.json`; returns how many.

    Repeatable: known types (by vendor and model) are brought up to date. `slots` is set for new
    types alone, so that an operator's choice stays. What a sheet does not say stays null.
    """
    types = [_from_sheet(row) for row in rows]
    AcceleratorType.objects.bulk_create(
        types,
        update_conflicts=True,
        unique_fields=["slug"],
        update_fields=[
            "vendor",
            "model",
            "vendor_country",
            "memory_bytes",
            "bandwidth_bytes_per_second",
            "bf16_flops",
            "torch_device",
            "visible_devices_variable",
            "engines",
            "name_match",
            "data_sheet",
            "source",
            "confidence",
        ],
    )
    return len(types)


def find_type(
    types: Iterable[AcceleratorType], *, vendor: str, name: str
) -> AcceleratorType | None:
    """The type whose `name_match` is the longest one found in the name that a driver reports."""
    fitting = [
        each
        for each in types
        if each.name_match
        and (not vendor or each.vendor == vendor)
        and _pattern(each.name_match).search(name)
    ]
    return max(fitting, key=lambda each: (len(each.name_match), each.slug), default=None)


@lru_cache(maxsize=1024)
def _pattern(match: str) -> re.Pattern[str]:
    """L4 is no part of L40S, B200 none of GB200, H20 none of H200."""
    before = "(?<![0-9])" if match[0].isdigit() else "(?<![A-Za-z])"
    return re.compile(f"{before}{re.escape(match)}(?![A-Za-z0-9])", re.IGNORECASE)


def _from_sheet(row: Mapping[str, Any]) -> AcceleratorType:
    torch_device = row["torch_device"] or ""
    return AcceleratorType(
        slug=slugify(f"{row['vendor']} {row['model']}")[:80],
        vendor=row["vendor"],
        model=row["model"],
        vendor_country=row["vendor_country"] or "",
        memory_bytes=_scaled(row["memory_gib"], GIB),
        bandwidth_bytes_per_second=_scaled(row["bandwidth_gb_s"], 10**9),
        bf16_flops=_scaled(row["bf16_tflops"], 10**12),
        torch_device=torch_device,
        visible_devices_variable=row["process_env"] or "",
        engines=sorted({_engine(name) for name in row["engines"]}),
        name_match=row["device_name_match"] or "",
        slots=CPU_SLOTS if torch_device == "cpu" else 1,
        data_sheet=dict(row),
        source=row["source"] or "",
        confidence=row["confidence"] or "",
    )


def _scaled(value: float | None, factor: int) -> int | None:
    return None if value is None else round(value * factor)


def _engine(name: str) -> str:
    """As the platform names engines: `vllm (cpu)` and vLLM's hardware plug-ins, such as
    `vllm-ascend`, are started as vllm; `llama.cpp` is llamacpp."""
    plain = name.split(" (")[0].replace(".", "")
    return "vllm" if plain.startswith("vllm-") else plain
