"""Where an evaluation keeps what it can make again: beside the platform's data, gone with its end."""

import hashlib
import shutil
from pathlib import Path

from django.conf import settings

from training.models import Evaluation


def folder(evaluation: Evaluation) -> Path:
    """Of this node: a worker elsewhere begins anew."""
    return Path(settings.FACTORY_DATA) / "evaluations" / str(evaluation.pk)


def file_name(text: str) -> str:
    """A name for a file or folder about something with any name."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def clear(evaluation: Evaluation) -> None:
    shutil.rmtree(folder(evaluation), ignore_errors=True)
