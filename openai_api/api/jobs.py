"""/v1/fine_tuning/jobs"""

import re
from collections.abc import Mapping
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseBase, JsonResponse

from common.errors import NotFound
from engines.protocol.errors import ApiError, invalid, unsupported
from openai_api import names, selectors, services, timeline
from openai_api.api import bodies
from openai_api.api.auth import check_model
from openai_api.api.views import ApiView, Listing, list_answer, paged, read_object
from openai_api.choices import Method
from openai_api.models import FineTuningJob
from openai_api.services import Wanted

FIELDS = {
    "model",
    "training_file",
    "validation_file",
    "hyperparameters",
    "method",
    "suffix",
    "seed",
    "metadata",
    "integrations",
    "platform",
}
PLATFORM = {"tuning": str, "hyperparameters": dict, "accelerators": int, "pool_name": str}
METADATA = re.compile(r"metadata\[(.*)\]", re.DOTALL)


class JobList(ApiView):
    def get(self, request: HttpRequest) -> HttpResponseBase:
        """Newest first; `metadata[key]=value` keeps those that have it, `metadata=null` those that
        have none."""
        rows = _with_metadata(selectors.list_jobs(self.caller.organization), request)
        page, has_more = paged(
            rows, after=Listing.after(request, names.JOB), limit=Listing.limit(request)
        )
        return list_answer([bodies.of_job(row, now=self.now) for row in page], has_more=has_more)

    def post(self, request: HttpRequest) -> HttpResponseBase:
        wanted = read_wanted(read_object(request))
        check_model(self.caller, wanted.model)
        job = services.create_job(
            organization=self.caller.organization,
            wanted=wanted,
            actor=self.caller.actor,
            now=self.now,
        )
        return JsonResponse(bodies.of_job(job, now=self.now))


class JobDetail(ApiView):
    def get(self, request: HttpRequest, job_id: str) -> HttpResponseBase:
        return JsonResponse(bodies.of_job(find(self, job_id), now=self.now))


class JobAction(ApiView):
    """Cancel, pause or resume: `as_view(action=...)` says which."""

    action = ""

    def post(self, request: HttpRequest, job_id: str) -> HttpResponseBase:
        act = {
            "cancel": services.cancel_job,
            "pause": services.pause_job,
            "resume": services.resume_job,
        }[self.action]
        job = act(
            organization=self.caller.organization,
            job_id=find(self, job_id).pk,
            actor=self.caller.actor,
            now=self.now,
        )
        return JsonResponse(bodies.of_job(job, now=self.now))


class JobEvents(ApiView):
    def get(self, request: HttpRequest, job_id: str) -> HttpResponseBase:
        """Newest first: what happened to the job, and what was measured."""
        job, given = find(self, job_id), request.GET.get("after", "")
        prefix, _, key = given.partition("-")
        if given and (prefix != names.EVENT or not key):
            raise _no_such_event()
        try:
            told, has_more = timeline.list_told(job, after=key, limit=Listing.limit(request))
        except timeline.NoSuchEvent:
            raise _no_such_event() from None
        return list_answer([bodies.of_event(each) for each in told], has_more=has_more)


class CheckpointPages(Listing):
    default_limit = 10


class JobCheckpoints(ApiView):
    def get(self, request: HttpRequest, job_id: str) -> HttpResponseBase:
        """Models that can be called, newest first: the result, and what was kept on the way."""
        job = find(self, job_id)
        limit, after = (
            CheckpointPages.limit(request),
            CheckpointPages.after(request, names.CHECKPOINT),
        )
        found = selectors.list_snapshots(job) if selectors.status_of(job) == "succeeded" else []
        if after is not None:
            places = [place for place, each in enumerate(found) if each.revision.pk == after]
            if not places:
                raise invalid("after", "'after' is no checkpoint of this job.")
            found = found[places[0] + 1 :]
        page = [bodies.of_snapshot(each, job) for each in found[:limit]]
        return list_answer(page, has_more=len(found) > limit)


def find(view: ApiView, job_id: str) -> FineTuningJob:
    """Raises NotFound, which says the id as it was given."""
    try:
        return selectors.get_job(view.caller.organization, names.read_id(names.JOB, job_id))
    except NotFound as error:
        raise NotFound(f"Could not find fine tune: {job_id}", field="fine_tuning_job_id") from error


def read_wanted(body: Mapping[str, Any]) -> Wanted:
    """Raises ApiError (400) that names the field at fault."""
    for name in body:
        if name not in FIELDS:
            raise invalid(
                name, f"Unrecognized request argument supplied: {name}", code="unknown_parameter"
            )
    if body.get("integrations"):
        raise unsupported(
            "integrations",
            "Integrations are not offered here: metrics are in the job's events, in its result "
            "file and in the console.",
        )
    method, hyperparameters = _read_method(body)
    return Wanted(
        model=_text(body, "model", required=True),
        training_file=_text(body, "training_file", required=True),
        validation_file=_text(body, "validation_file"),
        method=method,
        hyperparameters=hyperparameters,
        platform=_read_platform(body),
        suffix=_text(body, "suffix"),
        seed=_whole(body, "seed"),
        metadata=_object(body, "metadata") if body.get("metadata") is not None else None,
    )


def _read_method(body: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The method and its hyperparameters, which older clients give beside it."""
    older = _object(body, "hyperparameters")
    method = _object(body, "method")
    if not method:
        return Method.SUPERVISED, older
    name = method.get("type")
    if not isinstance(name, str):
        raise invalid(
            "method.type", "'method.type' is required.", code="missing_required_parameter"
        )
    for key in method:
        if key not in {"type", name}:
            raise invalid(f"method.{key}", f"The method is {name!r}, not {key!r}.")
    values = _object(_object(method, name, f"method.{name}"), "hyperparameters")
    if values and older:
        raise invalid(
            "hyperparameters", "Give hyperparameters once: in 'method', not beside it as well."
        )
    return name, values or older


def _read_platform(body: Mapping[str, Any]) -> Mapping[str, Any]:
    platform = _object(body, "platform")
    for name, value in platform.items():
        kind = PLATFORM.get(name)
        if kind is None or not isinstance(value, kind) or isinstance(value, bool):
            raise invalid(
                f"platform.{name}",
                "'platform' may have tuning and pool_name, texts, accelerators, a whole number, "
                "and hyperparameters, an object of the trainer's own.",
            )
    return platform


def _text(body: Mapping[str, Any], name: str, *, required: bool = False) -> str:
    value = body.get(name)
    if value is None and required:
        raise invalid(name, f"'{name}' is required.", code="missing_required_parameter")
    if value is not None and not isinstance(value, str):
        raise invalid(name, f"'{name}' must be a string.", code="invalid_type")
    if value and "\0" in value:
        raise invalid(name, "It holds a NUL character.")
    return value or ""


def _whole(body: Mapping[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
        raise invalid(name, f"'{name}' must be a whole number.", code="invalid_type")
    return value


def _object(body: Mapping[str, Any], name: str, param: str = "") -> Mapping[str, Any]:
    value = body.get(name)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(param or name, f"'{name}' must be an object.", code="invalid_type")
    return value


def _with_metadata(rows: QuerySet[FineTuningJob], request: HttpRequest) -> QuerySet[FineTuningJob]:
    if request.GET.get("metadata") == "null":
        return rows.filter(metadata__isnull=True)
    wanted = {
        found[1]: value
        for name, value in request.GET.items()
        if (found := METADATA.fullmatch(name))
    }
    return rows.filter(metadata__contains=wanted) if wanted else rows


def _no_such_event() -> ApiError:
    return invalid("after", "'after' is the id of no event of this job.")
