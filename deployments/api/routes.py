"""REST over routes: public model names and what answers them."""

from typing import Any, ClassVar
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.resources import reading
from accounts.api.views import OrganizationView
from accounts.choices import Capability
from common.api import PAGING, ErrorBody, Pagination, paginated
from deployments import route_selectors, services
from deployments.models import Route, RouteTarget, ShadowAnswer
from deployments.services.routes import MOST_RANK, MOST_TARGETS, MOST_WEIGHT


class RouteTargetBody(serializers.ModelSerializer):
    deployment_name = serializers.CharField(
        source="deployment.name", read_only=True, default=None, allow_null=True
    )
    provider_name = serializers.CharField(
        source="provider.name", read_only=True, default=None, allow_null=True
    )

    class Meta:
        model = RouteTarget
        fields = [
            "deployment",
            "deployment_name",
            "provider",
            "provider_name",
            "provider_model_name",
            "weight",
            "rank",
        ]


class RouteBody(serializers.ModelSerializer):
    targets = RouteTargetBody(many=True, read_only=True)

    class Meta:
        model = Route
        fields = ["id", "name", "targets", "shadow_deployment", "shadow_percent", "created_at"]


class RouteTargetRequest(serializers.Serializer):
    """Either a deployment, or a provider with its name of the model."""

    deployment = serializers.UUIDField(default=None, allow_null=True)
    provider = serializers.UUIDField(default=None, allow_null=True)
    provider_model_name = serializers.CharField(default="", allow_blank=True, max_length=200)
    weight = serializers.IntegerField(
        default=100,
        min_value=0,
        max_value=MOST_WEIGHT,
        help_text="Its share among the targets of its rank.",
    )
    rank = serializers.IntegerField(
        default=0,
        min_value=0,
        max_value=MOST_RANK,
        help_text="0 answers first; a higher one what no lower one can.",
    )


class ShadowRequest(serializers.Serializer):
    deployment = serializers.UUIDField()
    percent = serializers.IntegerField(min_value=1, max_value=100)


class RouteChange(serializers.Serializer):
    targets = serializers.ListField(
        child=RouteTargetRequest(), required=False, min_length=1, max_length=MOST_TARGETS
    )
    shadow = ShadowRequest(
        required=False,
        allow_null=True,
        help_text="A candidate that gets copies of requests; null ends it. Its answers are kept "
        "for two weeks and given to nobody.",
    )


class RouteRequest(RouteChange):
    name = serializers.CharField(max_length=200)
    targets = serializers.ListField(
        child=RouteTargetRequest(), min_length=1, max_length=MOST_TARGETS
    )


class ShadowAnswerBody(serializers.ModelSerializer):
    class Meta:
        model = ShadowAnswer
        exclude = ["organization"]


class RouteList(OrganizationView):
    @extend_schema(
        operation_id="routes_list",
        parameters=PAGING,
        responses={200: paginated(RouteBody)},
    )
    def get(self, request: Request) -> Response:
        """The public model names of the organization, and what answers them."""
        rows = route_selectors.list_routes(self.organization)
        return Pagination.answer(rows, RouteBody, request, self)

    @extend_schema(
        request=RouteRequest,
        responses={201: RouteBody, 400: ErrorBody, 403: ErrorBody, 409: ErrorBody},
    )
    def post(self, request: Request) -> Response:
        """A public model name that deployments and providers answer."""
        body = RouteRequest(data=request.data)
        body.is_valid(raise_exception=True)
        route = services.create_route(
            organization=self.organization,
            name=body.validated_data["name"],
            actor=self.actor,
            now=timezone.now(),
            **_wanted(body.validated_data),
        )
        route = route_selectors.get_route(self.organization, route.pk)
        return Response(RouteBody(route).data, status=201)


class RouteDetail(OrganizationView):
    @extend_schema(responses={200: RouteBody, 404: ErrorBody})
    def get(self, request: Request, route_id: UUID) -> Response:
        """One route."""
        return Response(RouteBody(route_selectors.get_route(self.organization, route_id)).data)

    @extend_schema(
        request=RouteChange,
        responses={200: RouteBody, 400: ErrorBody, 403: ErrorBody, 404: ErrorBody},
    )
    def patch(self, request: Request, route_id: UUID) -> Response:
        """Replace its targets, its shadow or both. Gateways follow within a second."""
        body = RouteChange(data=request.data)
        body.is_valid(raise_exception=True)
        route = services.update_route(
            organization=self.organization,
            route_id=route_id,
            actor=self.actor,
            now=timezone.now(),
            **_wanted(body.validated_data),
        )
        return Response(RouteBody(route).data)

    @extend_schema(responses={204: None, 403: ErrorBody, 404: ErrorBody, 409: ErrorBody})
    def delete(self, request: Request, route_id: UUID) -> Response:
        """Take the name away; requests for it get 404."""
        services.delete_route(
            organization=self.organization,
            route_id=route_id,
            actor=self.actor,
            now=timezone.now(),
        )
        return Response(status=204)


class ShadowAnswerList(OrganizationView):
    """Requests and answers are in it: for those who develop."""

    capabilities: ClassVar = reading(Capability.DEVELOP, changing=Capability.DEVELOP)

    @extend_schema(
        operation_id="shadow_answers_list",
        parameters=PAGING,
        responses={200: paginated(ShadowAnswerBody), 403: ErrorBody, 404: ErrorBody},
    )
    def get(self, request: Request, route_id: UUID) -> Response:
        """What the route's candidate answered beside what clients got, newest first."""
        route = route_selectors.get_route(self.organization, route_id)
        rows = route_selectors.list_shadow_answers(route)
        return Pagination.answer(rows, ShadowAnswerBody, request, self)


def _wanted(values: dict[str, Any]) -> dict[str, Any]:
    """Validated values as keywords of the services."""
    found: dict[str, Any] = {}
    if "targets" in values:
        found["targets"] = [
            services.WantedTarget(
                deployment_id=each["deployment"],
                provider_id=each["provider"],
                provider_model_name=each["provider_model_name"],
                weight=each["weight"],
                rank=each["rank"],
            )
            for each in values["targets"]
        ]
    if "shadow" in values:
        shadow = values["shadow"]
        found["shadow"] = shadow and services.WantedShadow(
            deployment_id=shadow["deployment"], percent=shadow["percent"]
        )
    return found
