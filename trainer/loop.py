"""The run: resume, step, tell, evaluate, save."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch

from trainer import checkpoint, folders, model, objectives, reference, snapshots
from trainer.batches import StepPlan, eval_batches
from trainer.checkpoint import Position
from trainer.data import TokenSet
from trainer.errors import FailureReason, SpecError, TrainingFailure
from trainer.optimizer import MasterAdamW, rate_factor
from trainer.progress import Kind, ProgressWriter
from trainer.spec import TrainSpec

logger = logging.getLogger(__name__)

# `train_loss` of a finished run is the mean over its last tenth, but no more steps than these:
# one step's loss is noise, the first ones' are of another model.
_RECENT_STEPS = 50


def run(
    spec: TrainSpec, *, progress: ProgressWriter, stopping: Callable[[], bool], started: float
) -> None:
    """Train until finished, or until `stopping` answers true after a step.

    `started` is the monotonic time at which this process began. Raises TrainingFailure, or what
    the libraries below raise; nothing is told of that here.
    """
    if (done := _finished_before(spec)) is not None:
        logger.info("%s is complete already", spec.output_path)
        progress.write(Kind.FINISHED, **done)
        return
    try:
        training = Training(spec, progress=progress, stopping=stopping, started=started)
    except reference.Stopped:
        progress.write(Kind.YIELDED, step=0)
        return
    training.run()


class Training:
    """One attempt at one run."""

    def __init__(
        self,
        spec: TrainSpec,
        *,
        progress: ProgressWriter,
        stopping: Callable[[], bool],
        started: float,
    ) -> None:
        self._spec, self._given = spec, spec.hyperparameters
        self._progress, self._stopping = progress, stopping
        self._device = torch.device(spec.device)
        self._checkpoints = Path(spec.checkpoint_path)
        self._tokenizer = model.load_tokenizer(spec)
        self._objective = objectives.of(spec)
        self._train = self._read(spec.train_path)
        self._eval = self._read(spec.eval_path) if spec.eval_path else None
        self._plan = StepPlan(self._train.lengths, self._given)
        self._loaded = model.load_model(spec)
        self._check_tokens()
        self._share = model.can_share(self._loaded)
        self._optimizer = MasterAdamW(self._loaded.trained, weight_decay=self._given.weight_decay)
        torch.manual_seed(self._given.seed)
        self._compare()
        self._position = self._resume()
        self._tally = objectives.Tally(self._position.window_metrics)
        self._saved_step = self._position.step
        self._seconds_before = self._position.total_seconds
        self._started = started
        recent = max(1, min(_RECENT_STEPS, self._plan.total_steps // 10))
        self._recent = deque(self._position.recent_losses, maxlen=recent)
        self._process = psutil.Process()

    def run(self) -> None:
        position = self._position
        self._progress.write(
            Kind.STARTED,
            total_steps=self._plan.total_steps,
            train_examples=self._train.units,
            train_tokens=self._train.tokens,
            truncated_examples=self._train.truncated,
            dropped_examples=self._train.dropped,
            resumed_from_step=position.step,
        )
        if not self._step_until_done():
            self._yield()
            return
        if self._saved_step != position.step:
            self._save()  # evaluation and export may be killed too
        if self._eval and not self._evaluate(self._eval):
            self._yield()
            return
        self._finish()

    # Stepping

    def _step_until_done(self) -> bool:
        """True when a bound of the run is reached, false when asked to stop before that."""
        position, given = self._position, self._given
        clock = time.monotonic() - position.training_seconds  # when the first step would have been
        saved_at = told_at = time.monotonic()
        told_step, told_tokens = position.step, position.tokens_total
        while not self._is_over():
            if self._stopping():
                return False
            rate, norm = self._step()
            now = time.monotonic()
            position.training_seconds = now - clock
            self._keep_snapshot()
            if position.step % given.log_every_steps == 0 or self._is_over():
                steps, tokens = position.step - told_step, position.tokens_total - told_tokens
                self._tell_step(rate, norm, seconds=now - told_at, steps=steps, tokens=tokens)
                told_at, told_step, told_tokens = now, position.step, position.tokens_total
            every = given.eval_every_steps
            due = self._eval and every and position.step % every == 0 and not self._is_over()
            if due and self._eval and not self._evaluate(self._eval):
                return False
            if now - saved_at >= given.checkpoint_every_seconds and not self._is_over():
                self._save()
                saved_at = time.monotonic()
        return True

    def _is_over(self) -> bool:
        return self._share_done() >= 1

    def _share_done(self) -> float:
        by_steps = self._position.step / self._plan.total_steps
        return max(
            by_steps, self._position.training_seconds / (self._given.max_seconds or math.inf)
        )

    def _step(self) -> tuple[float, float]:
        """One optimizer update; returns its learning rate and gradient norm."""
        position = self._position
        works = [
            self._objective.make(self._train, units, share=self._share)
            for units in self._plan.step(position.step)
        ]
        whole = sum(work.weight for work in works)
        loss = 0.0
        for work in works:
            part, sums = self._objective.loss(self._loaded, work.to(self._device), divisor=whole)
            part.backward()
            self._optimizer.collect()
            loss += part.item()
            self._tally.add(sums)
        norm = self._optimizer.clip(self._given.max_grad_norm)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            raise TrainingFailure(
                FailureReason.NAN_LOSS,
                f"step {position.step + 1}: loss {loss}, gradient norm {norm}",
                remedy="lower learning_rate, or look for odd examples in the data",
            )
        begun = self._share_done()
        factor = rate_factor(
            self._given, begun=begun, done=max(begun, (position.step + 1) / self._plan.total_steps)
        )
        rate = self._spec.learning_rate * factor
        self._optimizer.step(learning_rate=rate)
        position.step += 1
        position.tokens_total += sum(work.tokens for work in works)
        position.window_loss += loss
        position.window_steps += 1
        self._recent.append(loss)
        return rate, norm

    def _tell_step(
        self, rate: float, norm: float, *, seconds: float, steps: int, tokens: int
    ) -> None:
        position = self._position
        left = (self._plan.total_steps - position.step) * seconds / max(1, steps)
        if self._given.max_seconds:
            left = min(left, max(0.0, self._given.max_seconds - position.training_seconds))
        loss = position.window_loss / max(1, position.window_steps)
        position.window_loss, position.window_steps = 0.0, 0
        metrics, self._tally = self._tally.means(), objectives.Tally()
        self._progress.write(
            Kind.STEP,
            step=position.step,
            total_steps=self._plan.total_steps,
            epoch=round(self._plan.epoch(position.step), 4),
            loss=loss,
            learning_rate=rate,
            grad_norm=norm,
            tokens_total=position.tokens_total,
            tokens_per_second=round(tokens / seconds, 1),
            seconds_left=round(left, 1),
            memory_bytes=self._memory_bytes(),
            metrics=metrics,
        )
        logger.info(
            "step %d/%d loss %.4f rate %.2e norm %.2f %.0f tokens/s %.0f s left",
            position.step,
            self._plan.total_steps,
            loss,
            rate,
            norm,
            tokens / seconds,
            left,
        )

    def _memory_bytes(self) -> int:
        if self._device.type == "cpu":
            return int(self._process.memory_info().rss)
        return int(torch.get_device_module(self._device).max_memory_allocated(self._device))

    # Evaluating

    def _evaluate(self, held_out: TokenSet) -> bool:
        """Mean loss over the held-out set; false when asked to stop meanwhile."""
        position = self._position
        if position.evaluated_step == position.step and position.eval_loss is not None:
            return True  # told by an attempt that was killed later
        loss, weight, tally = 0.0, 0, objectives.Tally()
        self._loaded.model.eval()
        with torch.no_grad():
            for units in eval_batches(held_out.lengths, batch_size=self._given.batch_size):
                if self._stopping():
                    self._loaded.model.train()
                    return False
                work = self._objective.make(held_out, units, share=self._share)
                part, sums = self._objective.loss(self._loaded, work.to(self._device), divisor=1.0)
                loss += part.item()
                weight += work.weight
                tally.add(sums)
        self._loaded.model.train()
        position.evaluated_step, position.eval_loss = position.step, loss / weight
        self._progress.write(
            Kind.EVAL, step=position.step, eval_loss=position.eval_loss, metrics=tally.means()
        )
        logger.info("step %d eval loss %.4f", position.step, position.eval_loss)
        return True

    # Saving and resuming

    def _save(self) -> None:
        position = self._position
        position.recent_losses = list(self._recent)
        position.window_metrics = self._tally.sums()
        position.total_seconds = self._total_seconds()
        path, size = checkpoint.save(
            self._checkpoints,
            position=position,
            tensors=self._optimizer.tensors(),
            device=self._device,
        )
        checkpoint.prune(self._checkpoints, kept=self._given.checkpoints_kept)
        self._saved_step = position.step
        self._progress.write(Kind.CHECKPOINT, step=position.step, path=str(path), bytes=size)

    def _keep_snapshot(self) -> None:
        """Of the end of an epoch that is not the last one, whose end is the result."""
        step, kept = self._position.step, self._given.snapshots_kept
        if not kept or self._is_over() or not self._plan.epoch(step).is_integer():
            return
        snapshots.save(
            snapshots.folder_beside(Path(self._spec.output_path)),
            step=step,
            kept=kept,
            fill=lambda folder: model.save_result(self._loaded, self._tokenizer, folder),
        )

    def _resume(self) -> Position:
        fingerprint = self._fingerprint()
        path = checkpoint.load_newest(self._checkpoints)
        if path is None:
            return Position(fingerprint=fingerprint)
        position = checkpoint.read_position(path)
        if position.fingerprint != fingerprint:
            raise SpecError(
                "checkpoint_path",
                "holds checkpoints of a run with other data or settings",
                remedy="give every run a folder of its own",
            )
        checkpoint.restore_optimizer(path, self._optimizer)
        checkpoint.restore_random(path, device=self._device)
        logger.info("resuming from %s", path.name)
        return position

    def _yield(self) -> None:
        if self._saved_step != self._position.step:
            self._save()
        self._progress.write(Kind.YIELDED, step=self._position.step)
        logger.info("yielded at step %d", self._position.step)

    def _finish(self) -> None:
        position = self._position
        facts = {
            "step": position.step,
            "train_loss": sum(self._recent) / len(self._recent),
            "eval_loss": position.eval_loss,
            "tokens_total": position.tokens_total,
            "seconds_total": round(self._total_seconds(), 3),
            "output_path": self._spec.output_path,
        }
        folders.write_folder(
            Path(self._spec.output_path),
            lambda folder: model.save_result(self._loaded, self._tokenizer, folder),
            facts=facts | {"run_id": self._spec.run_id},
        )
        self._progress.write(Kind.FINISHED, **facts)
        logger.info("finished: %s", facts)

    def _total_seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started

    # Reading

    def _read(self, path: str) -> TokenSet:
        return self._objective.read(Path(path), self._tokenizer)

    def _compare(self) -> None:
        """What the model, as it is before the first step, makes of the data."""
        if not self._objective.compares:
            return
        batch_size, sets = self._given.batch_size, [("train", self._train)]
        self._train.unmatched = self._objective.unmatched(self._train, self._plan.first_epoch())
        if self._eval is not None:
            order = eval_batches(self._eval.lengths, batch_size=batch_size)
            self._eval.unmatched = self._objective.unmatched(self._eval, order)
            sets.append(("eval", self._eval))
        reference.settle(
            self._checkpoints,
            sets,
            loaded=self._loaded,
            fingerprint=self._fingerprint(),
            batch_size=batch_size,
            share=self._share,
            stopping=self._stopping,
        )

    def _check_tokens(self) -> None:
        entries = self._loaded.head.weight.shape[0]
        highest = max(int(example.tokens.max()) for example in self._train.examples)
        if highest >= entries:
            raise TrainingFailure(
                FailureReason.UNSUPPORTED_MODEL,
                f"the tokenizer makes token {highest}, the model knows {entries}",
                remedy="give the tokenizer that belongs to the base",
            )
        sample = torch.from_numpy(self._train.examples[0].tokens.astype("int64"))
        model.check_parity(self._loaded, sample)

    def _fingerprint(self) -> str:
        """What decides the sequence of losses. Bounds and intervals of saving may change."""
        spec, given = self._spec, self._given.to_json()
        for free in (
            "checkpoint_every_seconds",
            "checkpoints_kept",
            "log_every_steps",
            "snapshots_kept",
        ):
            del given[free]
        settled: dict[str, Any] = {
            "run": (spec.run_id, spec.method, spec.tuning, spec.dtype),
            "hyperparameters": given,
            "data": self._train.fingerprint(),
        }
        return hashlib.sha256(json.dumps(settled, sort_keys=True).encode()).hexdigest()


def _finished_before(spec: TrainSpec) -> dict[str, Any] | None:
    output = Path(spec.output_path)
    if not output.exists():
        return None
    try:
        facts = folders.read_facts(output)
    except ValueError as damage:
        raise SpecError(
            "output_path", f"exists and is not a whole result: {damage}", remedy="give a new folder"
        ) from damage
    if facts.pop("run_id", None) != spec.run_id:
        raise SpecError("output_path", "holds another run's result", remedy="give a new folder")
    return facts
