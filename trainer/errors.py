"""Why a run ends early: one exception, told apart by its reason code."""

from __future__ import annotations

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
