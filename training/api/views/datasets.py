from typing import Any, BinaryIO, cast
from uuid import UUID

from django.conf import settings
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.views import OrganizationView
from common.api import PAGING, ErrorBody, Pagination, paginated
from common.errors import DomainError, InvalidInput, NotFound
from models_registry import selectors as registry
from models_registry.models import Revision
from training import selectors, services
from training.api import serializers

FORM_BYTES = 2**20  # what a multipart body has besides its files
FILE = {"type": "string", "format": "binary"}
UPLOAD: dict[str, Any] = {
    "multipart/form-data": {
        "type": "object",
        "description": "A file of OpenAI chat jsonl for each split, under the split's name.",
        "properties": {
            "train": FILE,
            "heldout": FILE,
            "tokenizer_revision": {
                "type": "string",
                "format": "uuid",
                "description": "A revision whose tokenizer and chat template count the tokens.",
            },
        },
        "additionalProperties": FILE,
    }
}


class UploadTooLarge(DomainError):
    code = "upload_too_large"
    status_code = 413


class DatasetList(OrganizationView):
    @extend_schema(
        operation_id="datasets_list",
        parameters=PAGING,
        responses={200: paginated(serializers.DatasetBody)},
    )
    def get(self, request: Request) -> Response:
        """Datasets by name."""
        rows = selectors.list_datasets(self.organization)
        return Pagination.answer(rows, serializers.DatasetBody, request, self)

    @extend_schema(
        request=serializers.DatasetRequest,
        responses={201: serializers.DatasetBody, 400: ErrorBody, 409: ErrorBody},
    )
    def post(self, request: Request) -> Response:
        """A new dataset; upload its first version next."""
        body = serializers.DatasetRequest(data=request.data)
        body.is_valid(raise_exception=True)
        dataset = services.create_dataset(
            organization=self.organization,
            actor=self.actor,
            now=timezone.now(),
            **body.validated_data,
        )
        return Response(serializers.DatasetBody(dataset).data, status=201)


class DatasetDetail(OrganizationView):
    @extend_schema(responses={200: serializers.DatasetBody, 404: ErrorBody})
    def get(self, request: Request, dataset_id: UUID) -> Response:
        """One dataset."""
        dataset = selectors.get_dataset(self.organization, dataset_id)
        return Response(serializers.DatasetBody(dataset).data)


class VersionList(OrganizationView):
    parser_classes = [MultiPartParser]

    @extend_schema(
        operation_id="dataset_versions_list",
        parameters=PAGING,
        responses={200: paginated(serializers.DatasetVersionBody), 404: ErrorBody},
    )
    def get(self, request: Request, dataset_id: UUID) -> Response:
        """A dataset's versions, newest first."""
        dataset = selectors.get_dataset(self.organization, dataset_id)
        rows = selectors.list_versions(self.organization).filter(dataset=dataset)
        return Pagination.answer(rows, serializers.DatasetVersionBody, request, self)

    @extend_schema(
        operation_id="dataset_versions_upload",
        request=UPLOAD,
        responses={
            201: serializers.DatasetVersionDetail,
            400: ErrorBody,
            404: ErrorBody,
            413: ErrorBody,
            422: ErrorBody,
        },
    )
    def post(self, request: Request, dataset_id: UUID) -> Response:
        """Upload the next version. A bad line refuses all of it: 422 with every error by line."""
        selectors.get_dataset(self.organization, dataset_id)
        _check_length(request)
        version = services.upload_version(
            organization=self.organization,
            dataset_id=dataset_id,
            files=_files(request),
            tokenizer_revision=self._tokenizer_revision(request.data),
            actor=self.actor,
            now=timezone.now(),
        )
        version = selectors.get_version(self.organization, version.pk)
        return Response(serializers.DatasetVersionDetail(version).data, status=201)

    def _tokenizer_revision(self, data: Any) -> Revision | None:
        for name, value in data.items():
            if isinstance(value, str) and name != "tokenizer_revision":
                raise InvalidInput(
                    f"{name} is no field of an upload.",
                    field=name,
                    remedy="Send tokenizer_revision, and a file for each split.",
                )
        given = data.get("tokenizer_revision")
        if not given:
            return None
        try:
            return registry.get_revision(self.organization, UUID(str(given)))
        except (ValueError, NotFound) as error:
            raise InvalidInput("No such revision.", field="tokenizer_revision") from error


class VersionDetail(OrganizationView):
    @extend_schema(responses={200: serializers.DatasetVersionDetail, 404: ErrorBody})
    def get(self, request: Request, version_id: UUID) -> Response:
        """A version with its splits and the report of its check."""
        version = selectors.get_version(self.organization, version_id)
        return Response(serializers.DatasetVersionDetail(version).data)


def _check_length(request: Request) -> None:
    """Before anything of the body is read."""
    length = str(request.META.get("CONTENT_LENGTH") or "0")
    limit = settings.FACTORY_MAX_UPLOAD_BYTES
    if length.isdigit() and int(length) > limit + FORM_BYTES:
        raise UploadTooLarge(
            f"An upload may have {limit:,} bytes.",
            field="files",
            remedy="Upload parts of it as datasets of their own.",
        )


def _files(request: Request) -> dict[str, BinaryIO]:
    files: dict[str, BinaryIO] = {}
    for name, given in request.FILES.lists():
        if len(given) > 1:
            raise InvalidInput(
                f"There are {len(given)} files named {name!r}.",
                field=f"files.{name}",
                remedy="Send one file a split.",
            )
        files[name] = cast(BinaryIO, given[0])
    return files
