"""Models that a run kept on its way, as revisions beside that of its result."""

from datetime import datetime

from models_registry import services as registry
from models_registry.choices import RevisionKind, SourceKind
from trainer import snapshots
from training import planning
from training.choices import Tuning
from training.models import TrainingRun
from training.planning import RunFolders


def publish(run: TrainingRun, folders: RunFolders, *, now: datetime) -> None:
    """They say their step in their lineage, as `checkpoint_step`. Safe to repeat. Raises
    DomainError, OSError."""
    for step, folder in snapshots.list_whole(snapshots.folder_beside(folders.output)):
        registry.publish_folder(
            organization=run.organization,
            name=run.output_name,
            folder=folder,
            kind=RevisionKind.FULL if run.tuning == Tuning.FULL else RevisionKind.ADAPTER,
            source_kind=SourceKind.TRAINING_RUN,
            source=run.name,
            parent=run.base_revision,
            lineage=planning.lineage(run) | {"checkpoint_step": step, "steps": step},
            now=now,
        )
