"""Which methods and ways of tuning are taken, and what the trainer is told of them."""

from pathlib import Path
from typing import Any

import pytest

from accounts.tests.make import make_organization
from chips.selectors import Device
from chips.tests.make import make_card_type, make_node, make_pool, seen_card
from common.errors import InvalidInput
from models_registry.tests.make import make_revision
from training import planning
from training.planning import CannotTrainThere, RunFolders
from training.tests.make import make_run

pytestmark = pytest.mark.django_db


def card(index: int, *, torch_device: str = "cuda") -> Device:
    return Device(
        index=index,
        device_id=f"card-{index}",
        cores=(index,),
        torch_device=torch_device,
        visible_devices_variable="CUDA_VISIBLE_DEVICES",
        memory_bytes=10**10,
    )


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"method": "dpo"}, "method"),  # the dataset holds conversations
        ({"tuning": "qlora"}, "tuning"),  # no accelerator could
        ({"hyperparameters": {"lora_variant": "lokr"}}, "hyperparameters.lora_variant"),
    ],
)
def test_what_does_not_go_together_is_refused_when_it_is_asked(
    tmp_path: Path, options: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput) as refused:
        make_run(tmp_path, **options)
    assert refused.value.field == field
    assert refused.value.remedy


def test_four_bits_wait_for_a_cuda_device_of_a_pool_that_one_may_use(tmp_path: Path) -> None:
    retail = make_organization()
    make_card_type()
    make_pool("locked", is_open=False)
    make_node("beta", pool="locked", accelerators=[seen_card(0)])
    with pytest.raises(InvalidInput, match="yours are none"):
        make_run(tmp_path, retail, tuning="qlora")
    make_pool("open")
    make_node("gamma", pool="open", accelerators=[seen_card(0)])
    run = make_run(tmp_path, retail, name="second", tuning="qlora")
    assert planning.accelerator_request(run).torch_devices == frozenset({"cuda"})


def test_several_cards_are_a_rank_each_and_groups_of_cores_one_process(tmp_path: Path) -> None:
    run = make_run(tmp_path, accelerators=2)
    run.attempt = 1
    assert planning.accelerator_request(run).torch_devices is None
    folders = RunFolders(tmp_path / "run")

    def ranks(*devices: Device) -> int:
        spec = planning.train_spec(run, base=tmp_path, folders=folders, devices=devices)
        return spec.ranks

    assert ranks(card(0), card(1)) == 2
    assert ranks(card(0)) == 1
    assert ranks(card(0, torch_device="cpu"), card(1, torch_device="cpu")) == 1
    for pair in (
        (card(0), card(1, torch_device="npu")),
        (card(0, torch_device="mps"), card(1, torch_device="mps")),
    ):
        with pytest.raises(CannotTrainThere) as refused:
            ranks(*pair)
        assert refused.value.remedy


def test_the_adapter_to_begin_with_is_told_to_the_trainer(tmp_path: Path) -> None:
    retail = make_organization()
    base = make_revision(tmp_path, retail)
    adapter = make_revision(tmp_path, retail, name="adapter", kind="adapter", parent=base, seed=1)
    run = make_run(
        tmp_path, retail, tuning="lora", base_revision_id=base.pk, init_revision_id=adapter.pk
    )
    run.attempt = 1
    spec = planning.train_spec(
        run,
        base=tmp_path,
        folders=RunFolders(tmp_path / "run"),
        devices=[card(0)],
        start=tmp_path / "adapter",
    )
    assert spec.init_path == str(tmp_path / "adapter")
