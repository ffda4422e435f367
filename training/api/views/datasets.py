import json
from typing import Any, BinaryIO, cast
from uuid import UUID

from django.conf import settings
from django.http import QueryDict
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework.parsers import MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.views import OrganizationView
from accounts.choices import Capability
from common.api import PAGING, ErrorBody, Pagination, paginated
from common.errors import DomainError, InvalidInput, NotFound
from models_registry import selectors as registry
from models_registry.models import Revision
from trainer.errors import SpecError
from trainer.spec import Hyperparameters
from training import estimates, lines, selectors, services
from training.api import serializers
from training.choices import DatasetKind, VersionStatus
from training.doctor.findings import KINDS

FORM_BYTES = 2**20  # what a multipart body has besides its files
FILE = {"type": "string", "format": "binary"}
UPLOAD: dict[str, Any] = {
    "multipart/form-data": {
        "type": "object",
        "description": "A file for each split, under the split's name: JSON lines, one JSON list, "
        "CSV or Parquet. `mapping` and `split_plan` are JSON.",
        "properties": {
            "train": FILE,
            "heldout": FILE,
            "format": {
                "type": "string",
                "enum": list(services.FORMATS),
                "description": "Where the first row should not decide.",
            },
            "kind": {
                "type": "string",
                "enum": DatasetKind.values,
                "description": "Refuse what turns out to be another.",
            },
            "mapping": {
                "type": "object",
                "additionalProperties": {"type": "string"},
                "description": 'Columns by field: {"prompt": "question", "completion": "reply"}.',
            },
            "split_plan": {
                "type": "object",
                "properties": {
                    "held_out": {
                        "type": "object",
                        "additionalProperties": {"type": "number"},
                        "description": "By split, a share below 1 or a count of lines.",
                    },
                    "seed": {"type": "integer", "default": 0},
                    "group_by": {
                        "type": "string",
                        "description": "A field of the rows; its lines stay together.",
                    },
                },
                "required": ["held_out"],
            },
            "tokenizer_revision": {
                "type": "string",
                "format": "uuid",
                "description": "A revision whose tokenizer and chat template count the tokens.",
            },
        },
        "additionalProperties": FILE,
    }
}
SETTINGS = ("format", "kind", "mapping", "split_plan", "tokenizer_revision")


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
            202: serializers.DatasetVersionDetail,
            400: ErrorBody,
            404: ErrorBody,
            413: ErrorBody,
            422: ErrorBody,
        },
    )
    def post(self, request: Request, dataset_id: UUID) -> Response:
        """Upload the next version: 201 once it is checked. A bad line refuses all of it: 422 with
        every error by line. More than 8 MiB are checked afterwards: 202, and `status` says when."""
        selectors.get_dataset(self.organization, dataset_id)
        _check_length(request)
        given = cast(QueryDict, request.data)
        _check_fields(given)
        version = services.upload_version(
            organization=self.organization,
            dataset_id=dataset_id,
            files=_files(request),
            format=given.get("format", ""),
            kind=given.get("kind", ""),
            mapping=_object(given, "mapping"),
            split_plan=_object(given, "split_plan"),
            tokenizer_revision=self._tokenizer_revision(given),
            actor=self.actor,
            now=timezone.now(),
        )
        version = selectors.get_version(self.organization, version.pk)
        body = serializers.DatasetVersionDetail(version).data
        return Response(body, status=202 if version.status == VersionStatus.CHECKING else 201)

    def _tokenizer_revision(self, data: Any) -> Revision | None:
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


class VersionFindings(OrganizationView):
    @extend_schema(
        operation_id="dataset_versions_findings",
        parameters=[
            *PAGING,
            OpenApiParameter("kind", str, enum=list(KINDS), description="Only this kind."),
        ],
        responses={200: paginated(serializers.FindingBody), 404: ErrorBody},
    )
    def get(self, request: Request, version_id: UUID) -> Response:
        """What the check found, kind by kind, by line: the first 1,000 of each."""
        version = selectors.get_version(self.organization, version_id)
        rows = selectors.list_findings(version, kind=request.query_params.get("kind", ""))
        return Pagination.answer(rows, serializers.FindingBody, request, self)


class VersionLines(OrganizationView):
    @extend_schema(
        operation_id="dataset_versions_lines",
        parameters=[
            OpenApiParameter("split", str, description="Default train."),
            OpenApiParameter("line", int, description="The first, from 1."),
            OpenApiParameter("count", int, description="Up to 100; default 20."),
        ],
        responses={200: serializers.LinesBody, 400: ErrorBody, 404: ErrorBody},
    )
    def get(self, request: Request, version_id: UUID) -> Response:
        """Canonical lines of a split by their numbers."""
        version = selectors.get_version(self.organization, version_id)
        name = request.query_params.get("split", "train")
        split = next((one for one in version.splits.all() if one.name == name), None)
        if split is None:
            raise InvalidInput(f"{version} has no split {name!r}.", field="split")
        first, count = _whole(request, "line", 1), _whole(request, "count", 20)
        found = lines.read_lines(split, first, count)
        return Response(serializers.LinesBody({"results": found}).data)


class VersionEstimate(OrganizationView):
    capabilities = {"*": Capability.VIEW}  # asks, and changes nothing

    @extend_schema(
        operation_id="dataset_versions_estimate",
        request=serializers.EstimateRequest,
        responses={200: serializers.EstimateBody, 400: ErrorBody, 404: ErrorBody},
    )
    def post(self, request: Request, version_id: UUID) -> Response:
        """What a run with these settings would take: steps, tokens, time, price."""
        version = selectors.get_version(self.organization, version_id)
        body = serializers.EstimateRequest(data=request.data)
        body.is_valid(raise_exception=True)
        asked = dict(body.validated_data)
        base_id = asked.pop("base_revision")
        try:
            hyperparameters = Hyperparameters.from_json(asked.pop("hyperparameters"))
        except SpecError as error:
            raise InvalidInput(error.message, field=error.field, remedy=error.remedy) from error
        made = estimates.estimate(
            organization=self.organization,
            version=version,
            base=registry.get_revision(self.organization, base_id) if base_id else None,
            hyperparameters=hyperparameters,
            now=timezone.now(),
            **asked,
        )
        return Response(serializers.EstimateBody(made).data)


def _check_fields(data: Any) -> None:
    for name, value in data.items():
        if isinstance(value, str) and name not in SETTINGS:
            raise InvalidInput(
                f"{name} is no field of an upload.",
                field=name,
                remedy=f"Send {', '.join(SETTINGS)}, and a file for each split.",
            )


def _object(data: Any, name: str) -> dict[str, Any]:
    text = data.get(name)
    if not text:
        return {}
    try:
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise InvalidInput("This is no JSON object.", field=name, remedy='Write {"...": ...}.')
    return value


def _whole(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not text.isdecimal() or len(text) > 9:
        raise InvalidInput(f"{text!r} is no number.", field=name, remedy="Give 1 or more.")
    return int(text)


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
