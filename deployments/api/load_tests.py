"""REST over load tests of a deployment."""

from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.views import OrganizationView
from common.api import PAGING, ErrorBody, Pagination, paginated
from deployments import selectors, services
from deployments.models import LoadTest
from deployments.services.load_tests import DEFAULT_CLIENTS, LIMITS, MOST_CLIENTS, MOST_LEVELS


class LevelBody(serializers.Serializer):
    """One level of clients; times in milliseconds, null without samples."""

    clients = serializers.IntegerField()
    requests = serializers.IntegerField()
    failures = serializers.IntegerField()
    seconds = serializers.FloatField()
    input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()
    tokens_per_second = serializers.FloatField(help_text="Output tokens, over all clients.")
    ttft_p50_milliseconds = serializers.FloatField(allow_null=True)
    ttft_p95_milliseconds = serializers.FloatField(allow_null=True)
    itl_p50_milliseconds = serializers.FloatField(allow_null=True)
    itl_p95_milliseconds = serializers.FloatField(allow_null=True)
    problems = serializers.ListField(child=serializers.CharField())
    within_limits = serializers.BooleanField()


class LoadTestBody(serializers.ModelSerializer):
    results = LevelBody(many=True, read_only=True)

    class Meta:
        model = LoadTest
        fields = [
            "id",
            "deployment",
            "deployment_name",
            "revision",
            "revision_name",
            "engine",
            "replicas",
            "accelerators",
            "clients",
            "seconds_per_level",
            "prompt_words",
            "output_tokens",
            "limit_ttft_milliseconds",
            "limit_itl_milliseconds",
            "status",
            "status_reason",
            "message",
            "results",
            "largest_clients",
            "cancel_requested_at",
            "created_at",
            "ended_at",
        ]


class LoadTestRequest(serializers.Serializer):
    clients = serializers.ListField(
        child=serializers.IntegerField(min_value=1, max_value=MOST_CLIENTS),
        default=list(DEFAULT_CLIENTS),
        min_length=1,
        max_length=MOST_LEVELS,
        help_text="The ramp: how many clients ask at once, level by level.",
    )
    seconds_per_level = serializers.IntegerField(
        default=15,
        min_value=LIMITS["seconds_per_level"][0],
        max_value=LIMITS["seconds_per_level"][1],
    )
    prompt_words = serializers.IntegerField(
        default=64, min_value=LIMITS["prompt_words"][0], max_value=LIMITS["prompt_words"][1]
    )
    output_tokens = serializers.IntegerField(
        default=64, min_value=LIMITS["output_tokens"][0], max_value=LIMITS["output_tokens"][1]
    )
    limit_ttft_milliseconds = serializers.IntegerField(
        required=False,
        allow_null=True,
        help_text="A level counts as carried if 95 of 100 first tokens came within this.",
    )
    limit_itl_milliseconds = serializers.IntegerField(
        required=False,
        allow_null=True,
        help_text="The same for the time between two tokens.",
    )


class LoadTestList(OrganizationView):
    @extend_schema(
        operation_id="load_tests_list",
        parameters=PAGING,
        responses={200: paginated(LoadTestBody), 404: ErrorBody},
    )
    def get(self, request: Request, deployment_id: UUID) -> Response:
        """The deployment's load tests, newest first."""
        deployment = selectors.get_deployment(self.organization, deployment_id)
        rows = LoadTest.objects.filter(deployment=deployment)
        return Pagination.answer(rows, LoadTestBody, request, self)

    @extend_schema(
        request=LoadTestRequest,
        responses={
            202: LoadTestBody,
            400: ErrorBody,
            403: ErrorBody,
            404: ErrorBody,
            409: ErrorBody,
        },
    )
    def post(self, request: Request, deployment_id: UUID) -> Response:
        """Put the deployment under load, through the gateway; its tokens are metered."""
        body = LoadTestRequest(data=request.data)
        body.is_valid(raise_exception=True)
        test = services.start_load_test(
            organization=self.organization,
            deployment_id=deployment_id,
            actor=self.actor,
            now=timezone.now(),
            **body.validated_data,
        )
        return Response(LoadTestBody(test).data, status=202)


class LoadTestDetail(OrganizationView):
    @extend_schema(responses={200: LoadTestBody, 404: ErrorBody})
    def get(self, request: Request, load_test_id: UUID) -> Response:
        """One load test with what was measured so far."""
        test = selectors.get_load_test(self.organization, load_test_id)
        return Response(LoadTestBody(test).data)


class LoadTestCancel(OrganizationView):
    @extend_schema(request=None, responses={202: LoadTestBody, 403: ErrorBody, 404: ErrorBody})
    def post(self, request: Request, load_test_id: UUID) -> Response:
        """Stop after the level that runs; what was measured stays."""
        test = services.cancel_load_test(
            organization=self.organization,
            load_test_id=load_test_id,
            actor=self.actor,
            now=timezone.now(),
        )
        return Response(LoadTestBody(test).data, status=202)
