"""Models of the ends of epochs: whole, few, and none of the last, which is the result."""

from pathlib import Path

from safetensors.torch import load_file

from trainer import snapshots
from trainer.tests.make import make_base, make_spec, run_here

STEPS = 4  # an epoch of 16 rows in batches of 4


def test_the_ends_of_the_last_epochs_are_kept_as_adapters(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    spec = make_spec(
        tmp_path, base=base, rows=16, tuning="lora", lora_rank=2, epochs=4.0, snapshots_kept=2
    )
    assert run_here(spec) == 0
    root = snapshots.folder_beside(Path(spec.output_path))
    kept = snapshots.list_whole(root)
    assert [step for step, _ in kept] == [2 * STEPS, 3 * STEPS]
    weights = [load_file(path / "adapter_model.safetensors") for _, path in kept]
    weights.append(load_file(Path(spec.output_path) / "adapter_model.safetensors"))
    name = next(name for name in weights[0] if "lora_B" in name)
    assert len({tuple(each[name].flatten().tolist()) for each in weights}) == 3
    of_the_result = {path.name for path in Path(spec.output_path).iterdir()}
    # What the served model is compared with is recorded of the last one alone.
    assert {path.name for path in kept[0][1].iterdir()} == of_the_result - {"parity.json"}

    (kept[0][1] / "adapter_model.safetensors").write_bytes(b"cut short")
    assert [step for step, _ in snapshots.list_whole(root)] == [3 * STEPS]
    assert snapshots.list_whole(tmp_path / "none") == []
