"""/v1/batches"""

from typing import Any

from django.http import HttpRequest, HttpResponseBase, JsonResponse

from accounts import selectors as accounts
from accounts.choices import Capability
from common.errors import NotFound
from engines.protocol.errors import invalid
from openai_api import names, selectors, services
from openai_api.api import bodies, errors
from openai_api.api.views import ApiView, list_answer, paged, read_object
from openai_api.api.views import Listing as Pages
from openai_api.models import Batch
from openai_api.services import WantedBatch

REQUIRED = ("input_file_id", "endpoint", "completion_window")
FIELDS = {*REQUIRED, "metadata"}


class BatchList(ApiView):
    def get(self, request: HttpRequest) -> HttpResponseBase:
        """Newest first."""
        given = request.GET.get("after")
        after = names.read_batch_id(given) if given else None
        if given and after is None:
            raise invalid("after", "'after' must be the id of a batch: batch_...")
        rows = selectors.list_batches(self.caller.organization)
        page, has_more = paged(rows, after=after, limit=Pages.limit(request))
        return list_answer([bodies.of_batch(row) for row in page], has_more=has_more)

    def post(self, request: HttpRequest) -> HttpResponseBase:
        if Capability.INFER not in accounts.get_key_capabilities(self.caller.key):
            raise errors.forbidden(
                "Batches call models: use a key with the scopes `inference` and `fine_tuning`.",
                code="missing_scope",
            )
        batch = services.create_batch(
            organization=self.caller.organization,
            wanted=read_wanted(read_object(request)),
            key=self.caller.key,
            actor=self.caller.actor,
            now=self.now,
        )
        return JsonResponse(bodies.of_batch(batch))


class BatchDetail(ApiView):
    def get(self, request: HttpRequest, batch_id: str) -> HttpResponseBase:
        return JsonResponse(bodies.of_batch(find(self, batch_id)))


class BatchCancel(ApiView):
    def post(self, request: HttpRequest, batch_id: str) -> HttpResponseBase:
        batch = services.cancel_batch(
            organization=self.caller.organization,
            batch_id=find(self, batch_id).pk,
            actor=self.caller.actor,
            now=self.now,
        )
        return JsonResponse(bodies.of_batch(batch))


def find(view: ApiView, batch_id: str) -> Batch:
    """Raises NotFound, which says the id as it was given."""
    try:
        return selectors.get_batch(view.caller.organization, names.read_batch_id(batch_id))
    except NotFound as error:
        raise NotFound(f"No batch found with id '{batch_id}'.", field="batch_id") from error


def read_wanted(values: dict[str, Any]) -> WantedBatch:
    """Raises ApiError."""
    for name in values.keys() - FIELDS:
        raise invalid(name, f"'{name}' is no parameter of a batch.", code="unknown_parameter")
    for name in REQUIRED:
        if values.get(name) is None:
            raise invalid(name, f"'{name}' is required.", code="missing_required_parameter")
        if not isinstance(values[name], str) or "\0" in values[name]:
            raise invalid(name, f"'{name}' must be a text.", code="invalid_type")
    metadata = values.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise invalid("metadata", "'metadata' must be an object.", code="invalid_type")
    return WantedBatch(
        endpoint=values["endpoint"],
        input_file=values["input_file_id"],
        completion_window=values["completion_window"],
        metadata=metadata,
    )
