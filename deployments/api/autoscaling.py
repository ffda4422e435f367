"""REST over autoscaling: what is wanted, what follows from the load now, and what happened."""

from typing import Any
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.views import OrganizationView
from common.api import PAGING, ErrorBody, Pagination, paginated
from deployments import reconcile, selectors, services
from deployments.models import Autoscaling, ScalingEvent
from deployments.services import autoscaling
from planner.schedule import DAYS

LIMITS = autoscaling.LIMITS


class HoursBody(serializers.Serializer):
    """Hours of the week in which other limits hold; an end before the start is on the next day."""

    days = serializers.ListField(
        child=serializers.ChoiceField(choices=DAYS), required=False, help_text="Default: all."
    )
    to = serializers.CharField(default="00:00", help_text="Time of day, like 18:30.")
    min_replicas = serializers.IntegerField(required=False, allow_null=True)
    max_replicas = serializers.IntegerField(required=False, allow_null=True)

    def get_fields(self) -> dict[str, serializers.Field]:
        """`from` is a word of Python's own."""
        first = {"from": serializers.CharField(default="00:00", help_text="Like 08:00.")}
        return first | super().get_fields()


class LoadBody(serializers.Serializer):
    """What gateways see at this moment."""

    in_flight = serializers.IntegerField()
    held = serializers.IntegerField(help_text="Requests that wait for a replica.")
    first_token_milliseconds = serializers.FloatField(
        allow_null=True, help_text="p95 of the last minute's streams."
    )


class AutoscalingRequest(serializers.Serializer):
    enabled = serializers.BooleanField(default=True)
    min_replicas = serializers.IntegerField(default=1, help_text="0 lets the deployment sleep.")
    max_replicas = serializers.IntegerField(default=4)
    target_concurrency = serializers.FloatField(
        default=8.0, help_text="Requests in flight that one replica should have."
    )
    target_first_token_milliseconds = serializers.IntegerField(
        default=None, allow_null=True, help_text="p95 of streams; null: concurrency alone decides."
    )
    scale_down_after_seconds = serializers.IntegerField(default=300)
    idle_seconds = serializers.IntegerField(
        default=900,
        allow_null=True,
        help_text="With a minimum of 0: asleep after so long without requests; null: never.",
    )
    time_zone = serializers.CharField(
        default="", allow_blank=True, help_text="Of the schedule; empty: the organization's."
    )
    schedule = HoursBody(many=True, default=list)


class AutoscalingBody(serializers.ModelSerializer):
    schedule = HoursBody(many=True)
    load = serializers.SerializerMethodField(help_text="null while no gateway tells.")
    wanted_replicas = serializers.SerializerMethodField(
        help_text="What this moment's look would ask for; changes wait for their windows."
    )
    reason = serializers.SerializerMethodField()
    min_replicas_now = serializers.SerializerMethodField(help_text="The schedule considered.")
    max_replicas_now = serializers.SerializerMethodField()

    class Meta:
        model = Autoscaling
        fields = [
            *autoscaling.Wanted.__dataclass_fields__,
            "updated_at",
            "min_replicas_now",
            "max_replicas_now",
            "wanted_replicas",
            "reason",
            "load",
        ]

    @property
    def _outlook(self) -> reconcile.Outlook:
        found: reconcile.Outlook = self.context["outlook"]
        return found

    @extend_schema_field(LoadBody(allow_null=True))
    def get_load(self, row: Autoscaling) -> dict[str, Any] | None:
        load = self._outlook.load
        if load is None:
            return None
        seconds = load.first_token_seconds
        return {
            "in_flight": load.in_flight,
            "held": load.held,
            "first_token_milliseconds": seconds * 1000 if seconds is not None else None,
        }

    def get_wanted_replicas(self, row: Autoscaling) -> int:
        return self._outlook.decision.replicas

    def get_reason(self, row: Autoscaling) -> str:
        return self._outlook.decision.message

    def get_min_replicas_now(self, row: Autoscaling) -> int:
        return self._outlook.goal.min_replicas

    def get_max_replicas_now(self, row: Autoscaling) -> int:
        return self._outlook.goal.max_replicas


class ScalingEventBody(serializers.ModelSerializer):
    class Meta:
        model = ScalingEvent
        fields = ["id", "at", "from_replicas", "to_replicas", "reason", "message"]


class AutoscalingDetail(OrganizationView):
    @extend_schema(responses={200: AutoscalingBody, 404: ErrorBody})
    def get(self, request: Request, deployment_id: UUID) -> Response:
        """How a deployment scales by itself, and what follows from its load now."""
        row = autoscaling.get_autoscaling(self.organization, deployment_id)
        return Response(_body(row))

    @extend_schema(
        request=AutoscalingRequest,
        responses={
            202: AutoscalingBody,
            400: ErrorBody,
            403: ErrorBody,
            404: ErrorBody,
            409: ErrorBody,
        },
    )
    def put(self, request: Request, deployment_id: UUID) -> Response:
        """Let the number of replicas follow the load. What is left out gets its default. A later
        change of the number by hand switches it off."""
        body = AutoscalingRequest(data=request.data)
        body.is_valid(raise_exception=True)
        row = services.set_autoscaling(
            organization=self.organization,
            deployment_id=deployment_id,
            wanted=autoscaling.Wanted(**body.validated_data),
            actor=self.actor,
            now=timezone.now(),
        )
        return Response(_body(row), status=202)

    @extend_schema(responses={204: None, 403: ErrorBody, 404: ErrorBody})
    def delete(self, request: Request, deployment_id: UUID) -> Response:
        """The present number of replicas stays."""
        services.remove_autoscaling(
            organization=self.organization,
            deployment_id=deployment_id,
            actor=self.actor,
            now=timezone.now(),
        )
        return Response(status=204)


class ScalingEventList(OrganizationView):
    @extend_schema(
        operation_id="deployment_scaling_events_list",
        parameters=PAGING,
        responses={200: paginated(ScalingEventBody), 404: ErrorBody},
    )
    def get(self, request: Request, deployment_id: UUID) -> Response:
        """When the number of replicas changed, by whom or why; newest first."""
        deployment = selectors.get_deployment(self.organization, deployment_id)
        rows = selectors.list_scaling_events(deployment)
        return Pagination.answer(rows, ScalingEventBody, request, self)


def _body(row: Autoscaling) -> Any:
    outlook = reconcile.get_outlook(row, now=timezone.now())
    return AutoscalingBody(row, context={"outlook": outlook}).data
