"""What people ask of training: datasets, runs, evaluations. Rows say what is wanted."""

from training.services.datasets import (
    DatasetInvalid,
    DatasetNameTaken,
    create_dataset,
    upload_version,
)

__all__ = [
    "DatasetInvalid",
    "DatasetNameTaken",
    "create_dataset",
    "upload_version",
]
