"""What the engines of a deployment's replicas say: a part that follows, and the text to keep."""

from uuid import UUID

from django.http import HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.translation import gettext as _

from console import replicas
from console.downloads import text_download
from console.pages import ConsoleRequest, console_page, show_live
from console.views.deployments import find, list_replicas
from deployments.models import Replica


@console_page()
def deployment_logs(request: ConsoleRequest, deployment_id: UUID) -> HttpResponse:
    """`?replica=` names whose; without it, the one that most likely wants to be read."""
    deployment = find(request, deployment_id)
    asked = request.GET.get("replica", "")
    part = replicas.logs(deployment, list_replicas(deployment), asked=asked)
    return show_live(
        request,
        "console/deployments/logs.html",
        "console/deployments/_log.html",
        {
            "title": _("Logs of %(name)s") % {"name": deployment.name},
            "crumbs": [
                {"label": _("Deployments"), "url": reverse("console:deployments")},
                {
                    "label": deployment.name,
                    "url": reverse("console:deployment", args=[deployment.pk]),
                },
            ],
            **part,
        },
        moving=True,
    )


@console_page()
def replica_log(request: ConsoleRequest, deployment_id: UUID, replica_id: UUID) -> HttpResponse:
    """The end of the log as it is kept, to save."""
    deployment = find(request, deployment_id)
    replica = get_object_or_404(Replica, pk=replica_id, deployment=deployment)
    return text_download(replica.log_tail, f"{replica}.log")
