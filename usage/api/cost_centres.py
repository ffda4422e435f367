"""REST: who within the organization bears what."""

from typing import ClassVar

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.resources import reading
from accounts.api.views import OrganizationView
from accounts.choices import Capability
from common.api import PAGING, ErrorBody, Pagination, paginated
from usage import cost_centres, sealing
from usage.models import CostCentre


class CostCentreBody(serializers.ModelSerializer):
    class Meta:
        model = CostCentre
        fields = ["code", "key_id", "deployment_name", "valid_from"]


class CostCentreRequest(serializers.Serializer):
    code = serializers.CharField(
        allow_blank=True,
        max_length=cost_centres.LONGEST_CODE,
        help_text="Empty: from now on nobody in particular.",
    )
    key_id = serializers.UUIDField(
        default=None, allow_null=True, help_text="null, with no deployment's name: all else."
    )
    deployment_name = serializers.CharField(default="", allow_blank=True, max_length=200)


class CostCentreList(OrganizationView):
    capabilities: ClassVar = reading(Capability.VIEW_USAGE, changing=Capability.MANAGE_KEYS)

    @extend_schema(
        operation_id="cost_centres_list",
        parameters=PAGING,
        responses={200: paginated(CostCentreBody)},
    )
    def get(self, request: Request) -> Response:
        """Which cost centre bears which key, which deployment, and all else, at present."""
        rows = cost_centres.list_current(self.organization)
        return Pagination.answer(rows, CostCentreBody, request, self)

    @extend_schema(
        operation_id="cost_centre_set",
        request=CostCentreRequest,
        responses={200: CostCentreBody, 400: ErrorBody, 403: ErrorBody},
    )
    def put(self, request: Request) -> Response:
        """From the present hour on, `code` bears the use of a key, of a deployment or of all else.
        Hours before it stay with whom they were."""
        body = CostCentreRequest(data=request.data)
        body.is_valid(raise_exception=True)
        now, wanted = timezone.now(), body.validated_data
        row = cost_centres.set_cost_centre(
            organization=self.organization, actor=self.actor, now=now, **wanted
        )
        if row is None:  # there was nothing to end
            row = CostCentre(valid_from=sealing.hour_of(now), **wanted)
        return Response(CostCentreBody(row).data)
