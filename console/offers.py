"""What a form may offer to this organization, as choices: (value, label)."""

from accounts.models import Organization
from chips.models import Pool
from deployments.models import Route
from models_registry.choices import RevisionKind
from models_registry.models import Revision
from training.models import DatasetSplit, DatasetVersion

Choice = tuple[str, str]
MOST = 200


def revisions(organization: Organization, *, adapters: bool = True) -> list[Choice]:
    """Revisions it may use, the newest first."""
    rows = Revision.objects.of(organization).select_related("registered_model__organization")
    if not adapters:
        rows = rows.exclude(kind=RevisionKind.ADAPTER)
    rows = rows.order_by("-created_at")[:MOST]
    return [
        (str(row.pk), f"{row.registered_model} r{row.number} ({row.get_kind_display()})")
        for row in rows
    ]


def dataset_versions(organization: Organization) -> list[Choice]:
    """Its dataset versions, the newest first, with their splits."""
    rows = DatasetVersion.objects.filter(dataset__organization=organization)
    rows = rows.select_related("dataset").prefetch_related("splits").order_by("-created_at")[:MOST]
    return [
        (str(row.pk), f"{row} ({', '.join(split.name for split in row.splits.all())})")
        for row in rows
    ]


def splits(organization: Organization) -> list[Choice]:
    """Splits of its dataset versions, those not meant for training first."""
    rows = DatasetSplit.objects.filter(version__dataset__organization=organization)
    found = list(rows.select_related("version__dataset").order_by("-version__created_at")[:MOST])
    found.sort(key=lambda split: split.name == "train")
    return [(str(row.pk), f"{row} ({row.examples:,})") for row in found]


def served_models(organization: Organization) -> list[Choice]:
    """The public model names of its routes."""
    names = Route.objects.of(organization).values_list("name", flat=True)
    return [(name, name) for name in names[:MOST]]


def pools(organization: Organization) -> list[Choice]:
    """Pools it may use: open ones, and those granted to it."""
    open_ones = Pool.objects.filter(is_open=True)
    granted = Pool.objects.filter(grants__organization=organization)
    return [(row.name, row.name) for row in (open_ones | granted).distinct()]
