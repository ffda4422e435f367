"""/v1/files"""

from collections.abc import AsyncIterator
from typing import Any, BinaryIO, cast

from asgiref.sync import sync_to_async
from django.http import HttpRequest, HttpResponseBase, JsonResponse, StreamingHttpResponse
from django.utils.http import content_disposition_header

from common.errors import NotFound
from engines.protocol.errors import invalid
from openai_api import names, selectors, services
from openai_api.api import bodies
from openai_api.api.views import ApiView, Listing, list_answer, paged
from openai_api.models import File
from openai_api.services.files import open_file

CHUNK_BYTES = 2**18
FIELDS = {"purpose", "expires_after[anchor]", "expires_after[seconds]"}


class FilePages(Listing):
    default_limit = 10_000
    most = 10_000


class FileList(ApiView):
    def get(self, request: HttpRequest) -> HttpResponseBase:
        """Newest first, or with order=asc oldest first; `purpose` keeps one kind."""
        order = request.GET.get("order", "desc")
        if order not in {"asc", "desc"}:
            raise invalid("order", "'order' must be asc or desc.")
        rows = selectors.list_files(
            self.caller.organization, now=self.now, purpose=request.GET.get("purpose", "")
        )
        page, has_more = paged(
            rows,
            after=FilePages.after(request, names.FILE),
            limit=FilePages.limit(request),
            ascending=order == "asc",
        )
        return list_answer([bodies.of_file(row) for row in page], has_more=has_more)

    def post(self, request: HttpRequest) -> HttpResponseBase:
        """A multipart form with `file` and `purpose`, and `expires_after` if it shall."""
        if request.content_type != "multipart/form-data":
            raise invalid("file", "Send a multipart form with the fields file and purpose.")
        given = request.FILES.getlist("file")
        for name in request.POST:
            if name not in FIELDS:
                raise invalid(name, f"'{name}' is no field of a file.", code="unknown_parameter")
        if len(given) != 1 or len(request.FILES) != 1:
            raise invalid("file", "'file' is required, once.", code="missing_required_parameter")
        if "purpose" not in request.POST:
            raise invalid("purpose", "'purpose' is required.", code="missing_required_parameter")
        file = services.create_file(
            organization=self.caller.organization,
            filename=given[0].name or "",
            purpose=request.POST["purpose"],
            content=cast(BinaryIO, given[0]),
            expires_after_seconds=_expiry(request),
            actor=self.caller.actor,
            now=self.now,
        )
        return JsonResponse(bodies.of_file(file))


class FileDetail(ApiView):
    def get(self, request: HttpRequest, file_id: str) -> HttpResponseBase:
        return JsonResponse(bodies.of_file(find(self, file_id)))

    def delete(self, request: HttpRequest, file_id: str) -> HttpResponseBase:
        found = find(self, file_id)
        services.delete_file(
            organization=self.caller.organization,
            file_id=found.pk,
            actor=self.caller.actor,
            now=self.now,
        )
        return JsonResponse({"id": file_id, "object": "file", "deleted": True})


class FileContent(ApiView):
    def get(self, request: HttpRequest, file_id: str) -> HttpResponseBase:
        """The bytes as they were uploaded, streamed."""
        file = find(self, file_id)
        response = StreamingHttpResponse(
            _stream(open_file(file)), content_type="application/octet-stream"
        )
        response["Content-Length"] = str(file.size_bytes)
        response["Content-Disposition"] = (
            content_disposition_header(as_attachment=True, filename=file.filename) or "attachment"
        )
        return response


def find(view: ApiView, file_id: str) -> File:
    """Raises NotFound, which says the id as it was given."""
    try:
        return selectors.get_file(
            view.caller.organization, names.read_id(names.FILE, file_id), now=view.now
        )
    except NotFound as error:
        raise NotFound(f"No such File object: {file_id}", field="id") from error


def _expiry(request: HttpRequest) -> int | None:
    anchor = request.POST.get("expires_after[anchor]")
    seconds = request.POST.get("expires_after[seconds]")
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise invalid("expires_after.anchor", "'expires_after.anchor' must be 'created_at'.")
    if seconds is None or not seconds.isdecimal() or len(seconds) > 9:
        raise invalid("expires_after.seconds", "'expires_after.seconds' must be a whole number.")
    return int(seconds)


async def _stream(file: BinaryIO) -> AsyncIterator[Any]:
    """In pieces, read in threads: a sync iterator would be read to its end before any is sent."""
    read, close = sync_to_async(file.read), sync_to_async(file.close)
    try:
        while chunk := await read(CHUNK_BYTES):
            yield chunk
    finally:
        await close()
