from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.views import OrganizationView
from common.api import PAGING, ErrorBody, Pagination, paginated
from training import selectors, services
from training.answers import SHOWN, Filter
from training.api import serializers
from training.metrics import reading

TRUTH = {"true": True, "false": False}


class EvaluationList(OrganizationView):
    @extend_schema(
        operation_id="evaluations_list",
        parameters=PAGING,
        responses={200: paginated(serializers.EvaluationBody)},
    )
    def get(self, request: Request) -> Response:
        """Evaluations, newest first."""
        rows = selectors.list_evaluations(self.organization)
        return Pagination.answer(rows, serializers.EvaluationBody, request, self)

    @extend_schema(
        operation_id="evaluations_create",
        request=serializers.EvaluationRequest,
        responses={202: serializers.EvaluationBody, 400: ErrorBody, 404: ErrorBody},
    )
    def post(self, request: Request) -> Response:
        """Compare served models on a split, through the serving path, the baseline first."""
        body = serializers.EvaluationRequest(data=request.data)
        body.is_valid(raise_exception=True)
        asked = dict(body.validated_data)
        evaluation = services.create_evaluation(
            organization=self.organization,
            dataset_version_id=asked.pop("dataset_version"),
            model_names=asked.pop("models"),
            actor=self.actor,
            now=timezone.now(),
            **asked,
        )
        return Response(serializers.EvaluationBody(evaluation).data, status=202)


class EvaluationDetail(OrganizationView):
    @extend_schema(
        operation_id="evaluations_retrieve",
        responses={200: serializers.EvaluationBody, 404: ErrorBody},
    )
    def get(self, request: Request, evaluation_id: UUID) -> Response:
        """An evaluation with its results so far."""
        evaluation = selectors.get_evaluation(self.organization, evaluation_id)
        return Response(serializers.EvaluationBody(evaluation).data)


class EvaluationCancel(OrganizationView):
    @extend_schema(
        operation_id="evaluations_cancel",
        request=None,
        responses={202: serializers.EvaluationBody, 404: ErrorBody, 409: ErrorBody},
    )
    def post(self, request: Request, evaluation_id: UUID) -> Response:
        """Ask no more; what was answered stays."""
        evaluation = services.cancel_evaluation(
            organization=self.organization,
            evaluation_id=evaluation_id,
            actor=self.actor,
            now=timezone.now(),
        )
        return Response(serializers.EvaluationBody(evaluation).data, status=202)


class MetricKinds(OrganizationView):
    @extend_schema(
        operation_id="evaluation_metrics_list",
        responses={200: serializers.MetricKindBody(many=True)},
    )
    def get(self, request: Request) -> Response:
        """Every kind of measure that an evaluation may be asked for, with its options."""
        return Response(serializers.MetricKindBody(reading.describe(), many=True).data)


class EvaluationAnswers(OrganizationView):
    @extend_schema(
        operation_id="evaluations_answers",
        parameters=[
            *PAGING,
            OpenApiParameter("model", str, description="Only this model's answers."),
            OpenApiParameter("exact", bool, description="Only right (true) or wrong ones (false)."),
            OpenApiParameter(
                "show",
                str,
                enum=[each for each in SHOWN if each != "all"],
                description="Lines where the candidate is wrong, differs from the baseline, has "
                "won or has lost, by `metric`.",
            ),
            OpenApiParameter("candidate", str, description="Whom `show` is about: the last one."),
            OpenApiParameter("metric", str, description="What `show` goes by: exact_match."),
        ],
        responses={200: paginated(serializers.AnswerBody), 404: ErrorBody},
    )
    def get(self, request: Request, evaluation_id: UUID) -> Response:
        """Answer by answer, by line, the models of a line together."""
        evaluation = selectors.get_evaluation(self.organization, evaluation_id)
        query = request.query_params
        chosen = Filter(
            show=query.get("show", "all"),
            candidate=query.get("candidate", ""),
            metric=query.get("metric", "exact_match"),
        )
        rows = selectors.list_answers(
            evaluation,
            model_name=request.query_params.get("model", ""),
            is_exact=TRUTH.get(request.query_params.get("exact", "").lower()),
        )
        if chosen.narrows:
            rows = rows.filter(line__in=chosen.of(evaluation).values("line"))
        return Pagination.answer(rows, serializers.AnswerBody, request, self)
