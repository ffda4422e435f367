from uuid import UUID

from django.http import StreamingHttpResponse
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.views import OrganizationView
from common.api import PAGING, ErrorBody, Pagination, paginated
from training import comparing, selectors, services, tensorboard
from training.api import run_bodies
from training.choices import RunStatus


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


class RunCancel(OrganizationView):
    @extend_schema(
        operation_id="training_runs_cancel",
        request=None,
        responses={202: run_bodies.TrainingRunBody, 404: ErrorBody, 409: ErrorBody},
    )
    def post(self, request: Request, run_id: UUID) -> Response:
        """Want the run no more. Asking twice changes nothing; 409 once it is over."""
        run = services.cancel_training_run(
            organization=self.organization, run_id=run_id, actor=self.actor, now=timezone.now()
        )
        run = selectors.get_run(self.organization, run.pk)
        return Response(run_bodies.TrainingRunBody(run).data, status=202)


class RunPause(OrganizationView):
    @extend_schema(
        operation_id="training_runs_pause",
        request=None,
        responses={202: run_bodies.TrainingRunBody, 404: ErrorBody, 409: ErrorBody},
    )
    def post(self, request: Request, run_id: UUID) -> Response:
        """Let the run rest: it saves a checkpoint and gives its accelerators back. Asking twice
        changes nothing; 409 once it is over."""
        run = services.pause_training_run(
            organization=self.organization, run_id=run_id, actor=self.actor, now=timezone.now()
        )
        run = selectors.get_run(self.organization, run.pk)
        return Response(run_bodies.TrainingRunBody(run).data, status=202)


class RunResume(OrganizationView):
    @extend_schema(
        operation_id="training_runs_resume",
        request=None,
        responses={202: run_bodies.TrainingRunBody, 404: ErrorBody, 409: ErrorBody},
    )
    def post(self, request: Request, run_id: UUID) -> Response:
        """Want a paused run again; it goes on from its last checkpoint. 409 once it is over."""
        run = services.resume_training_run(
            organization=self.organization, run_id=run_id, actor=self.actor, now=timezone.now()
        )
        run = selectors.get_run(self.organization, run.pk)
        return Response(run_bodies.TrainingRunBody(run).data, status=202)


class RunMetrics(OrganizationView):
    @extend_schema(
        operation_id="training_runs_metrics",
        parameters=[*PAGING, OpenApiParameter("after_step", int)],
        responses={200: paginated(run_bodies.MetricBody), 404: ErrorBody},
    )
    def get(self, request: Request, run_id: UUID) -> Response:
        """What was measured, by step; with `after_step` only what came later."""
        rows = selectors.list_metrics(selectors.get_run(self.organization, run_id))
        after = request.query_params.get("after_step", "")
        if after.isdigit():
            rows = rows.filter(step__gt=min(int(after), 2**31 - 1))
        return Pagination.answer(rows, run_bodies.MetricBody, request, self)


class RunEvents(OrganizationView):
    @extend_schema(
        operation_id="training_runs_events",
        parameters=PAGING,
        responses={200: paginated(run_bodies.TrainingEventBody), 404: ErrorBody},
    )
    def get(self, request: Request, run_id: UUID) -> Response:
        """What happened to the run, in order."""
        rows = selectors.list_events(selectors.get_run(self.organization, run_id))
        return Pagination.answer(rows, run_bodies.TrainingEventBody, request, self)


class RunCheckpoints(OrganizationView):
    @extend_schema(
        operation_id="training_runs_checkpoints",
        parameters=PAGING,
        responses={200: paginated(run_bodies.CheckpointBody), 404: ErrorBody},
    )
    def get(self, request: Request, run_id: UUID) -> Response:
        """Checkpoints, newest first; those with `pruned_at` are no longer there."""
        rows = selectors.list_checkpoints(selectors.get_run(self.organization, run_id))
        return Pagination.answer(rows, run_bodies.CheckpointBody, request, self)


class RunLog(OrganizationView):
    @extend_schema(
        operation_id="training_runs_log", responses={200: run_bodies.LogBody, 404: ErrorBody}
    )
    def get(self, request: Request, run_id: UUID) -> Response:
        """The end of the trainer's log."""
        run = selectors.get_run(self.organization, run_id)
        return Response(run_bodies.LogBody(run).data)


class RunSamples(OrganizationView):
    @extend_schema(
        operation_id="training_runs_samples",
        parameters=PAGING,
        responses={200: paginated(run_bodies.SampleBody), 404: ErrorBody},
    )
    def get(self, request: Request, run_id: UUID) -> Response:
        """What the model answered to the run's fixed prompts, by step."""
        rows = selectors.list_samples(selectors.get_run(self.organization, run_id))
        return Pagination.answer(rows, run_bodies.SampleBody, request, self)


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
            OpenApiParameter("by", str, enum=comparing.AXES),
        ],
        responses={200: run_bodies.ComparisonBody, 400: ErrorBody, 404: ErrorBody},
    )
    def get(self, request: Request) -> Response:
        """Runs side by side: every value, which of them differ, and their curves by step, by
        tokens or by hours."""
        ids = run_bodies.RunIds(data={"run": request.query_params.getlist("run")})
        ids.is_valid(raise_exception=True)
        runs = comparing.find_runs(self.organization, ids.validated_data["run"])
        axis = request.query_params.get("by", comparing.AXES[0])
        body = {
            "runs": [{"id": run.pk, "name": run.name} for run in runs],
            "rows": comparing.table(runs),
            "by": axis,
            "curves": [comparing.curves(run, axis=axis) for run in runs],
        }
        return Response(run_bodies.ComparisonBody(body).data)
