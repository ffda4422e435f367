"""Whether what somebody wants of a deployment can be wanted at all."""

import re

from django.core.exceptions import ValidationError

from chips.models import Pool
from common.errors import DomainError, InvalidInput
from deployments import adapters, custom_engines
from deployments.planning import ServeSettings
from deployments.variants import Content
from engines import architectures
from engines.host import ADAPTER_ENGINES, SpecError
from models_registry import merging
from models_registry.choices import RevisionKind
from models_registry.models import Revision
from models_registry.models.registered_model import NAME

MAX_REPLICAS = 64
FINE_TUNED = re.compile(r"(?=.{1,200}$)ft(:[A-Za-z0-9._-]*){4,5}")
SERVED_WHOLE = {RevisionKind.BASE, RevisionKind.FULL}


class NotServable(DomainError):
    """The engine cannot serve this revision: its kind, its architecture or its number format."""

    code = "not_servable"


def check_name(name: str, *, is_result: bool = False) -> None:
    """`is_result`: it may be a fine-tuned model's. Raises InvalidInput."""
    if is_result and FINE_TUNED.fullmatch(name):
        return
    try:
        NAME(name)
    except ValidationError as error:
        raise InvalidInput(" ".join(error.messages), field="name") from error


def check_replicas(replicas: int) -> None:
    """Raises InvalidInput."""
    _check_range("replicas", replicas, 0, MAX_REPLICAS)


def check_content(content: Content, revision: Revision) -> None:
    """What a replica is to run; `revision` is the content's. Raises InvalidInput by field,
    NotServable."""
    try:
        launcher = custom_engines.find_launcher(content.engine)
    except SpecError as error:
        raise InvalidInput(
            f"The engine {content.engine} cannot be started: {error}.",
            field="engine",
            remedy="Ask the platform's operators to describe it anew, or use another.",
        ) from error
    if launcher is None:
        raise InvalidInput(
            f"There is no engine {content.engine}.",
            field="engine",
            remedy=f"Use one of {', '.join(custom_engines.list_names())}.",
        )
    _check_range("accelerators_per_replica", content.accelerators_per_replica, 0, 1024)
    _check_range("slots_per_replica", content.slots_per_replica, 1, 1024)
    if content.pool_name and not Pool.objects.filter(name=content.pool_name).exists():
        raise InvalidInput(
            f"There is no pool {content.pool_name}.",
            field="pool_name",
            remedy="Leave it out to use any pool that fits.",
        )
    _check_servable(revision, content.engine)
    wanted = ServeSettings.read(dict(content.settings))
    try:
        launcher.check_arguments(wanted.engine_arguments or {})
    except SpecError as error:
        raise InvalidInput(
            f"{error.problem}.", field=f"settings.engine_{error.field}", remedy=f"{error.remedy}."
        ) from error


def _check_range(field: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise InvalidInput(f"{value} is out of range.", field=field, remedy=f"Use {low} to {high}.")


def _check_servable(revision: Revision, engine: str) -> None:
    if engine == "fake":
        return
    is_adapter = adapters.is_adapter(revision)
    if revision.kind not in SERVED_WHOLE and not (is_adapter and engine in ADAPTER_ENGINES):
        raise NotServable(
            f"{revision} is of kind {revision.kind}: the engine {engine} serves whole weights only.",
            field="revision_id",
            remedy="Deploy a base revision or a full fine-tune; adapters are served by "
            f"{', '.join(sorted(ADAPTER_ENGINES))}.",
        )
    if merging.uses_dora(revision):
        raise NotServable(
            f"{revision} is a DoRA adapter: it rescales its base's weights, which engines cannot do"
            " for one request among others.",
            field="revision_id",
            remedy=f"Merge it first (POST /api/v1/revisions/{revision.pk}/merge/, or the button on"
            " its page), then deploy the merged revision.",
        )
    base = adapters.base_of(revision)
    refusal = architectures.refusal(
        engine,
        model_type=base.model_type,
        architecture=base.architecture,
        quantization=base.quantization,
        adapter=is_adapter,
    )
    if refusal is not None:
        raise NotServable(
            f"{revision}: {refusal.message}", field="revision_id", remedy=refusal.remedy
        )
