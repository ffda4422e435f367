from datetime import timedelta

import pytest

from accounts.models import AuditEvent
from accounts.tests.make import NOW
from chips import services, tasks
from chips.choices import AcceleratorStatus, NodeStatus
from chips.models import Accelerator, AcceleratorType, Node
from chips.tests.make import (
    GIB,
    make_allocation,
    make_card_type,
    make_cpu_type,
    make_node,
    make_pool,
    seen_card,
    seen_cpu,
)
from common.errors import InvalidInput, NotFound
from common.ids import new_id

pytestmark = pytest.mark.django_db


def beat(node: Node, *, at: timedelta = timedelta(0), accelerators=None) -> Node:
    seen = [seen_cpu(0), seen_cpu(1)] if accelerators is None else accelerators
    return services.record_heartbeat(
        node_id=node.pk, accelerators=seen, facts={"cores": 2}, now=NOW + at
    )


def test_registering_again_keeps_the_rows() -> None:
    first = make_node()
    before = set(Accelerator.objects.values_list("pk", flat=True))
    again = make_node(now=NOW + timedelta(minutes=1))
    assert again.pk == first.pk
    assert again.registered_at == first.registered_at
    assert again.agent_started_at == NOW + timedelta(minutes=1)
    assert set(Accelerator.objects.values_list("pk", flat=True)) == before
    assert AuditEvent.objects.filter(action="node.register").count() == 1


def test_a_new_accelerator_has_its_types_slots_and_keeps_them() -> None:
    node = make_node()
    assert set(Accelerator.objects.values_list("slots", flat=True)) == {4}
    AcceleratorType.objects.update(slots=1)
    beat(node)
    assert set(Accelerator.objects.values_list("slots", flat=True)) == {4}


def test_a_device_that_goes_is_gone_and_comes_back_as_itself() -> None:
    node = make_node()
    held = make_allocation()
    beat(node, accelerators=[seen_cpu(0)])
    gone = Accelerator.objects.get(index=1)
    assert gone.status == AcceleratorStatus.GONE
    assert held.slots.count() == 4
    beat(node, at=timedelta(seconds=5))
    gone.refresh_from_db()
    assert gone.status == AcceleratorStatus.HEALTHY
    assert gone.last_seen_at == NOW + timedelta(seconds=5)


def test_what_changes_on_a_device_is_written() -> None:
    node = make_node()
    beat(node, accelerators=[seen_cpu(0, is_healthy=False, message="hot"), seen_cpu(1)])
    row = Accelerator.objects.get(index=0)
    assert (row.status, row.message) == (AcceleratorStatus.UNHEALTHY, "hot")
    beat(node, accelerators=[seen_cpu(0, memory_bytes=2 * GIB), seen_cpu(1)])
    row.refresh_from_db()
    assert (row.status, row.message, row.memory_bytes) == ("healthy", "", 2 * GIB)


def test_unknown_devices_are_named_and_the_others_are_used() -> None:
    node = make_node(accelerators=[seen_cpu(0), seen_card(0)])
    assert node.facts["unknown_accelerators"] == [{"name": "NVIDIA L20", "device_id": "GPU-0"}]
    assert node.accelerators.count() == 1
    make_card_type()
    node = beat(node, accelerators=[seen_cpu(0), seen_card(0)])
    assert node.facts == {"cores": 2}
    assert node.accelerators.count() == 2


def test_silence_makes_a_node_suspect_then_lost_and_a_beat_brings_it_back() -> None:
    node = make_node()
    assert services.watch_nodes(now=NOW + timedelta(seconds=15)) == []
    (changed,) = services.watch_nodes(now=NOW + timedelta(seconds=16))
    assert (changed.status, changed.status_reason) == (NodeStatus.SUSPECT, "heartbeat_missed")
    assert services.watch_nodes(now=NOW + timedelta(seconds=59)) == []
    (changed,) = services.watch_nodes(now=NOW + timedelta(seconds=61))
    assert (changed.status, changed.status_reason) == (NodeStatus.LOST, "silent")
    assert services.watch_nodes(now=NOW + timedelta(hours=1)) == []
    assert beat(node, at=timedelta(hours=1)).status == NodeStatus.READY


def test_the_sweep_watches_by_the_real_clock() -> None:
    node = make_node()  # last heard of in the past
    Node.objects.update(last_heartbeat_at=NOW - timedelta(days=400))
    tasks.watch_nodes(unknown="argument")
    node.refresh_from_db()
    assert node.status == NodeStatus.LOST


def test_a_removed_node_is_told_to_register_again() -> None:
    with pytest.raises(NotFound) as refused:
        services.record_heartbeat(node_id=new_id(), accelerators=[], facts={}, now=NOW)
    assert "restart" in refused.value.remedy


@pytest.mark.parametrize(
    ("fields", "at_fault"),
    [({"name": "a b"}, "name"), ({"pool_name": "none"}, "pool_name")],
)
def test_registering_is_refused_with_a_remedy(fields: dict, at_fault: str) -> None:
    make_cpu_type()
    make_pool()
    values = {
        "pool_name": "default",
        "name": "node-a",
        "address": "127.0.0.1",
        "accelerators": [],
        "facts": {},
        "now": NOW,
    }
    with pytest.raises(InvalidInput) as refused:
        services.register_node(**values | fields)
    assert refused.value.field == at_fault
    assert refused.value.remedy
    assert not Node.objects.exists()


def test_without_accelerator_types_no_node_registers() -> None:
    make_pool()
    with pytest.raises(InvalidInput) as refused:
        services.register_node(
            pool_name="default", name="n", address="", accelerators=[], facts={}, now=NOW
        )
    assert "load_accelerator_types" in refused.value.remedy


def test_cordon_is_kept_over_a_restart_and_audited_once() -> None:
    node = make_node()
    services.cordon_node(node_id=node.pk, reason="new fan", now=NOW)
    services.cordon_node(node_id=node.pk, reason="new fan", now=NOW + timedelta(minutes=1))
    node = make_node()
    assert (node.cordoned_at, node.cordon_reason) == (NOW, "new fan")
    node = services.uncordon_node(node_id=node.pk, now=NOW)
    assert (node.cordoned_at, node.cordon_reason) == (None, "")
    actions = AuditEvent.objects.order_by("sequence").values_list("action", flat=True)
    assert [each for each in actions if "cordon" in each] == ["node.cordon", "node.uncordon"]
    with pytest.raises(NotFound):
        services.cordon_node(node_id=new_id(), now=NOW)
