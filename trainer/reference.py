"""Log-probabilities of the model before its first step: computed once, kept beside the checkpoints.

<checkpoint_path>/reference/
    tensors.safetensors       one number an answer, for the training set and the held-out one
    trainer_manifest.json     size and sha256, and which data and settings it belongs to

A run that resumes reads the file, so what it compares with never changes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from trainer import folders
from trainer.data import Example, TokenSet
from trainer.model import Loaded
from trainer.objectives import answer_log_probabilities, rows_of
from trainer.ranks import ALONE, Ranks

logger = logging.getLogger(__name__)

_TENSORS = "tensors.safetensors"


class Stopped(Exception):
    """The process was asked to end before all was computed."""


def settle(
    root: Path,
    sets: Sequence[tuple[str, TokenSet]],
    *,
    loaded: Loaded,
    fingerprint: str,
    batch_size: int,
    share: bool,
    stopping: Callable[[], bool],
    ranks: Ranks = ALONE,
) -> None:
    """Fill `reference` (and `unmatched_reference`) of each set, from the file or by the model.

    `loaded` must be as it is before the first step. Ranks share the work. Raises Stopped.
    """
    folder = root / "reference"
    kept = _read(folder, fingerprint)
    if kept is None:
        wanted = {
            f"{name}.{part}": examples
            for name, data in sets
            for part, examples in (("answers", data.examples), ("unmatched", data.unmatched))
        }
        kept = {
            name: _compute(
                loaded,
                examples,
                batch_size=batch_size,
                share=share,
                stopping=stopping,
                ranks=ranks,
            )
            for name, examples in wanted.items()
        }
        if ranks.is_first:
            tensors = dict(kept)
            folders.write_folder(
                folder,
                lambda partial: save_file(tensors, partial / _TENSORS),
                facts={"fingerprint": fingerprint},
            )
    for name, data in sets:
        data.reference = kept[f"{name}.answers"]
        data.unmatched_reference = kept[f"{name}.unmatched"]


def _read(folder: Path, fingerprint: str) -> dict[str, torch.Tensor] | None:
    if not folder.exists():
        return None
    try:
        facts = folders.read_facts(folder)
    except ValueError as damage:
        logger.warning("the reference is computed again: %s", damage)
        return None
    if facts.get("fingerprint") != fingerprint:
        return None
    return dict(load_file(folder / _TENSORS))


def _compute(
    loaded: Loaded,
    examples: Sequence[Example],
    *,
    batch_size: int,
    share: bool,
    stopping: Callable[[], bool],
    ranks: Ranks,
) -> torch.Tensor:
    """[examples], float32, without dropout; long ones first, so that too large a batch shows."""
    found = torch.zeros(len(examples))
    order = sorted(range(len(examples)), key=lambda i: -len(examples[i].tokens))
    device = loaded.head.weight.device
    loaded.model.eval()
    with torch.no_grad():
        batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
        for chosen in ranks.rounds(batches):
            if stopping():
                raise Stopped
            if chosen is None:
                continue
            work = rows_of([examples[i] for i in chosen], share=share).to(device)
            found[chosen] = answer_log_probabilities(loaded, work).cpu()
    ranks.add_up([found])
    loaded.model.train()
    return found
