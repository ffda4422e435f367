"""Models named by an alias, as people think of them: `tickets@champion`."""

from accounts.models import Organization
from common.errors import InvalidInput
from models_registry import serving
from models_registry.models import Alias


def resolve(organization: Organization, name: str) -> str:
    """The public name behind `model@alias` or `organization/model@alias`; any other name as it is.

    Raises InvalidInput where the alias stands for a revision that nobody serves.
    """
    alias = _find(organization, name)
    if alias is None:
        return name
    names = serving.find_names(organization, alias.revision)
    if not names:
        raise InvalidInput(
            f"{alias} is {alias.revision}, which is not served under a name of its own.",
            field="models",
            remedy="Deploy the revision, or name a served model.",
        )
    return names[0]


def _find(organization: Organization, name: str) -> Alias | None:
    model_name, at, alias = name.rpartition("@")
    if not at:
        return None
    slug, _, short = model_name.rpartition("/")
    rows = Alias.objects.filter(
        name=alias,
        registered_model__name=short,
        registered_model__organization__slug=slug or organization.slug,
    )
    readable = rows.select_related("revision__registered_model__organization")
    found = readable.first()
    if found is None:
        return None
    model = found.registered_model
    is_readable = model.organization_id == organization.pk or model.visibility == "shared"
    return found if is_readable else None
