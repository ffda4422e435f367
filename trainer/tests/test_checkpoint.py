import os
import random
from pathlib import Path

import pytest
import torch

from trainer import checkpoint, folders
from trainer.checkpoint import Position

CPU = torch.device("cpu")


def save(root: Path, step: int) -> Path:
    position = Position(fingerprint="f", step=step, recent_losses=[1.5])
    path, size = checkpoint.save(
        root, position=position, tensors={"weight:w": torch.arange(4.0)}, device=CPU
    )
    assert size == sum(file.stat().st_size for file in path.iterdir())
    return path


def test_the_newest_whole_checkpoint_is_taken_and_damaged_ones_go(tmp_path: Path) -> None:
    whole, flipped, cut, bare = (save(tmp_path, step) for step in (5, 10, 15, 20))
    tensors = flipped / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\xff")
    os.truncate(cut / "state.json", 3)
    (bare / folders.MANIFEST).unlink()
    (tmp_path / "step-00000025.partial").mkdir()  # killed while writing
    assert checkpoint.load_newest(tmp_path) == whole
    assert [path.name for path in tmp_path.iterdir()] == [whole.name]
    assert checkpoint.read_position(whole).recent_losses == [1.5]


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    paths = [save(tmp_path, step) for step in (5, 10, 15)]
    checkpoint.prune(tmp_path, kept=2)
    assert sorted(tmp_path.iterdir()) == paths[1:]


def test_a_folder_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert checkpoint.load_newest(tmp_path) is None


def test_random_numbers_go_on_where_they_stood(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    drawn = (torch.rand(3), random.random())
    checkpoint.restore_random(path, device=CPU)
    again = (torch.rand(3), random.random())
    assert torch.equal(drawn[0], again[0])
    assert drawn[1] == again[1]


def test_a_folder_that_could_not_be_filled_is_not_there(tmp_path: Path) -> None:
    def fill(folder: Path) -> None:
        (folder / "half").write_text("a")
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        folders.write_folder(tmp_path / "target", fill, facts={})
    assert not (tmp_path / "target").exists()
