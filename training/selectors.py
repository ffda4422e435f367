"""Questions asked of training's rows; each starts from the organization."""

from uuid import UUID

from django.db.models import Count, Max, QuerySet

from accounts.models import Organization
from common.errors import NotFound
from training.choices import DatasetKind
from training.models import (
    Checkpoint,
    Dataset,
    DatasetFinding,
    DatasetSplit,
    DatasetVersion,
    Evaluation,
    EvaluationAnswer,
    TokenCount,
    TrainingEvent,
    TrainingMetric,
    TrainingRun,
    TrainingSample,
)

LEARNT = "train"
MOST_COMPARED = 20
MOST_COMPARED_BYTES = 64 * 2**20


def list_datasets(organization: Organization) -> QuerySet[Dataset]:
    """By name, with `version_count` and `changed_at`."""
    rows = Dataset.objects.of(organization)
    return rows.annotate(version_count=Count("versions"), changed_at=Max("versions__created_at"))


def get_dataset(organization: Organization, dataset_id: UUID) -> Dataset:
    """Raises NotFound."""
    row = list_datasets(organization).filter(pk=dataset_id).first()
    if row is None:
        raise NotFound("No such dataset.")
    return row


def list_versions(organization: Organization) -> QuerySet[DatasetVersion]:
    """Newest first within each dataset, with dataset and splits."""
    rows = DatasetVersion.objects.filter(dataset__organization=organization)
    return rows.select_related("dataset").prefetch_related("splits")


def get_version(organization: Organization, version_id: UUID) -> DatasetVersion:
    """Raises NotFound."""
    row = list_versions(organization).filter(pk=version_id).first()
    if row is None:
        raise NotFound("No such dataset version.")
    return row


def list_findings(version: DatasetVersion, *, kind: str = "") -> QuerySet[DatasetFinding]:
    """What the check found, kind by kind, by line; all of it or one kind."""
    rows = DatasetFinding.objects.filter(version=version).order_by("id")
    return rows.filter(kind=kind) if kind else rows


def list_token_counts(version: DatasetVersion) -> QuerySet[TokenCount]:
    """Newest first, with their models."""
    rows = TokenCount.objects.filter(version=version).order_by("-created_at")
    return rows.select_related("revision__registered_model__organization")


def list_evaluation_splits(organization: Organization) -> dict[str, DatasetSplit]:
    """The splits that evaluations of the organization ask, by id, the newest first: as many as 20,
    of 64 MiB together. What is learnt from should hold none of their lines."""
    asked = Evaluation.objects.of(organization).values("split")
    rows = DatasetSplit.objects.filter(pk__in=asked).exclude(name=LEARNT)
    rows = rows.exclude(version__kind=DatasetKind.LM_TASK)  # whose lines have any names
    found: dict[str, DatasetSplit] = {}
    blobs: set[str] = set()
    size = 0
    for row in rows.select_related("version__dataset").order_by("-version__created_at", "name"):
        if row.blob_id in blobs:
            continue
        size += row.size_bytes
        if len(found) >= MOST_COMPARED or size > MOST_COMPARED_BYTES:
            break
        blobs.add(row.blob_id)
        found[str(row.pk)] = row
    return found


def list_runs(organization: Organization) -> QuerySet[TrainingRun]:
    """Newest first, with all that a list shows of what they are made of."""
    return TrainingRun.objects.of(organization).select_related(
        "base_revision__registered_model__organization",
        "result_revision__registered_model__organization",
        "dataset_version__dataset",
        "node",
        "allocation",
    )


def get_run(organization: Organization, run_id: UUID) -> TrainingRun:
    """Raises NotFound."""
    row = list_runs(organization).filter(pk=run_id).first()
    if row is None:
        raise NotFound("No such training run.")
    return row


def list_metrics(run: TrainingRun) -> QuerySet[TrainingMetric]:
    """By step."""
    return TrainingMetric.objects.filter(run=run).order_by("step")


def list_samples(run: TrainingRun) -> QuerySet[TrainingSample]:
    """By step."""
    return TrainingSample.objects.filter(run=run).order_by("step")


def list_events(run: TrainingRun) -> QuerySet[TrainingEvent]:
    """In the order they happened."""
    return TrainingEvent.objects.filter(run=run).order_by("at", "id")


def list_checkpoints(run: TrainingRun) -> QuerySet[Checkpoint]:
    """Newest first, pruned ones included."""
    return Checkpoint.objects.filter(run=run).order_by("-step")


def list_evaluations(organization: Organization) -> QuerySet[Evaluation]:
    """Newest first, with what they are on."""
    return Evaluation.objects.of(organization).select_related("split__version__dataset")


def get_evaluation(organization: Organization, evaluation_id: UUID) -> Evaluation:
    """Raises NotFound."""
    row = list_evaluations(organization).filter(pk=evaluation_id).first()
    if row is None:
        raise NotFound("No such evaluation.")
    return row


def list_answers(
    evaluation: Evaluation, *, model_name: str = "", is_exact: bool | None = None
) -> QuerySet[EvaluationAnswer]:
    """By line, the models of one line together; all of them or those asked for."""
    rows = EvaluationAnswer.objects.filter(evaluation=evaluation).order_by("line", "model_name")
    if model_name:
        rows = rows.filter(model_name=model_name)
    if is_exact is not None:
        rows = rows.filter(is_exact=is_exact)
    return rows
