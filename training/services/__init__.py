"""What people ask of training: datasets, runs, evaluations. Rows say what is wanted."""

from training.services.benchmarks import adopt_task, list_offered, upload_task
from training.services.counting import count_tokens
from training.services.datasets import (
    AT_ONCE_BYTES,
    FORMATS,
    DatasetInvalid,
    DatasetNameTaken,
    create_dataset,
    upload_version,
)
from training.services.evaluations import (
    EvaluationIsOver,
    cancel_evaluation,
    create_evaluation,
)
from training.services.gates import set_alias_gate
from training.services.runs import (
    RunIsOver,
    cancel_training_run,
    create_training_run,
    pause_training_run,
    resume_training_run,
)

__all__ = [
    "AT_ONCE_BYTES",
    "FORMATS",
    "DatasetInvalid",
    "DatasetNameTaken",
    "EvaluationIsOver",
    "RunIsOver",
    "adopt_task",
    "cancel_evaluation",
    "cancel_training_run",
    "count_tokens",
    "create_dataset",
    "create_evaluation",
    "create_training_run",
    "list_offered",
    "pause_training_run",
    "resume_training_run",
    "set_alias_gate",
    "upload_task",
    "upload_version",
]
