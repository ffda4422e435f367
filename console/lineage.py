"""The chain behind and before a revision, as stages that components/lineage_graph.html draws."""

from dataclasses import dataclass

from django.urls import reverse
from django.utils.translation import gettext as _

from accounts.models import Organization
from console import formats
from deployments.models import Deployment
from models_registry.models import EvaluationResult, Revision
from training.models import Evaluation, TrainingRun


@dataclass(frozen=True)
class Node:
    title: str
    note: str = ""
    url: str = ""
    current: bool = False


@dataclass(frozen=True)
class Stage:
    label: str
    nodes: list[Node]


def of_revision(revision: Revision, *, organization: Organization) -> list[Stage]:
    """From the first ancestor to what serves it now; only what the organization may see."""
    run = (
        TrainingRun.objects.of(organization)
        .filter(result_revision=revision)
        .select_related("dataset_version__dataset")
        .first()
    )
    stages = [
        Stage(_("Made from"), [_revision_node(one)]) for one in _ancestors(revision, organization)
    ]
    if run is not None:
        version = run.dataset_version
        stages.append(
            Stage(
                _("Dataset version"),
                [
                    Node(
                        str(version),
                        url=reverse("console:dataset_version", args=[version.pk]),
                    )
                ],
            )
        )
        stages.append(
            Stage(
                _("Training run"),
                [Node(run.name, run.get_tuning_display(), reverse("console:run", args=[run.pk]))],
            )
        )
    stages.append(Stage(_("Revision"), [_revision_node(revision, current=True)]))
    for label, nodes in (
        (_("Evaluations"), _evaluations(revision, organization)),
        (_("Aliases"), [Node(f"@{one.name}") for one in revision.aliases.all()]),
        (_("Derived"), _derived(revision, organization)),
        (_("Deployments"), _deployments(revision, organization)),
    ):
        if nodes:
            stages.append(Stage(label, nodes))
    return stages


def _ancestors(revision: Revision, organization: Organization) -> list[Revision]:
    found: list[Revision] = []
    parent_id = revision.parent_id
    while parent_id is not None and len(found) < 16:
        parent = (
            Revision.objects.of(organization)
            .select_related("registered_model__organization")
            .filter(pk=parent_id)
            .first()
        )
        if parent is None:
            break
        found.insert(0, parent)
        parent_id = parent.parent_id
    return found


def _revision_node(revision: Revision, *, current: bool = False) -> Node:
    parameters = revision.parameter_count
    size = _("%(count)s parameters") % {"count": formats.count_short(parameters)}
    return Node(
        title=f"{revision.registered_model.name} r{revision.number}",
        note=size if parameters else str(revision.get_kind_display()),
        url=reverse("console:revision", args=[revision.pk]),
        current=current,
    )


def _evaluations(revision: Revision, organization: Organization) -> list[Node]:
    nodes = []
    for result in EvaluationResult.objects.of(organization).filter(revision=revision)[:4]:
        exact = result.metrics.get("exact_match")
        seen = Evaluation.objects.of(organization).filter(pk=result.evaluation_id).exists()
        nodes.append(
            Node(
                title=_("%(share)s exact") % {"share": formats.percent(exact)},
                note=f"{result.dataset_name} / {result.split}",
                url=reverse("console:evaluation", args=[result.evaluation_id]) if seen else "",
            )
        )
    return nodes


def _derived(revision: Revision, organization: Organization) -> list[Node]:
    children = Revision.objects.of(organization).filter(parent=revision)
    children = children.select_related("registered_model__organization")
    return [_revision_node(child) for child in children.order_by("-created_at")[:4]]


def _deployments(revision: Revision, organization: Organization) -> list[Node]:
    rows = Deployment.objects.of(organization).filter(revision=revision, deleted_at__isnull=True)
    return [
        Node(one.name, str(one.get_status_display()), reverse("console:deployment", args=[one.pk]))
        for one in rows[:6]
    ]
