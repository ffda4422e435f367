"""REST over plans: what would fit where, before anything is asked for."""

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.views import OrganizationView
from accounts.choices import Capability
from common.api import ErrorBody
from common.errors import NotFound
from deployments import fitting
from deployments.services import MAX_REPLICAS
from deployments.variants import Content
from models_registry.models import Revision


class PlanRequest(serializers.Serializer):
    kind = serializers.ChoiceField(choices=["serve"], default="serve")
    revision = serializers.UUIDField()
    engine = serializers.CharField(max_length=40, default="transformers")
    replicas = serializers.IntegerField(min_value=0, max_value=MAX_REPLICAS, default=1)
    slots_per_replica = serializers.IntegerField(min_value=1, max_value=1024, default=1)
    accelerators_per_replica = serializers.IntegerField(min_value=0, max_value=1024, default=0)
    pool_name = serializers.CharField(max_length=60, default="", allow_blank=True)
    settings = serializers.DictField(default=dict, help_text="As of a deployment.")


class PoolOptionBody(serializers.Serializer):
    pool_name = serializers.CharField()
    fits = serializers.BooleanField()
    replicas_now = serializers.IntegerField(help_text="That find room at this moment.")
    accelerator_type = serializers.CharField()
    accelerator_type_slug = serializers.CharField()
    node_name = serializers.CharField()
    accelerators_per_replica = serializers.DecimalField(max_digits=12, decimal_places=4)
    price_per_hour = serializers.DecimalField(
        max_digits=18, decimal_places=6, allow_null=True, help_text="Of one replica."
    )
    currency = serializers.CharField()
    reasons = serializers.ListField(child=serializers.CharField())
    may_wait = serializers.BooleanField(
        help_text="The same request may fit later without anybody changing it."
    )


class PlanBody(serializers.Serializer):
    memory_bytes = serializers.IntegerField(
        allow_null=True, help_text="The least that one replica does with."
    )
    context_tokens = serializers.IntegerField()
    options = PoolOptionBody(many=True)


class Plans(OrganizationView):
    capabilities = {"POST": Capability.VIEW}  # it changes nothing

    @extend_schema(
        request=PlanRequest,
        responses={200: PlanBody, 400: ErrorBody, 404: ErrorBody, 409: ErrorBody},
    )
    def post(self, request: Request) -> Response:
        """Where copies of a revision would fit now, pool by pool, at which price; and why not."""
        body = PlanRequest(data=request.data)
        body.is_valid(raise_exception=True)
        asked = body.validated_data
        revision = Revision.objects.of(self.organization).filter(pk=asked["revision"]).first()
        if revision is None:
            raise NotFound("No such revision.", field="revision")
        plan = fitting.plan_serving(
            organization=self.organization,
            revision=revision,
            content=Content(
                revision_id=revision.pk,
                engine=asked["engine"],
                slots_per_replica=asked["slots_per_replica"],
                accelerators_per_replica=asked["accelerators_per_replica"],
                pool_name=asked["pool_name"],
                settings=asked["settings"],
            ),
            replicas=asked["replicas"],
            now=timezone.now(),
        )
        return Response(PlanBody(plan).data)
