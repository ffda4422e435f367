"""What a form may offer to this organization, as choices: (value, label)."""

from django.utils.translation import gettext as _

from accounts.models import Organization
from chips.models import Pool
from deployments import adapters, custom_engines
from deployments.models import Deployment, Route
from deployments.services.checks import SERVED_WHOLE
from engines import architectures
from engines.host import ADAPTER_ENGINES
from models_registry.choices import RevisionKind
from models_registry.models import Revision
from training.models import DatasetSplit, DatasetVersion

Choice = tuple[str, str]
MOST = 200
ENGINE_NAMES = {"vllm": "vLLM", "sglang": "SGLang", "llamacpp": "llama.cpp"}


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
    rows = DatasetVersion.objects.filter(dataset__organization=organization, status="ready")
    rows = rows.select_related("dataset").prefetch_related("splits").order_by("-created_at")[:MOST]
    return [
        (str(row.pk), f"{row} ({', '.join(split.name for split in row.splits.all())})")
        for row in rows
    ]


def splits(organization: Organization) -> list[Choice]:
    """Splits of its dataset versions, those not meant for training first."""
    rows = DatasetSplit.objects.filter(version__dataset__organization=organization)
    newest = rows.select_related("version__dataset").order_by("-version__created_at")[:MOST]
    found = [
        row for row in newest if row.version.report.get("evaluated_split", row.name) == row.name
    ]
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


def servable_revisions(organization: Organization) -> list[Revision]:
    """Those that an engine can serve, the newest first."""
    rows = Revision.objects.of(organization).filter(kind__in={*SERVED_WHOLE, RevisionKind.ADAPTER})
    rows = rows.select_related("registered_model__organization", "parent__registered_model")
    return list(rows.order_by("-created_at")[:MOST])


def engines(revision: Revision) -> list[Choice]:
    """Engines that may serve the revision, the built-in one first, operators' own last. Never the
    fake one, which answers without any model."""
    base, is_adapter = adapters.base_of(revision), adapters.is_adapter(revision)
    able = []
    for name in custom_engines.list_names():
        refusal = architectures.refusal(
            name,
            model_type=base.model_type,
            architecture=base.architecture,
            quantization=base.quantization,
            adapter=is_adapter,
        )
        if refusal is None and name != "fake" and (not is_adapter or name in ADAPTER_ENGINES):
            able.append(name)
    order = [architectures.BUILTIN, *ENGINE_NAMES]
    able.sort(key=lambda name: (order.index(name) if name in order else len(order), name))
    return [(name, engine_name(name)) for name in able]


def engine_name(engine: str) -> str:
    """The engine as people call it."""
    if engine == architectures.BUILTIN:
        return _("Built-in engine")
    return ENGINE_NAMES.get(engine, engine)


def hosts(organization: Organization, adapter: Revision) -> list[Deployment]:
    """Deployments on whose replicas the adapter can be served, the best one first."""
    found = [
        host
        for engine in (architectures.BUILTIN, *sorted(ADAPTER_ENGINES - {architectures.BUILTIN}))
        for host in adapters.list_hosts(organization, adapter, engine=engine)
    ]
    return [host for host in found if adapters.is_alive(host)]


def deployment_names(organization: Organization) -> list[str]:
    """Names that a new deployment cannot have."""
    rows = Deployment.objects.of(organization).filter(deleted_at__isnull=True)
    return list(rows.values_list("name", flat=True))
