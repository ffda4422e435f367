"""REST over the registry."""

from uuid import UUID

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.views import OrganizationView
from common.api import PAGING, ErrorBody, Pagination, paginated
from common.errors import NotAllowed, NotFound
from models_registry import promotion, selectors, services
from models_registry.api import serializers
from models_registry.choices import Visibility
from models_registry.models import RevisionImport


class ModelList(OrganizationView):
    @extend_schema(
        operation_id="models_list",
        parameters=PAGING,
        responses={200: paginated(serializers.RegisteredModelBody)},
    )
    def get(self, request: Request) -> Response:
        """Models of the organization, and those that others share with all."""
        rows = selectors.list_models(self.organization).prefetch_related("aliases__revision")
        return Pagination.answer(rows, serializers.RegisteredModelBody, request, self)


class ModelDetail(OrganizationView):
    @extend_schema(responses={200: serializers.RegisteredModelBody, 404: ErrorBody})
    def get(self, request: Request, model_id: UUID) -> Response:
        """One model."""
        model = selectors.get_model(self.organization, model_id)
        return Response(serializers.RegisteredModelBody(model).data)


class RevisionList(OrganizationView):
    @extend_schema(
        operation_id="model_revisions_list",
        parameters=PAGING,
        responses={200: paginated(serializers.RevisionBody), 404: ErrorBody},
    )
    def get(self, request: Request, model_id: UUID) -> Response:
        """A model's revisions, newest first."""
        model = selectors.get_model(self.organization, model_id)
        rows = selectors.list_revisions(self.organization).filter(registered_model=model)
        return Pagination.answer(rows, serializers.RevisionBody, request, self)


class RevisionDetail(OrganizationView):
    @extend_schema(responses={200: serializers.RevisionDetail, 404: ErrorBody})
    def get(self, request: Request, revision_id: UUID) -> Response:
        """A revision with its files, facts, lineage and evaluations."""
        revision = selectors.get_revision(self.organization, revision_id)
        return Response(serializers.RevisionDetail(revision).data)


class RevisionLineage(OrganizationView):
    @extend_schema(responses={200: serializers.LineageBody, 404: ErrorBody})
    def get(self, request: Request, revision_id: UUID) -> Response:
        """What a revision was made from, and what was made of it."""
        revision = selectors.get_revision(self.organization, revision_id)
        graph = selectors.get_lineage(self.organization, revision)
        return Response(serializers.LineageBody(graph).data)


class ImportList(OrganizationView):
    @extend_schema(
        operation_id="imports_list",
        parameters=PAGING,
        responses={200: paginated(serializers.ImportBody)},
    )
    def get(self, request: Request) -> Response:
        """Imports asked for, newest first, with their progress."""
        rows = selectors.list_imports(self.organization)
        return Pagination.answer(rows, serializers.ImportBody, request, self)

    @extend_schema(
        request=serializers.ImportRequest,
        responses={202: serializers.ImportBody, 400: ErrorBody, 403: ErrorBody},
    )
    def post(self, request: Request) -> Response:
        """Ask for an import. Sharing with every organization is for operators."""
        body = serializers.ImportRequest(data=request.data)
        body.is_valid(raise_exception=True)
        if body.validated_data["visibility"] == Visibility.SHARED and not self.may_operate:
            raise NotAllowed("Only operators may share a model with all.", field="visibility")
        wanted = services.request_import(
            organization=self.organization,
            may_use_hub_token=self.may_operate,
            actor=self.actor,
            now=timezone.now(),
            **body.validated_data,
        )
        return Response(serializers.ImportBody(wanted).data, status=202)


class ImportDetail(OrganizationView):
    @extend_schema(responses={200: serializers.ImportBody, 404: ErrorBody})
    def get(self, request: Request, import_id: UUID) -> Response:
        """One import."""
        rows = selectors.list_imports(self.organization)
        try:
            return Response(serializers.ImportBody(rows.get(pk=import_id)).data)
        except RevisionImport.DoesNotExist as error:
            raise NotFound("No such import.") from error


class AliasDetail(OrganizationView):
    @extend_schema(
        request=serializers.AliasRequest,
        responses={
            200: serializers.AliasBody,
            400: ErrorBody,
            403: ErrorBody,
            404: ErrorBody,
            409: ErrorBody,
        },
    )
    def put(self, request: Request, model_id: UUID, alias: str) -> Response:
        """Point an alias, such as `champion`, at a revision. A gate on it must be passed: 409 says
        what is missing and what to do."""
        body = serializers.AliasRequest(data=request.data)
        body.is_valid(raise_exception=True)
        row = promotion.move_alias(
            organization=self.organization,
            model_id=model_id,
            alias=alias,
            revision_id=body.validated_data["revision"],
            override_reason=body.validated_data["override_reason"],
            may_override=self.may_operate,
            actor=self.actor,
            now=timezone.now(),
        )
        return Response(serializers.AliasBody(row).data)
