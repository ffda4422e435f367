"""REST over limits and the alerts about them."""

from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import limit_usage, limits
from accounts.api.resources import reading
from accounts.api.views import OrganizationView
from accounts.choices import Capability, LimitKind
from accounts.models import Limit, LimitAlert
from common.api import PAGING, ErrorBody, Pagination, paginated


class LimitBody(serializers.ModelSerializer):
    key: serializers.PrimaryKeyRelatedField = serializers.PrimaryKeyRelatedField(
        read_only=True, allow_null=True, help_text="null: all keys together."
    )
    key_name = serializers.SerializerMethodField()
    used = serializers.SerializerMethodField(
        help_text="In the present period, with what open requests may use; null: not counted yet."
    )
    resets_at = serializers.SerializerMethodField(help_text="null for requests at once.")

    class Meta:
        model = Limit
        fields = [
            "id",
            "kind",
            "amount",
            "key",
            "key_name",
            "model_name",
            "warn_percent",
            "used",
            "resets_at",
            "created_at",
            "updated_at",
        ]

    def get_key_name(self, row: Limit) -> str:
        return row.key.name if row.key else ""

    @extend_schema_field(serializers.DecimalField(18, 8, allow_null=True))
    def get_used(self, row: Limit) -> str | None:
        amount = _used(row).amount
        return None if amount is None else f"{amount:f}"

    def get_resets_at(self, row: Limit) -> datetime | None:
        return _used(row).resets_at


def _used(row: Limit) -> limit_usage.Used:
    """Asked once for a row."""
    known: limit_usage.Used | None = getattr(row, "known_use", None)
    if known is None:
        known = limit_usage.read([row], now=timezone.now())[row.pk]
        row.known_use = known  # type: ignore[attr-defined]
    return known


class LimitRequest(serializers.Serializer):
    kind = serializers.ChoiceField(LimitKind.choices)
    amount = serializers.DecimalField(max_digits=18, decimal_places=6, min_value=0)
    key = serializers.UUIDField(default=None, allow_null=True, help_text="null: all keys together.")
    model_name = serializers.CharField(
        default="", allow_blank=True, max_length=200, help_text="Empty: all models together."
    )
    warn_percent = serializers.IntegerField(
        default=80, allow_null=True, min_value=1, max_value=100, help_text="null: no warning."
    )


class LimitChange(serializers.Serializer):
    amount = serializers.DecimalField(max_digits=18, decimal_places=6, min_value=0, required=False)
    warn_percent = serializers.IntegerField(
        allow_null=True, min_value=1, max_value=100, required=False
    )


class LimitAlertBody(serializers.ModelSerializer):
    class Meta:
        model = LimitAlert
        fields = [
            "id",
            "limit_id",
            "kind",
            "amount",
            "key_name",
            "model_name",
            "percent",
            "period_start",
            "at",
        ]


class LimitList(OrganizationView):
    capabilities: ClassVar = reading(Capability.VIEW, changing=Capability.MANAGE_KEYS)

    @extend_schema(
        operation_id="limits_list", parameters=PAGING, responses={200: paginated(LimitBody)}
    )
    def get(self, request: Request) -> Response:
        """Limits of the organization, its keys and models."""
        return Pagination.answer(limits.list_limits(self.organization), LimitBody, request, self)

    @extend_schema(
        request=LimitRequest,
        responses={201: LimitBody, 400: ErrorBody, 403: ErrorBody, 404: ErrorBody, 409: ErrorBody},
    )
    def post(self, request: Request) -> Response:
        """Limit something. Gateways follow within a second."""
        body = LimitRequest(data=request.data)
        body.is_valid(raise_exception=True)
        values: dict[str, Any] = dict(body.validated_data)
        row = limits.create_limit(
            organization=self.organization,
            wanted=limits.Wanted(key_id=values.pop("key"), **values),
            actor=self.actor,
            now=timezone.now(),
        )
        return Response(LimitBody(row).data, status=201)


class LimitDetail(OrganizationView):
    capabilities: ClassVar = reading(Capability.VIEW, changing=Capability.MANAGE_KEYS)

    @extend_schema(responses={200: LimitBody, 404: ErrorBody})
    def get(self, request: Request, limit_id: UUID) -> Response:
        """One limit."""
        return Response(LimitBody(limits.get_limit(self.organization, limit_id)).data)

    @extend_schema(
        request=LimitChange,
        responses={200: LimitBody, 400: ErrorBody, 403: ErrorBody, 404: ErrorBody},
    )
    def patch(self, request: Request, limit_id: UUID) -> Response:
        """Another amount or warning. What was used in the present period stays counted."""
        body = LimitChange(data=request.data)
        body.is_valid(raise_exception=True)
        row = limits.change_limit(
            organization=self.organization,
            limit_id=limit_id,
            changes=dict(body.validated_data),
            actor=self.actor,
            now=timezone.now(),
        )
        return Response(LimitBody(row).data)

    @extend_schema(responses={204: None, 403: ErrorBody, 404: ErrorBody})
    def delete(self, request: Request, limit_id: UUID) -> Response:
        """Remove a limit."""
        limits.delete_limit(
            organization=self.organization,
            limit_id=limit_id,
            actor=self.actor,
            now=timezone.now(),
        )
        return Response(status=204)


class LimitAlertList(OrganizationView):
    @extend_schema(
        operation_id="limit_alerts_list",
        parameters=PAGING,
        responses={200: paginated(LimitAlertBody)},
    )
    def get(self, request: Request) -> Response:
        """Limits of which a share was used, newest first."""
        rows = LimitAlert.objects.of(self.organization)
        return Pagination.answer(rows, LimitAlertBody, request, self)
