"""The run: resume, step, tell, evaluate, save."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import torch

from trainer import (
    best,
    checkpoint,
    memory,
    model,
    objectives,
    parity,
    ranks,
    reference,
    resuming,
    snapshots,
)
from trainer.batches import StepPlan, eval_batches
from trainer.data import TokenSet
from trainer.errors import FailureReason, TrainingFailure
from trainer.evaluating import evaluate
from trainer.keeping import DISK_ERRORS, Keeper, finished_before
from trainer.optimizer import MasterAdamW, rate_factor
from trainer.progress import Kind, ProgressWriter
from trainer.pulse import Pulse
from trainer.ranks import ALONE, Ranks
from trainer.samples import Sampler
from trainer.spec import TrainSpec
from trainer.steps import Gradients, Steps, lines_of
from trainer.telling import Teller

logger = logging.getLogger(__name__)

# `train_loss` of a finished run is the mean over its last tenth, but no more steps than these:
# one step's loss is noise, the first ones' are of another model.
_RECENT_STEPS = 50
# Steps left out because their loss was no number. One may be an odd example; a model that has
# diverged has no other kind.
MAX_SKIPPED = 3
_NAMED_LINES = 40
# Evaluations of a run that something hangs on, where nobody says how often.
_EVALUATIONS = 10


def run(
    spec: TrainSpec, *, progress: ProgressWriter, stopping: Callable[[], bool], started: float
) -> None:
    """Train until finished, or until `stopping` answers true.

    `started` is the monotonic time at which this process began. Raises TrainingFailure, or what
    the libraries below raise; nothing is told of that here.
    """
    if (done := finished_before(spec)) is not None:
        logger.info("%s is complete already", spec.output_path)
        progress.write(Kind.FINISHED, **done)
        return
    group = ranks.join(spec)
    try:
        training = Training(
            spec, progress=progress, stopping=stopping, started=started, group=group
        )
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
        group: Ranks = ALONE,
    ) -> None:
        self._spec, self._given = spec, spec.hyperparameters
        self._progress, self._asked_to_stop = progress, stopping
        self._ranks = group
        self._pulse = Pulse(progress)
        self._keeper = Keeper(spec, progress=progress, pulse=self._pulse)
        self._device = torch.device(spec.device)
        self._checkpoints = Path(spec.checkpoint_path)
        self._tokenizer = model.load_tokenizer(spec)
        self._objective = objectives.of(spec)
        self._train = self._read(spec.train_path)
        self._eval = self._read(spec.eval_path) if spec.eval_path else None
        micro_batches = self._given.gradient_accumulation * group.count
        planned = dataclasses.replace(self._given, gradient_accumulation=micro_batches)
        self._plan = StepPlan(self._train.lengths, planned)
        self._teller = Teller(
            progress, plan=self._plan, given=self._given, device=self._device, pulse=self._pulse
        )
        self._eval_every = self._given.eval_every_steps
        if self._given.needs_evaluations and self._eval_every is None:
            self._eval_every = max(1, self._plan.total_steps // _EVALUATIONS)
        self._skipped: set[int] = set()  # steps whose loss was no number
        self._splits = spec.micro_batch_splits
        self._sampler = Sampler.of(spec, self._tokenizer)
        self._load()
        self._check_tokens()
        self._compare()
        self._resume()
        self._seconds_before = self._position.total_seconds
        self._started = started

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
        if self._keeper.saved_step != self._position.step:
            self._save()  # evaluation and export may be killed too
        if self._eval and not self._evaluate(self._eval):
            self._yield()
            return
        if not self._ranks.is_first:
            return
        result_step = self._take_best()
        self._sample(at_the_end=True)
        self._finish(result_step)

    def _stopping(self) -> bool:
        """Whether any rank was asked to stop; to be called by all of them alike."""
        return self._ranks.any(self._asked_to_stop())

    # Stepping

    def _step_until_done(self) -> bool:
        """True when a bound of the run is reached, false when asked to stop before that."""
        # When the first step would have been, had the run never been interrupted.
        self._begun = time.monotonic() - self._position.training_seconds
        self._teller.begin(self._position)
        self._pulse.skip()
        if not self._evaluate_if_due():  # a stop may have come in the middle of that
            return False
        while not self._is_over():
            if self._stopping():
                return False
            if self._position.step in self._skipped:
                self._position.step += 1
            else:
                self._sample()
                if not self._step():
                    return False
            if not self._evaluate_if_due():
                return False
            if self._keeper.is_due and not self._is_over():
                self._save()
        return True

    def _is_over(self) -> bool:
        return self._position.stopped_early or self._share_done() >= 1

    def _share_done(self) -> float:
        by_steps = self._position.step / self._plan.total_steps
        return max(
            by_steps, self._position.training_seconds / (self._given.max_seconds or math.inf)
        )

    def _step(self) -> bool:
        """One optimizer update, or back to before it if its loss is no number; false when asked to
        stop in the middle."""
        found = self._steps.gradients(self._position.step)
        self._splits = self._steps.splits
        if found is None:
            return False
        norm = self._optimizer.clip(self._given.max_grad_norm)
        if self._ranks.any(not (math.isfinite(found.loss) and math.isfinite(norm))):
            self._roll_back(found.loss, norm)
            return True
        rate = self._update(found)
        seconds = time.monotonic() - self._begun
        self._position.training_seconds = self._ranks.number_of_first(seconds)
        self._keep_snapshot()
        if self._position.step % self._given.log_every_steps == 0 or self._is_over():
            self._teller.tell(self._position, rate=rate, norm=norm)
        return True

    def _update(self, found: Gradients) -> float:
        """Move the weights; returns the learning rate."""
        position = self._position
        begun = self._share_done()
        total = self._plan.total_steps
        done = max(begun, (position.step + 1) / total)
        factor = rate_factor(self._given, begun=begun, done=done, total_steps=total)
        rate = self._spec.learning_rate * factor
        self._optimizer.step(learning_rate=rate)
        position.step += 1
        position.tokens_total += found.tokens
        self._recent.append(found.loss)
        self._teller.add(position, loss=found.loss, sums=found.sums)
        return rate

    def _roll_back(self, loss: float, norm: float) -> None:
        """To the last checkpoint, from where the step with this loss is left out."""
        self._optimizer.discard()
        bad = self._position.step
        before, self._skipped = sorted(self._skipped), self._skipped | {bad}
        if len(self._skipped) > MAX_SKIPPED:
            raise TrainingFailure(
                FailureReason.NAN_LOSS,
                f"the loss or its gradient was no number at steps "
                f"{', '.join(str(step + 1) for step in (*before, bad))}; step {bad + 1} is lines "
                f"{self._name_lines([bad])}, those before it lines {self._name_lines(before)}",
                remedy="lower learning_rate, or look for odd examples on these lines",
            )
        if self._position.step and self._newest() is None:
            self._load()
        self._resume()
        message = (
            f"Step {bad + 1} had loss {loss} and gradient norm {norm}. The run goes back to step "
            f"{self._position.step} and leaves out lines {self._name_lines([bad])}."
        )
        logger.warning(message)
        lines = self._lines([bad])[:_NAMED_LINES]
        self._progress.write(
            Kind.WARNING, reason="batch_skipped", message=message, step=bad, lines=lines
        )
        self._teller.begin(self._position)

    def _lines(self, steps: list[int]) -> list[int]:
        units = [unit for step in steps for part in self._plan.step(step) for unit in part]
        return lines_of(self._train.examples_of(units))

    def _name_lines(self, steps: list[int]) -> str:
        found = self._lines(steps)
        named = ", ".join(map(str, found[:_NAMED_LINES]))
        more = f" and {len(found) - _NAMED_LINES} more" if len(found) > _NAMED_LINES else ""
        return f"{named}{more} of {Path(self._spec.train_path).name}"

    # Evaluating

    def _evaluate_if_due(self) -> bool:
        every, step = self._eval_every, self._position.step
        if self._eval is None or not every or not step or step % every or self._is_over():
            return True
        return self._evaluate(self._eval)

    def _evaluate(self, held_out: TokenSet) -> bool:
        """A look at the held-out set, and what hangs on it; false when asked to stop meanwhile."""
        position, given = self._position, self._given
        if position.evaluated_step == position.step and position.eval_loss is not None:
            return True  # told by an attempt that was killed later
        found = evaluate(
            held_out,
            objective=self._objective,
            loaded=self._loaded,
            batch_size=given.batch_size,
            splits=self._splits,
            share=self._share,
            device=self._device,
            ranks=self._ranks,
            stopping=self._stopping,
            beat=lambda: self._pulse.beat(position.step),
        )
        if found is None:
            return False
        position.evaluated_step, position.eval_loss = position.step, found.loss
        before, is_last = dataclasses.replace(position), self._is_over()
        is_best = best.take_up(position, given, eval_loss=found.loss, metrics=found.metrics)
        self._progress.write(
            Kind.EVAL,
            step=position.step,
            eval_loss=found.loss,
            metrics=found.metrics,
            best_step=position.best_step,
            best_value=position.best_value,
        )
        logger.info("step %d eval loss %.4f", position.step, found.loss)
        if is_last:
            position.stopped_early = False
        elif is_best and given.keep_best:
            self._keep_best(before)
        if position.stopped_early:
            self._tell_early_stop()
        return True

    def _keep_best(self, before: checkpoint.Position) -> None:
        """A checkpoint of the best so far; where there is no room for it, it is not the best."""
        position = self._position
        self._save()
        if not self._ranks.from_first(self._keeper.saved_step == position.step):
            position.best_step, position.best_value = before.best_step, before.best_value
            position.best_eval_loss = before.best_eval_loss

    def _tell_early_stop(self) -> None:
        position, given = self._position, self._given
        message = (
            f"Stopped early at step {position.step} of {self._plan.total_steps}: in "
            f"{position.evaluations_in_vain} evaluations {given.best_metric} has not improved by "
            f"more than {given.early_stopping_min_delta:g}; the best was {position.best_value} at "
            f"step {position.best_step}."
        )
        logger.info(message)
        self._progress.write(
            Kind.EARLY_STOP, step=position.step, best_step=position.best_step, message=message
        )

    def _sample(self, *, at_the_end: bool = False) -> None:
        """Tell what the model answers to the fixed prompts; its time is not the training's."""
        step, every = self._position.step, self._given.sample_every_steps
        if self._sampler is None or not every or (step % every and not at_the_end):
            return
        if not self._ranks.is_first:
            return
        begun = time.monotonic()
        samples = self._sampler.ask(self._loaded, stopping=self._asked_to_stop)
        self._progress.write(Kind.SAMPLE, step=step, samples=samples)
        spent = time.monotonic() - begun
        self._begun += spent
        self._teller.leave_out(spent)
        self._pulse.skip()

    # Saving and resuming

    def _save(self) -> None:
        position = self._position
        if not self._ranks.is_first:
            self._keeper.saved_step = position.step  # the first's word counts
            return
        position.recent_losses = list(self._recent)
        position.window_metrics = self._teller.tally.sums()
        position.total_seconds = self._total_seconds()
        position.skipped = sorted(self._skipped)
        position.micro_batch_splits = self._splits
        self._keeper.save(position, optimizer=self._optimizer, device=self._device)

    def _keep_snapshot(self) -> None:
        """Of the end of an epoch that is not the last one, whose end is the result."""
        step, kept = self._position.step, self._given.snapshots_kept
        if (
            not (kept and self._ranks.is_first)
            or self._is_over()
            or not self._plan.epoch(step).is_integer()
        ):
            return
        snapshots.save(
            snapshots.folder_beside(Path(self._spec.output_path)),
            step=step,
            kept=kept,
            fill=lambda folder: model.save_result(self._loaded, self._tokenizer, folder),
        )

    def _load(self) -> None:
        """The base, and the adapter or not, as they are before the first step."""
        for name in ("_steps", "_optimizer", "_loaded"):
            self.__dict__.pop(name, None)  # their memory first
        self._loaded = model.load_model(self._spec)
        self._share = model.can_share(self._loaded)
        self._optimizer = MasterAdamW(self._loaded.trained, weight_decay=self._given.weight_decay)

    def _resume(self) -> None:
        """Take up the newest checkpoint, if there is one."""
        self._position = resuming.take_up(
            self._newest(),
            own=resuming.fingerprint(self._spec, self._train),
            optimizer=self._optimizer,
            device=self._device,
            seed=self._given.seed,
        )
        position = self._position
        self._keeper.saved_step = position.step
        self._skipped |= set(position.skipped)
        self._splits = max(self._splits, position.micro_batch_splits)
        self._teller.tally = objectives.Tally(position.window_metrics)
        recent = max(1, min(_RECENT_STEPS, self._plan.total_steps // 10))
        self._recent = deque(position.recent_losses, maxlen=recent)
        self._steps = Steps(
            objective=self._objective,
            loaded=self._loaded,
            optimizer=self._optimizer,
            plan=self._plan,
            train=self._train,
            device=self._device,
            share=self._share,
            splits=self._splits,
            progress=self._progress,
            pulse=self._pulse,
            stopping=self._asked_to_stop if self._ranks.count == 1 else lambda: False,
            seed=self._given.seed,
            ranks=self._ranks,
        )

    def _newest(self) -> Path | None:
        """The newest whole checkpoint, found by the first rank."""
        first = self._ranks.is_first
        return self._ranks.from_first(checkpoint.load_newest(self._checkpoints) if first else None)

    def _yield(self) -> None:
        if self._keeper.saved_step != self._position.step:
            self._save()
        self._progress.write(Kind.YIELDED, step=self._keeper.saved_step)
        logger.info("yielded at step %d", self._keeper.saved_step)

    def _take_best(self) -> int:
        """Put the best weights in place of the last ones if the run is to; returns their step."""
        position = self._position
        chosen = position.best_step
        if not self._given.keep_best or chosen is None or chosen == position.step:
            return position.step
        try:
            path = checkpoint.folder_of(self._checkpoints, chosen)
            checkpoint.restore_weights(path, self._optimizer)
        except (ValueError, *DISK_ERRORS) as error:
            message = f"The checkpoint of step {chosen}, the best, cannot be read: the result is "
            message += f"the last step's, {position.step}. ({error})"
            logger.warning(message)
            self._progress.write(
                Kind.WARNING, reason="best_is_gone", message=message, step=position.step
            )
            return position.step
        logger.info("the result is the model of step %d, the best", chosen)
        return chosen

    def _finish(self, result_step: int) -> None:
        position = self._position
        is_best = result_step == position.best_step and result_step != position.step
        facts = {
            "step": position.step,
            "result_step": result_step,
            "train_loss": sum(self._recent) / max(1, len(self._recent)),
            "eval_loss": position.best_eval_loss if is_best else position.eval_loss,
            "best_step": position.best_step,
            "best_value": position.best_value,
            "stopped_early": position.stopped_early,
            "tokens_total": position.tokens_total,
            "seconds_total": round(self._total_seconds(), 3),
            "peak_memory_bytes": memory.peak_bytes(self._device),
            "output_path": self._spec.output_path,
        }
        parity_record = parity.record(
            self._loaded,
            self._tokenizer,
            [self._eval, self._train] if self._eval else [self._train],
            spec=self._spec,
        )

        def fill(folder: Path) -> None:
            model.save_result(self._loaded, self._tokenizer, folder)
            parity.write(folder, parity_record)

        self._keeper.write_result(
            fill,
            facts=facts | {"run_id": self._spec.run_id},
            total_bytes=sum(weight.nbytes for weight in self._loaded.model.parameters()),
            stopping=self._asked_to_stop,
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
            fingerprint=resuming.fingerprint(self._spec, self._train),
            batch_size=batch_size,
            share=self._share,
            stopping=self._stopping,
            ranks=self._ranks,
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
