"""Texts to vectors: a model whose folder says, in sentence-transformers' files, how to pool.

Such a model is loaded without its head, so that a step's rows are its last hidden states. A text
is then an answer that ends where others begin: it shares steps, cache and order with the others.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engines.backend import Delta
from engines.builtin.answer import Answer
from engines.builtin.projection import Projection
from engines.builtin.sampling import Chosen, Sampler
from engines.builtin.weights import Weights
from engines.process import CannotServe
from engines.protocol.requests import Sampling


@dataclass(frozen=True)
class Pooling:
    """The last token's hidden state stands for the text, perhaps brought to length one."""

    normalizes: bool


def read_pooling(folder: str) -> Pooling | None:
    """None for a model that writes. Raises CannotServe for a way of pooling that is not known."""
    modules = _read(Path(folder) / "modules.json")
    if modules is None:
        return None
    kinds = {str(each.get("type", "")).rsplit(".", 1)[-1]: each for each in modules}
    pooling = kinds.get("Pooling")
    if pooling is None:
        return None
    config = _read(Path(folder) / str(pooling.get("path", "1_Pooling")) / "config.json") or {}
    if not config.get("pooling_mode_lasttoken"):
        raise CannotServe(
            "unsupported_pooling", f"{folder}: only embeddings of the last token are computed"
        )
    return Pooling(normalizes="Normalize" in kinds)


def without_head(weights: Weights) -> Weights:
    return replace(weights, head=_Unchanged())


class Reading(Answer):
    """A text on its way to its vector."""

    def __init__(self, *, pooling: Pooling, **values: Any) -> None:
        super().__init__(rules=Sampling(), choice=0, max_tokens=1, eos_tokens=frozenset(), **values)
        self.sampler = _Reader()
        self._pooling = pooling

    def accept(self, chosen: Chosen) -> Delta:
        vector = np.frombuffer(chosen.vector, dtype=np.float32)
        if self._pooling.normalizes:
            vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
        return Delta(self.index, vector=vector.tobytes(), finish_reason="stop")


class _Reader(Sampler):
    reads_only = True

    def __init__(self) -> None:
        super().__init__(Sampling(), prompt=(), choice=0)


class _Unchanged(Projection):
    """In place of a head: hidden states pass as they are."""

    def __init__(self) -> None:
        super().__init__(torch.empty(0, 0), parts={})

    def multiply(self, rows: torch.Tensor) -> torch.Tensor:
        return rows


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise CannotServe("unreadable_config", f"{path}: {error}") from None
