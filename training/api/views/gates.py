"""REST over gates: what a revision must have shown before an alias moves to it."""

from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.views import OrganizationView
from common.api import PAGING, ErrorBody, Pagination, paginated
from models_registry import promotion
from models_registry import selectors as registry
from training import services
from training.api import serializers


class GateList(OrganizationView):
    @extend_schema(
        operation_id="model_gates_list",
        parameters=PAGING,
        responses={200: paginated(serializers.GateBody), 404: ErrorBody},
    )
    def get(self, request: Request, model_id: UUID) -> Response:
        """A model's gates, by alias."""
        rows = registry.list_gates(self.organization, model_id)
        return Pagination.answer(rows, serializers.GateBody, request, self)


class GateDetail(OrganizationView):
    @extend_schema(
        operation_id="model_gates_set",
        request=serializers.GateRequest,
        responses={200: serializers.GateBody, 400: ErrorBody, 404: ErrorBody},
    )
    def put(self, request: Request, model_id: UUID, alias: str) -> Response:
        """From now on the alias moves only to revisions that have shown what the rule asks for."""
        body = serializers.GateRequest(data=request.data)
        body.is_valid(raise_exception=True)
        gate = services.set_alias_gate(
            organization=self.organization,
            model_id=model_id,
            alias=alias,
            rule=body.validated_data["rule"],
            actor=self.actor,
            now=timezone.now(),
        )
        return Response(serializers.GateBody(gate).data)

    @extend_schema(operation_id="model_gates_remove", responses={204: None, 404: ErrorBody})
    def delete(self, request: Request, model_id: UUID, alias: str) -> Response:
        """The alias moves freely again."""
        promotion.remove_gate(
            organization=self.organization,
            model_id=model_id,
            alias=alias,
            actor=self.actor,
            now=timezone.now(),
        )
        return Response(status=204)
