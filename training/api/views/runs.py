from collections.abc import Callable, Hashable
from typing import Any, ClassVar, cast
from uuid import UUID

from django.db.models import QuerySet
from django.http import StreamingHttpResponse
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_view
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.serializers import BaseSerializer

from accounts.api.views import OrganizationView
from common.api import PAGING, ErrorBody, Pagination, paginated
from training import comparing, curves, selectors, services, tensorboard
from training.api import run_bodies
from training.choices import RunStatus
from training.models import TrainingRun


class RunList(OrganizationView):
    @extend_schema(
        operation_id="training_runs_list",
        parameters=[*PAGING, OpenApiParameter("status", str, enum=RunStatus.values)],
        responses={200: paginated(run_bodies.TrainingRunBody)},
    )
    def get(self, request: Request) -> Response:
        """Training runs, newest first."""
        rows = selectors.list_runs(self.organization)
        if status := request.query_params.get("status"):
            rows = rows.filter(status=status)
        return Pagination.answer(rows, run_bodies.TrainingRunBody, request, self)

    @extend_schema(
        operation_id="training_runs_create",
        request=run_bodies.TrainingRunRequest,
        responses={202: run_bodies.TrainingRunBody, 400: ErrorBody, 404: ErrorBody},
    )
    def post(self, request: Request) -> Response:
        """Want a fine-tuning. It starts as soon as accelerators are free; follow its status."""
        body = run_bodies.TrainingRunRequest(data=request.data)
        body.is_valid(raise_exception=True)
        asked = dict(body.validated_data)
        run = services.create_training_run(
            organization=self.organization,
            base_revision_id=asked.pop("base_revision"),
            init_revision_id=asked.pop("init_revision"),
            dataset_version_id=asked.pop("dataset_version"),
            actor=self.actor,
            now=timezone.now(),
            **asked,
        )
        return Response(run_bodies.TrainingRunBody(run).data, status=202)


class RunDetail(OrganizationView):
    @extend_schema(
        operation_id="training_runs_retrieve",
        responses={200: run_bodies.TrainingRunBody, 404: ErrorBody},
    )
    def get(self, request: Request, run_id: UUID) -> Response:
        """A training run as it is now."""
        run = selectors.get_run(self.organization, run_id)
        return Response(run_bodies.TrainingRunBody(run).data)


def _changes(name: str, description: str) -> Callable[[type[OrganizationView]], Any]:
    """The description of a change of a run, which answers with the run."""
    return extend_schema_view(
        post=extend_schema(
            operation_id=f"training_runs_{name}",
            description=description,
            request=None,
            responses={202: run_bodies.TrainingRunBody, 404: ErrorBody, 409: ErrorBody},
        )
    )


class RunChange(OrganizationView):
    """Something else is wanted of a run from now on; `change` is the service that says so."""

    change: ClassVar[Callable[..., TrainingRun]]

    def post(self, request: Request, run_id: UUID) -> Response:
        run = type(self).change(
            organization=self.organization, run_id=run_id, actor=self.actor, now=timezone.now()
        )
        run = selectors.get_run(self.organization, run.pk)
        return Response(run_bodies.TrainingRunBody(run).data, status=202)


@_changes("cancel", "Want the run no more. Asking twice changes nothing; 409 once it is over.")
class RunCancel(RunChange):
    change = staticmethod(services.cancel_training_run)


@_changes(
    "pause",
    "Let the run rest: it saves a checkpoint and gives its accelerators back. Asking twice changes "
    "nothing; 409 once it is over.",
)
class RunPause(RunChange):
    change = staticmethod(services.pause_training_run)


@_changes(
    "resume",
    "Want a paused run again; it goes on from its last checkpoint. 409 once it is over.",
)
class RunResume(RunChange):
    change = staticmethod(services.resume_training_run)


def _lists(
    name: str, description: str, body: type[BaseSerializer[Any]], *more: OpenApiParameter
) -> Callable[[type[OrganizationView]], Any]:
    """The description of a list of what belongs to a run."""
    return extend_schema_view(
        get=extend_schema(
            operation_id=f"training_runs_{name}",
            description=description,
            parameters=[*PAGING, *more],
            responses={200: paginated(cast("Hashable", body)), 404: ErrorBody},
        )
    )


class RunRows(OrganizationView):
    """A list of what belongs to a run: `rows` is the selector, `body` how each is shown."""

    rows: Callable[[TrainingRun], QuerySet[Any]]
    body: ClassVar[type[BaseSerializer[Any]]]

    def get(self, request: Request, run_id: UUID) -> Response:
        run = selectors.get_run(self.organization, run_id)
        return Pagination.answer(self.asked(run, request), self.body, request, self)

    def asked(self, run: TrainingRun, request: Request) -> QuerySet[Any]:
        return type(self).rows(run)


@_lists(
    "metrics",
    "What was measured, by step; with `after_step` only what came later.",
    run_bodies.MetricBody,
    OpenApiParameter("after_step", int),
)
class RunMetrics(RunRows):
    rows = staticmethod(selectors.list_metrics)
    body = run_bodies.MetricBody

    def asked(self, run: TrainingRun, request: Request) -> QuerySet[Any]:
        rows = super().asked(run, request)
        after = request.query_params.get("after_step", "")
        return rows.filter(step__gt=min(int(after), 2**31 - 1)) if after.isdigit() else rows


@_lists("events", "What happened to the run, in order.", run_bodies.TrainingEventBody)
class RunEvents(RunRows):
    rows = staticmethod(selectors.list_events)
    body = run_bodies.TrainingEventBody


@_lists(
    "checkpoints",
    "Checkpoints, newest first; those with `pruned_at` are no longer there.",
    run_bodies.CheckpointBody,
)
class RunCheckpoints(RunRows):
    rows = staticmethod(selectors.list_checkpoints)
    body = run_bodies.CheckpointBody


@_lists(
    "samples",
    "What the model answered to the run's fixed prompts, by step.",
    run_bodies.SampleBody,
)
class RunSamples(RunRows):
    rows = staticmethod(selectors.list_samples)
    body = run_bodies.SampleBody


class RunLog(OrganizationView):
    @extend_schema(
        operation_id="training_runs_log", responses={200: run_bodies.LogBody, 404: ErrorBody}
    )
    def get(self, request: Request, run_id: UUID) -> Response:
        """The end of the trainer's log."""
        run = selectors.get_run(self.organization, run_id)
        return Response(run_bodies.LogBody(run).data)


class RunTensorBoard(OrganizationView):
    @extend_schema(
        operation_id="training_runs_tensorboard",
        responses={(200, "application/octet-stream"): bytes, 404: ErrorBody},
    )
    def get(self, request: Request, run_id: UUID) -> StreamingHttpResponse:
        """The run's metrics and samples as a TensorBoard event file, up to now."""
        run = selectors.get_run(self.organization, run_id)
        return StreamingHttpResponse(
            tensorboard.event_file(run),
            content_type="application/octet-stream",
            headers={"Content-Disposition": f'attachment; filename="{tensorboard.file_name(run)}"'},
        )


class RunCompare(OrganizationView):
    @extend_schema(
        operation_id="training_runs_compare",
        parameters=[
            OpenApiParameter("run", UUID, many=True, required=True, description="Two to eight."),
            OpenApiParameter("by", str, enum=curves.AXES),
        ],
        responses={200: run_bodies.ComparisonBody, 400: ErrorBody, 404: ErrorBody},
    )
    def get(self, request: Request) -> Response:
        """Runs side by side: every value, which of them differ, and their curves by step, by
        tokens or by hours."""
        ids = run_bodies.RunIds(data={"run": request.query_params.getlist("run")})
        ids.is_valid(raise_exception=True)
        runs = comparing.find_runs(self.organization, ids.validated_data["run"])
        axis = request.query_params.get("by", curves.AXES[0])
        body = {
            "runs": [{"id": run.pk, "name": run.name} for run in runs],
            "rows": comparing.table(runs),
            "by": axis,
            "curves": [comparing.run_curves(run, axis=axis) for run in runs],
        }
        return Response(run_bodies.ComparisonBody(body).data)
