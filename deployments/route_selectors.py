"""Routes, providers and candidates' answers, for people."""

from uuid import UUID

from django.db.models import QuerySet

from accounts.models import Organization
from common.errors import NotFound
from deployments.models import Provider, Route, ShadowAnswer


def list_routes(organization: Organization) -> QuerySet[Route]:
    """The organization's public model names."""
    rows = Route.objects.of(organization).select_related("shadow_deployment")
    return rows.prefetch_related("targets__deployment", "targets__provider")


def get_route(organization: Organization, route_id: UUID) -> Route:
    """Raises NotFound."""
    row = list_routes(organization).filter(pk=route_id).first()
    if row is None:
        raise NotFound("No such route.")
    return row


def list_providers(organization: Organization) -> QuerySet[Provider]:
    """External providers of the organization, by name."""
    return Provider.objects.of(organization).order_by("name")


def get_provider(organization: Organization, provider_id: UUID) -> Provider:
    """Raises NotFound."""
    row = list_providers(organization).filter(pk=provider_id).first()
    if row is None:
        raise NotFound("No such provider.")
    return row


def list_shadow_answers(route: Route) -> QuerySet[ShadowAnswer]:
    """What a route's candidates answered, newest first."""
    return ShadowAnswer.objects.of(route.organization).filter(route_name=route.name)
