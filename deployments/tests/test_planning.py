from pathlib import Path
from uuid import uuid4

import pytest

from accounts.tests.make import NOW
from chips.choices import Purpose
from chips.models import AllocatedSlot, Allocation
from chips.selectors import Device
from deployments import planning
from deployments.choices import ReplicaStatus
from deployments.tests.make import make_deployment, make_node, make_replica
from models_registry.models import Revision
from planner import memory

pytestmark = pytest.mark.django_db
FACTS = {
    "layers": 28,
    "hidden_size": 1024,
    "attention_heads": 16,
    "key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 3072,
    "vocabulary": 151_936,
}


def make_device(index: int, **changes: object) -> Device:
    values: dict = {
        "index": index,
        "device_id": f"GPU-{index}",
        "cores": (),
        "torch_device": "cuda",
        "visible_devices_variable": "CUDA_VISIBLE_DEVICES",
        "memory_bytes": 80 * 2**30,
    }
    return Device(**values | changes)


def test_devices_of_a_vendor_are_the_only_ones_visible(tmp_path: Path) -> None:
    replica = make_replica(make_deployment(tmp_path), status=ReplicaStatus.READY)
    spec = planning.serve_spec(replica, [make_device(2), make_device(5)], tmp_path)
    assert spec.environment == {
        "CUDA_VISIBLE_DEVICES": "2,5",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    assert (spec.device, spec.memory_bytes) == ("cuda:0", 160 * 2**30)
    unknown = [make_device(2), make_device(5, memory_bytes=None)]
    assert planning.serve_spec(replica, unknown, tmp_path).memory_bytes is None


def test_cores_are_pinned_and_counted(tmp_path: Path) -> None:
    replica = make_replica(make_deployment(tmp_path), status=ReplicaStatus.READY)
    groups = [
        make_device(index, torch_device="cpu", cores=(2 * index, 2 * index + 1)) for index in (0, 1)
    ]
    spec = planning.serve_spec(replica, groups, tmp_path)
    assert (spec.device, spec.cores, spec.threads) == ("cpu", (0, 1, 2, 3), 4)
    assert spec.environment == {}


def test_the_context_is_bounded_by_the_models_own(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path, settings={"max_context_tokens": 100_000})
    replica = make_replica(deployment, status=ReplicaStatus.READY)
    assert planning.serve_spec(replica, [], tmp_path).max_context_tokens == 512


def test_a_request_asks_for_the_weights_and_one_full_context(tmp_path: Path) -> None:
    deployment = make_deployment(tmp_path, engine="transformers")
    Revision.objects.update(
        parameter_count=596_049_920, dtype="bfloat16", facts=FACTS, context_length_tokens=40_960
    )
    deployment.revision.refresh_from_db()
    asked = planning.accelerator_request(deployment).memory_bytes
    assert asked is not None
    cache = 8192 * 2 * 28 * 8 * 128 * 2  # tokens, keys and values, layers, heads, their size, bf16
    assert asked == pytest.approx(596_049_920 * 2 + cache + memory.PROCESS_BYTES, rel=0.01)
    Revision.objects.update(dtype="float8_e4m3", quantization="fp8")  # turned back when read
    deployment.revision.refresh_from_db()
    assert planning.accelerator_request(deployment).memory_bytes == asked


def test_what_trained_a_revision_is_the_last_choice_to_serve_it(tmp_path: Path) -> None:
    node, run_id = make_node(), uuid4()
    trained_on = node.accelerators.first()
    assert trained_on is not None
    deployment = make_deployment(tmp_path)
    allocation = Allocation.objects.create(
        organization=deployment.organization,
        purpose=Purpose.TRAINING,
        holder_id=run_id,
        accelerator_share=1,
        held_at=NOW,
        released_at=NOW,
    )
    AllocatedSlot.objects.create(
        allocation=allocation, accelerator=trained_on, slot=0, released_at=NOW
    )
    Revision.objects.update(lineage={"training_run": {"id": str(run_id), "name": "first"}})
    deployment.revision.refresh_from_db()
    request = planning.accelerator_request(deployment)
    assert request.avoid_accelerators == {trained_on.pk}
    assert (request.accelerators, request.slots, request.engine) == (0, 1, "fake")


def test_tokens_differ_by_replica_and_by_secret(settings) -> None:
    one, two = uuid4(), uuid4()
    token = planning.replica_token(one)
    assert token == planning.replica_token(one) != planning.replica_token(two)
    settings.SECRET_KEY = "another"
    assert planning.replica_token(one) != token
