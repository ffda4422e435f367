"""Why a run ends early: one exception, told apart by its reason code."""

from __future__ import annotations

import errno
from enum import StrEnum


class FailureReason(StrEnum):
    BAD_SPEC = "bad_spec"  # the spec file contradicts itself or names what is not there
    BAD_DATA = "bad_data"  # a line of the data cannot be trained on
    OUT_OF_MEMORY = "out_of_memory"  # the host or the accelerator had no more memory to give
    NAN_LOSS = "nan_loss"  # the loss stopped being a number
    DISK_FULL = "disk_full"  # a checkpoint or the result could not be written
    UNSUPPORTED_MODEL = "unsupported_model"  # the base cannot be loaded safely, or not trained
    CRASHED = "crashed"  # anything else: a fault of ours, see the log


class TrainingFailure(Exception):
    """A failure with a reason code, a message for people and what they can do about it."""

    def __init__(self, reason: FailureReason, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.remedy = remedy


class SpecError(TrainingFailure):
    """A refused spec: `field` is the dotted name of the offending field."""

    def __init__(self, field: str, message: str, *, remedy: str) -> None:
        super().__init__(FailureReason.BAD_SPEC, f"{field}: {message}", remedy=remedy)
        self.field = field


class RankLost(TrainingFailure):
    """Another rank is gone; it, or the process that watches over it, may have said why."""

    def __init__(self, told: str) -> None:
        super().__init__(
            FailureReason.CRASHED,
            f"another process of this run is gone: {told}",
            remedy="see the log for the one that ended first; a restart resumes at the last checkpoint",
        )


def explain(error: Exception) -> TrainingFailure:
    """The failure that an exception amounts to, whichever library raised it."""
    if isinstance(error, TrainingFailure):
        return error
    told = f"{type(error).__name__}: {error}"
    if _is_out_of_memory(error, told):
        return TrainingFailure(
            FailureReason.OUT_OF_MEMORY,
            told,
            remedy="halve batch_size and double gradient_accumulation, or shorten max_length_tokens",
        )
    if _is_disk_full(error, told):
        return TrainingFailure(
            FailureReason.DISK_FULL, told, remedy="free space under checkpoint_path and output_path"
        )
    return TrainingFailure(
        FailureReason.CRASHED, told, remedy="see the log; a restart resumes at the last checkpoint"
    )


def _is_out_of_memory(error: Exception, told: str) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    signs = (
        "can't allocate memory",
        "not enough memory",
        "out of memory",
        "Cannot allocate memory",
    )
    return isinstance(error, RuntimeError | OSError) and any(sign in told for sign in signs)


def _is_disk_full(error: Exception, told: str) -> bool:
    full = (errno.ENOSPC, errno.EDQUOT)
    if isinstance(error, OSError) and error.errno in full:
        return True
    return any(f"os error {code}" in told for code in full)  # as safetensors puts it
