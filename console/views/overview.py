"""Overview: is everything of mine well, what did it cost, what is next?"""

from dataclasses import dataclass
from datetime import timedelta

from django.http import HttpResponse
from django.urls import reverse
from django.utils.translation import gettext as _

from accounts.choices import Capability
from accounts.models import Organization
from chips.models import Allocation
from console.pages import ConsoleRequest, console_page, show_live
from console.views.usage import month_so_far
from deployments.choices import DeploymentStatus, ReplicaStatus
from deployments.models import Deployment, Replica
from models_registry.models import RegisteredModel
from training.choices import TERMINAL, RunStatus
from training.models import Dataset, TrainingRun


@dataclass(frozen=True)
class Trouble:
    """Something that is not well, and where to look."""

    title: str
    text: str
    url: str


@dataclass(frozen=True)
class Step:
    label: str
    note: str
    url: str
    done: bool


@console_page()
def overview(request: ConsoleRequest) -> HttpResponse:
    organization = request.organization
    deployments = Deployment.objects.of(organization).filter(deleted_at__isnull=True)
    runs = TrainingRun.objects.of(organization)
    moving_runs = runs.exclude(status__in=TERMINAL)
    steps = _steps(organization)
    context = {
        "title": _("Overview"),
        "lede": organization.name,
        "troubles": _troubles(request),
        "steps": steps,
        "is_new": not all(step.done for step in steps),
        "ready": Replica.objects.filter(
            deployment__in=deployments, status=ReplicaStatus.READY
        ).count(),
        "wanted": sum(deployments.values_list("desired_replicas", flat=True)),
        "accelerators": sum(
            Allocation.objects.of(organization)
            .filter(released_at__isnull=True)
            .values_list("accelerator_share", flat=True)
        ),
        "moving_runs": moving_runs.select_related("base_revision__registered_model")[:5],
        "recent_runs": runs.filter(status__in=TERMINAL).order_by("-ended_at")[:5],
        "deployments": deployments.select_related("revision__registered_model")[:8],
        "month": month_so_far(request) if Capability.VIEW_USAGE in request.granted else None,
        "model_count": RegisteredModel.objects.owned_by(organization).count(),
        "dataset_count": Dataset.objects.of(organization).count(),
    }
    moving = moving_runs.exists() or deployments.filter(status=DeploymentStatus.PENDING).exists()
    return show_live(
        request, "console/overview/page.html", "console/overview/_live.html", context, moving=moving
    )


def _troubles(request: ConsoleRequest) -> list[Trouble]:
    ailing = Deployment.objects.of(request.organization).filter(
        deleted_at__isnull=True, status__in=[DeploymentStatus.FAILED, DeploymentStatus.DEGRADED]
    )
    found = [
        Trouble(
            _("%(name)s is not well") % {"name": one.name},
            one.message or str(one.get_status_display()),
            reverse("console:deployment", args=[one.pk]),
        )
        for one in ailing[:5]
    ]
    failed = TrainingRun.objects.of(request.organization).filter(
        status=RunStatus.FAILED, ended_at__gte=request.now - timedelta(days=3)
    )
    found += [
        Trouble(
            _("The run %(name)s failed") % {"name": one.name},
            one.message,
            reverse("console:run", args=[one.pk]),
        )
        for one in failed[:5]
    ]
    return found


def _steps(organization: Organization) -> list[Step]:
    """The main job, and how far this organization has come with it."""
    runs = TrainingRun.objects.of(organization)
    return [
        Step(
            _("Get a base model"),
            _("From a hub, or one that is shared with you."),
            reverse("console:models"),
            RegisteredModel.objects.of(organization).exists(),
        ),
        Step(
            _("Upload a dataset"),
            _("Conversations as your users have them."),
            reverse("console:dataset_upload"),
            Dataset.objects.of(organization).exists(),
        ),
        Step(
            _("Fine-tune"),
            _("A run learns from the dataset."),
            reverse("console:run_create"),
            runs.filter(status=RunStatus.SUCCEEDED).exists(),
        ),
        Step(
            _("Deploy"),
            _("The result answers at /v1/."),
            reverse("console:deployment_create"),
            Deployment.objects.of(organization).exists(),
        ),
    ]
