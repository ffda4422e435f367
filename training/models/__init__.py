from training.models.dataset import (
    Dataset,
    DatasetFinding,
    DatasetSource,
    DatasetSplit,
    DatasetVersion,
)
from training.models.evaluation import Evaluation, EvaluationAnswer
from training.models.token_count import TokenCount
from training.models.training_run import (
    Checkpoint,
    TrainingEvent,
    TrainingMetric,
    TrainingRun,
    TrainingSample,
)

__all__ = [
    "Checkpoint",
    "Dataset",
    "DatasetFinding",
    "DatasetSource",
    "DatasetSplit",
    "DatasetVersion",
    "Evaluation",
    "EvaluationAnswer",
    "TokenCount",
    "TrainingEvent",
    "TrainingMetric",
    "TrainingRun",
    "TrainingSample",
]
