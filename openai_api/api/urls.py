"""What of /v1/ is answered here and not by the gateway: see `factory/asgi.py`, which asks
`is_ours`."""

import re

from django.urls import URLPattern, URLResolver, path, re_path

from openai_api.api import batches, files, jobs, models, views

JOB = "fine_tuning/jobs/<str:job_id>"
OURS = re.compile(r"/v1/(files|fine_tuning|batches)(/.*)?", re.DOTALL)

urlpatterns: list[URLPattern | URLResolver] = [
    path("files", files.FileList.as_view()),
    path("files/<str:file_id>", files.FileDetail.as_view()),
    path("files/<str:file_id>/content", files.FileContent.as_view()),
    path("fine_tuning/jobs", jobs.JobList.as_view()),
    path(JOB, jobs.JobDetail.as_view()),
    path(f"{JOB}/cancel", jobs.JobAction.as_view(action="cancel")),
    path(f"{JOB}/pause", jobs.JobAction.as_view(action="pause")),
    path(f"{JOB}/resume", jobs.JobAction.as_view(action="resume")),
    path(f"{JOB}/events", jobs.JobEvents.as_view()),
    path(f"{JOB}/checkpoints", jobs.JobCheckpoints.as_view()),
    path("batches", batches.BatchList.as_view()),
    path("batches/<str:batch_id>", batches.BatchDetail.as_view()),
    path("batches/<str:batch_id>/cancel", batches.BatchCancel.as_view()),
    path("models/<str:model>", models.FineTunedModel.as_view()),
    re_path(r"^.*$", views.Unknown.as_view()),
]


def is_ours(method: str, where: str) -> bool:
    """Whether a request of this method for this path is for the views here."""
    is_deletion = method == "DELETE" and where.startswith("/v1/models/ft:")
    return is_deletion or OURS.fullmatch(where) is not None
