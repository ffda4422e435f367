from typing import Any, BinaryIO, cast

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import serializers as drf
from rest_framework.parsers import JSONParser, MultiPartParser
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.api.views import OrganizationView
from common.api import ErrorBody
from common.errors import InvalidInput
from training import selectors, services
from training.api import serializers
from training.api.views.datasets import FILE

UPLOAD: dict[str, Any] = {
    "multipart/form-data": {
        "type": "object",
        "description": "A YAML of lm-eval and the files of JSON lines that it names, under `files`.",
        "properties": {
            "name": {"type": "string"},
            "files": {"type": "array", "items": FILE},
        },
        "required": ["name", "files"],
    },
    "application/json": {
        "type": "object",
        "description": "A task that the operator offers.",
        "properties": {"offered": {"type": "string"}, "name": {"type": "string"}},
        "required": ["offered"],
    },
}


class OfferedTaskBody(drf.Serializer):
    offered = drf.CharField()
    output_type = drf.CharField(help_text="How lm-eval asks: multiple_choice, generate_until, ...")
    problem = drf.CharField(help_text="Why it cannot be taken; empty where it can.")


class TaskList(OrganizationView):
    parser_classes = [MultiPartParser, JSONParser]

    @extend_schema(operation_id="benchmark_tasks_list", responses={200: OfferedTaskBody(many=True)})
    def get(self, request: Request) -> Response:
        """Benchmark tasks that the operator offers. Those taken or uploaded are datasets of kind
        lm_task."""
        return Response(OfferedTaskBody(services.list_offered(), many=True).data)

    @extend_schema(
        operation_id="benchmark_tasks_upload",
        request=UPLOAD,
        responses={201: serializers.DatasetVersionDetail, 400: ErrorBody, 404: ErrorBody},
    )
    def post(self, request: Request) -> Response:
        """Upload a task of lm-eval, or take an offered one, as the next version of a dataset of that
        name. What a task may not say is refused by its key."""
        data = cast(Any, request.data)
        offered, name = str(data.get("offered") or ""), str(data.get("name") or "")
        common: dict[str, Any] = {
            "organization": self.organization,
            "actor": self.actor,
            "now": timezone.now(),
        }
        if offered:
            version = services.adopt_task(offered=offered, name=name, **common)
        else:
            files = request.FILES.getlist("files")
            named = {str(file.name): cast(BinaryIO, file) for file in files}
            if not named or len(named) != len(files):
                raise InvalidInput(
                    "There are no files." if not named else "Two files have one name.",
                    field="files",
                    remedy="Send a YAML and the files that it names, all under `files`.",
                )
            version = services.upload_task(name=name, files=named, **common)
        version = selectors.get_version(self.organization, version.pk)
        return Response(serializers.DatasetVersionDetail(version).data, status=201)
