"""What a client may mean by the `model` that it wants fine-tuned."""

from django.db.models import QuerySet

from accounts.models import Organization
from common.errors import InvalidInput, NotFound
from deployments.models import Deployment
from models_registry.choices import RevisionKind
from models_registry.models import Revision
from openai_api import selectors

TRAINABLE = {RevisionKind.BASE, RevisionKind.FULL, RevisionKind.ADAPTER}


class NoSuchModel(NotFound):
    code = "model_not_found"


def find(organization: Organization, name: str) -> tuple[Revision, Revision | None]:
    """The base to train, and the adapter to go on from if the name is that of one.

    A name is, in this order: that of a fine-tuned model or of its checkpoint; one that the
    organization serves; a registered model, as `model`, `organization/model`, and with `:number` or
    `@alias` behind it. Raises NoSuchModel, InvalidInput.
    """
    revision = (
        selectors.find_result(organization, name)
        or _find_served(organization, name)
        or _find_registered(organization, name)
    )
    if revision is None:
        raise NoSuchModel(
            f"The model {name!r} does not exist or you do not have access to it.",
            field="model",
            remedy="Name a model that you serve, a registered one or a fine-tuned one.",
        )
    if revision.kind not in TRAINABLE:
        raise InvalidInput(
            f"The model {name!r} is of kind {revision.kind}, which cannot be trained.",
            field="model",
            remedy="Name the model that it was made from.",
        )
    if revision.kind == RevisionKind.ADAPTER and revision.parent is not None:
        return revision.parent, revision
    return revision, None


def _find_served(organization: Organization, name: str) -> Revision | None:
    rows = Deployment.objects.of(organization).filter(
        route_targets__route__name=name,
        route_targets__route__organization=organization,
        delete_requested_at__isnull=True,
    )
    row = rows.select_related("revision__parent").order_by("-route_targets__weight").first()
    return row.revision if row is not None else None


def _find_registered(organization: Organization, name: str) -> Revision | None:
    path, _, alias = name.partition("@")
    path, _, number = path.partition(":")
    owner, slash, model = path.rpartition("/")
    rows = Revision.objects.of(organization).select_related("parent")
    rows = rows.filter(registered_model__name=model if slash else path)
    if slash:
        rows = rows.filter(registered_model__organization__slug=owner)
    if alias:
        rows = rows.filter(aliases__name=alias)
    if number:
        if not number.isdigit() or len(number) > 9:
            return None
        rows = rows.filter(number=int(number))
    return _own_first(rows, organization)


def _own_first(rows: QuerySet[Revision], organization: Organization) -> Revision | None:
    """The newest of the organization's own model of that name, or else of a shared one."""
    own = rows.filter(registered_model__organization=organization)
    return (
        own.order_by("-number").first()
        or rows.order_by("registered_model__organization__slug", "-number").first()
    )
