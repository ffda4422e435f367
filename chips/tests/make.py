"""Rows for tests."""

from datetime import datetime
from uuid import UUID

from accounts.models import Organization
from accounts.tests.make import NOW, make_organization
from chips import services
from chips.choices import Purpose
from chips.models import AcceleratorType, Allocation, Node, Pool
from chips.services import SeenAccelerator
from common.ids import new_id
from planner.placement import AcceleratorRequest

GIB = 2**30


def make_cpu_type(**fields: object) -> AcceleratorType:
    found = AcceleratorType.objects.filter(slug="generic-cpu-x86-64-host").first()
    if found:
        return found
    return AcceleratorType.objects.create(
        **{
            "slug": "generic-cpu-x86-64-host",
            "vendor": "Generic CPU",
            "model": "x86-64 host",
            "torch_device": "cpu",
            "name_match": "x86_64",
            "slots": 4,
        }
        | fields
    )


def make_card_type(**fields: object) -> AcceleratorType:
    return AcceleratorType.objects.create(
        **{
            "slug": "nvidia-l20",
            "vendor": "NVIDIA",
            "model": "L20",
            "memory_bytes": 48 * GIB,
            "torch_device": "cuda",
            "visible_devices_variable": "CUDA_VISIBLE_DEVICES",
            "name_match": "L20",
            "engines": ["vllm"],
        }
        | fields
    )


def make_pool(name: str = "default", *, is_open: bool = True) -> Pool:
    found = Pool.objects.filter(name=name).first()
    return found or services.create_pool(name=name, is_open=is_open, now=NOW)


def seen_cpu(index: int = 0, **fields: object) -> SeenAccelerator:
    values = {
        "index": index,
        "device_id": f"cpu:{index}",
        "vendor": "Generic CPU",
        "name": "x86_64",
        "memory_bytes": 8 * GIB,
        "cores": (index,),
    }
    return SeenAccelerator(**values | fields)  # type: ignore[arg-type]


def seen_card(index: int = 0, **fields: object) -> SeenAccelerator:
    values = {
        "index": index,
        "device_id": f"GPU-{index}",
        "vendor": "NVIDIA",
        "name": "NVIDIA L20",
        "memory_bytes": 48 * GIB,
    }
    return SeenAccelerator(**values | fields)  # type: ignore[arg-type]


def make_node(
    name: str = "node-a",
    *,
    pool: str = "default",
    accelerators: list[SeenAccelerator] | None = None,
    now: datetime = NOW,
) -> Node:
    """A ready node with two groups of CPU cores of four slots each, unless told otherwise."""
    make_cpu_type()
    make_pool(pool)
    return services.register_node(
        pool_name=pool,
        name=name,
        address="127.0.0.1",
        accelerators=[seen_cpu(0), seen_cpu(1)] if accelerators is None else accelerators,
        facts={},
        now=now,
    )


def make_allocation(
    organization: Organization | None = None,
    *,
    request: AcceleratorRequest | None = None,
    holder_id: UUID | None = None,
    now: datetime = NOW,
) -> Allocation:
    """Something held for a replica: one whole accelerator, unless told otherwise."""
    return services.allocate(
        organization=organization or make_organization(),
        purpose=Purpose.SERVING,
        holder_id=holder_id or new_id(),
        holder_name="replica",
        subject_name="demo",
        request=request or AcceleratorRequest(accelerators=1),
        now=now,
    )
