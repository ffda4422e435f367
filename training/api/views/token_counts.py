from typing import Any
from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.views import OrganizationView
from common.api import PAGING, ErrorBody, Pagination, paginated
from training import selectors, services
from training.models import TokenCount


class TokenCountRequest(serializers.Serializer):
    revision = serializers.UUIDField(help_text="Whose tokenizer and chat template count.")


class TokenCountBody(serializers.ModelSerializer):
    revision = serializers.UUIDField(source="revision_id")
    revision_name = serializers.CharField(source="revision.__str__")
    splits = serializers.DictField(
        child=serializers.DictField(),
        help_text="By split: `token_count`, `longest_tokens`, `longest_line`, `histogram` ([tokens "
        "up to, examples]), `over` ([limit, examples longer]), `kept` ([limit, tokens left]).",
    )

    class Meta:
        model = TokenCount
        fields = ["revision", "revision_name", "status", "message", "splits", "created_at"]
        read_only_fields = fields


class TokenCountList(OrganizationView):
    @extend_schema(
        operation_id="dataset_versions_token_counts",
        parameters=PAGING,
        responses={200: paginated(TokenCountBody), 404: ErrorBody},
    )
    def get(self, request: Request, version_id: UUID) -> Response:
        """Counts by other models than the one named at upload, newest first."""
        version = selectors.get_version(self.organization, version_id)
        rows = selectors.list_token_counts(version)
        return Pagination.answer(rows, TokenCountBody, request, self)

    @extend_schema(
        operation_id="dataset_versions_count_tokens",
        request=TokenCountRequest,
        responses={202: TokenCountBody, 400: ErrorBody, 404: ErrorBody},
    )
    def post(self, request: Request, version_id: UUID) -> Response:
        """Count the tokens of every split as this model sees them; `status` says when it is done.
        Asked twice, it is counted once."""
        body = TokenCountRequest(data=request.data)
        body.is_valid(raise_exception=True)
        given: dict[str, Any] = body.validated_data
        row = services.count_tokens(
            organization=self.organization,
            version_id=version_id,
            revision_id=given["revision"],
            actor=self.actor,
            now=timezone.now(),
        )
        return Response(TokenCountBody(row).data, status=202)
