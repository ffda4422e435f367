"""REST over external providers. A key goes in and never comes out."""

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
from deployments.models import Provider


class ProviderBody(serializers.ModelSerializer):
    model_names = serializers.ListField(
        child=serializers.CharField(), read_only=True, help_text="That it says it has."
    )

    class Meta:
        model = Provider
        fields = [
            "id",
            "name",
            "base_url",
            "key_hint",
            "is_enabled",
            "checked_at",
            "problem",
            "model_names",
            "created_at",
        ]


class ProviderPrices(serializers.Serializer):
    """What a million tokens cost there; what is left out has no price."""

    input_tokens = serializers.DecimalField(18, 8, min_value=0, required=False)
    cached_input_tokens = serializers.DecimalField(18, 8, min_value=0, required=False)
    output_tokens = serializers.DecimalField(18, 8, min_value=0, required=False)
    currency = serializers.RegexField(
        r"^[A-Z]{3}$", required=False, help_text="The organization's, if left out."
    )


class ProviderChange(serializers.Serializer):
    base_url = serializers.CharField(
        max_length=300, required=False, help_text="https://host/v1; a new one needs the key again."
    )
    key = serializers.CharField(max_length=500, required=False, write_only=True)
    is_enabled = serializers.BooleanField(required=False)
    prices = ProviderPrices(required=False)


class ProviderRequest(serializers.Serializer):
    name = serializers.CharField(max_length=60)
    base_url = serializers.CharField(max_length=300)
    key = serializers.CharField(max_length=500, write_only=True)
    prices = ProviderPrices(required=False)


class ProviderList(OrganizationView):
    capabilities: ClassVar = reading(Capability.VIEW, changing=Capability.MANAGE_KEYS)

    @extend_schema(
        operation_id="providers_list",
        parameters=PAGING,
        responses={200: paginated(ProviderBody)},
    )
    def get(self, request: Request) -> Response:
        """External OpenAI-compatible services that routes may lead to."""
        rows = route_selectors.list_providers(self.organization)
        return Pagination.answer(rows, ProviderBody, request, self)

    @extend_schema(
        request=ProviderRequest,
        responses={201: ProviderBody, 400: ErrorBody, 403: ErrorBody, 409: ErrorBody},
    )
    def post(self, request: Request) -> Response:
        """A provider with the organization's own key there. It is looked at soon after."""
        body = ProviderRequest(data=request.data)
        body.is_valid(raise_exception=True)
        provider = services.create_provider(
            organization=self.organization,
            actor=self.actor,
            now=timezone.now(),
            **_wanted(body.validated_data),
        )
        return Response(ProviderBody(provider).data, status=201)


class ProviderDetail(OrganizationView):
    capabilities: ClassVar = reading(Capability.VIEW, changing=Capability.MANAGE_KEYS)

    @extend_schema(responses={200: ProviderBody, 404: ErrorBody})
    def get(self, request: Request, provider_id: UUID) -> Response:
        """One provider, and what the last look at it said."""
        row = route_selectors.get_provider(self.organization, provider_id)
        return Response(ProviderBody(row).data)

    @extend_schema(
        request=ProviderChange,
        responses={200: ProviderBody, 400: ErrorBody, 403: ErrorBody, 404: ErrorBody},
    )
    def patch(self, request: Request, provider_id: UUID) -> Response:
        """Another address, key or price, or on and off. Prices hold from now on."""
        body = ProviderChange(data=request.data)
        body.is_valid(raise_exception=True)
        row = services.update_provider(
            organization=self.organization,
            provider_id=provider_id,
            actor=self.actor,
            now=timezone.now(),
            **_wanted(body.validated_data),
        )
        return Response(ProviderBody(row).data)

    @extend_schema(responses={204: None, 403: ErrorBody, 404: ErrorBody, 409: ErrorBody})
    def delete(self, request: Request, provider_id: UUID) -> Response:
        """Forget it and its key; no route may lead to it."""
        services.delete_provider(
            organization=self.organization,
            provider_id=provider_id,
            actor=self.actor,
            now=timezone.now(),
        )
        return Response(status=204)


class ProviderCheck(OrganizationView):
    capabilities: ClassVar = reading(Capability.VIEW, changing=Capability.MANAGE_KEYS)

    @extend_schema(request=None, responses={202: ProviderBody, 403: ErrorBody, 404: ErrorBody})
    def post(self, request: Request, provider_id: UUID) -> Response:
        """Look whether it answers and takes the key; read the provider a moment later."""
        row = services.ask_for_check(
            organization=self.organization,
            provider_id=provider_id,
            actor=self.actor,
            now=timezone.now(),
        )
        return Response(ProviderBody(row).data, status=202)


def _wanted(values: dict[str, Any]) -> dict[str, Any]:
    values = dict(values)
    if "prices" in values:
        values["prices"] = services.Prices(**values["prices"])
    return values
