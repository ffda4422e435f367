"""AdamW in float32 over weights of any dtype, and the schedule of its rate.

bfloat16 holds 8 bits of a number: an update of 1e-3 of a weight would be rounded away. So each
trained tensor has a float32 master that is updated and rounded to the weight after every step;
gradients of micro-batches are summed in float32 as well. Weights already in float32 are their own
masters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

import torch

from trainer.spec import Hyperparameters

Named = Sequence[tuple[str, torch.nn.Parameter]]


class MasterAdamW:
    def __init__(self, trained: Named, *, weight_decay: float) -> None:
        self._trained = list(trained)
        self._masters = [
            parameter
            if parameter.dtype == torch.float32
            else torch.nn.Parameter(parameter.detach().float())
            for _, parameter in self._trained
        ]
        self._apart = [
            (parameter, master)
            for (_, parameter), master in zip(self._trained, self._masters, strict=True)
            if master is not parameter
        ]
        matrices = [master for master in self._masters if master.dim() > 1]
        vectors = [master for master in self._masters if master.dim() <= 1]  # norms and biases
        groups = [
            {"params": matrices, "weight_decay": weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self._adamw = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=0.0, fused=True
        )

    def collect(self) -> None:
        """Take over the gradients of one micro-batch; call after each backward."""
        if not self._apart:
            return
        gradients, fresh_masters, fresh = [], [], []
        sums = []
        for parameter, master in self._apart:
            if parameter.grad is None:
                continue
            if master.grad is None:
                fresh_masters.append(master)
                fresh.append(parameter.grad)
            else:
                sums.append(master.grad)
                gradients.append(parameter.grad)
            parameter.grad = None
        for master, gradient in zip(fresh_masters, fresh, strict=True):
            master.grad = gradient.float()
        if sums:
            torch._foreach_add_(sums, gradients)

    def discard(self) -> None:
        """Forget all gradients taken over since the last step, and those not yet taken over."""
        for parameter in (*(p for _, p in self._trained), *self._masters):
            parameter.grad = None

    def gradients(self) -> list[torch.Tensor]:
        """What `collect` has gathered, in the order of the trained tensors; zeros where nothing
        has reached one."""
        for master in self._masters:
            if master.grad is None:
                master.grad = torch.zeros_like(master)
        return [master.grad for master in self._masters]

    def clip(self, max_norm: float) -> float:
        """Scale the gradients down to `max_norm`; returns their norm before that."""
        return float(torch.nn.utils.clip_grad_norm_(self._masters, max_norm, foreach=True))

    def step(self, *, learning_rate: float) -> None:
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        self._round()

    def tensors(self) -> dict[str, torch.Tensor]:
        """Masters and moments by name, for a checkpoint; shares memory with the optimizer."""
        kept: dict[str, torch.Tensor] = {}
        for (name, _), master in zip(self._trained, self._masters, strict=True):
            kept[f"weight:{name}"] = master.detach()
            for moment, value in self._adamw.state[master].items():
                kept[f"{moment}:{name}"] = value
        return kept

    def load(self, names: Collection[str], read: Callable[[str], torch.Tensor]) -> None:
        """Take up `tensors()` of an earlier process, one at a time, weights included. What `read`
        gives is the optimizer's from then on."""
        self.load_weights(read)
        for (name, _), master in zip(self._trained, self._masters, strict=True):
            self._adamw.state[master] = {
                moment: read(f"{moment}:{name}").to(master.device)
                for moment in ("step", "exp_avg", "exp_avg_sq")
                if f"{moment}:{name}" in names
            }

    def load_weights(self, read: Callable[[str], torch.Tensor]) -> None:
        """The weights of `tensors()` of an earlier step; the moments stay."""
        for (name, _), master in zip(self._trained, self._masters, strict=True):
            master.detach().copy_(read(f"weight:{name}"))
        self._round()

    def _round(self) -> None:
        if self._apart:
            weights, masters = zip(*self._apart, strict=True)
            with torch.no_grad():
                torch._foreach_copy_(list(weights), list(masters))


def rate_factor(given: Hyperparameters, *, begun: float, done: float, total_steps: int) -> float:
    """The share of the learning rate for a step that goes from `begun` to `done` of the run.

    Both are shares of the whole run, by steps or by time, whichever is further: a run bounded by
    `max_seconds` thus warms up, decays and ends where its time does.
    """
    warmup, least = given.warmup_ratio, given.min_learning_rate_ratio
    if given.warmup_steps is not None:
        warmup = min(1.0, given.warmup_steps / total_steps)
    if begun < warmup:
        return min(1.0, done / warmup)
    left = min(1.0, max(0.0, (1 - begun) / (1 - warmup))) if warmup < 1 else 0.0
    match given.scheduler:
        case "linear":
            return least + (1 - least) * left
        case "cosine":
            return least + (1 - least) * 0.5 * (1 - math.cos(math.pi * left))
        case _:
            return 1.0
