"""REST over merges of adapters into their bases."""

from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.views import OrganizationView
from common.api import PAGING, ErrorBody, Pagination, paginated
from models_registry import merging
from models_registry.models import RevisionMerge


class MergeBody(serializers.ModelSerializer):
    adapter_name = serializers.CharField(source="adapter.__str__", read_only=True)
    revision_name = serializers.CharField(
        source="revision.__str__", read_only=True, default="", help_text="Once it is published."
    )
    parity = serializers.CharField(
        source="revision.parity_status",
        read_only=True,
        default="",
        help_text="passed, failed or unchecked: the merged weights beside base and adapter.",
    )

    class Meta:
        model = RevisionMerge
        fields = [
            "id",
            "adapter",
            "adapter_name",
            "name",
            "status",
            "status_reason",
            "message",
            "done_bytes",
            "total_bytes",
            "peak_memory_bytes",
            "revision",
            "revision_name",
            "parity",
            "created_at",
        ]


class MergeRequest(serializers.Serializer):
    name = serializers.CharField(
        max_length=96,
        default="",
        allow_blank=True,
        help_text='The model that the result becomes a revision of; else the adapter\'s with "-merged".',
    )


class RevisionMergeRequest(OrganizationView):
    @extend_schema(
        request=MergeRequest,
        responses={202: MergeBody, 400: ErrorBody, 403: ErrorBody, 404: ErrorBody, 409: ErrorBody},
    )
    def post(self, request: Request, revision_id: UUID) -> Response:
        """Merge an adapter into its base: the result is a revision of its own, with all weights.
        Asked for again, the answer is the same merge."""
        body = MergeRequest(data=request.data)
        body.is_valid(raise_exception=True)
        merge = merging.request_merge(
            organization=self.organization,
            revision_id=revision_id,
            name=body.validated_data["name"],
            actor=self.actor,
            now=timezone.now(),
        )
        return Response(MergeBody(merge).data, status=202)


class MergeList(OrganizationView):
    @extend_schema(
        operation_id="merges_list",
        parameters=PAGING,
        responses={200: paginated(MergeBody)},
    )
    def get(self, request: Request) -> Response:
        """Merges asked for, newest first, with their progress."""
        return Pagination.answer(merging.list_merges(self.organization), MergeBody, request, self)


class MergeDetail(OrganizationView):
    @extend_schema(responses={200: MergeBody, 404: ErrorBody})
    def get(self, request: Request, merge_id: UUID) -> Response:
        """One merge."""
        return Response(MergeBody(merging.get_merge(self.organization, merge_id)).data)
