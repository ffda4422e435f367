"""Routes: public model names, and which deployments and providers answer them in which order."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from django.db import IntegrityError, transaction

from accounts import audit
from accounts.models import Organization
from common.errors import DomainError, InvalidInput
from deployments import notify, route_selectors, selectors
from deployments.models import Deployment, Provider, Route, RouteTarget
from deployments.services import checks

MOST_TARGETS = 20
MOST_WEIGHT = 10_000
MOST_RANK = 9
KEPT = object()  # a shadow that is not changed


class RouteExists(DomainError):
    code = "route_exists"


class RouteOfDeployment(DomainError):
    code = "route_of_deployment"


@dataclass(frozen=True, kw_only=True)
class WantedTarget:
    """A deployment, or a provider with its name of the model."""

    deployment_id: UUID | None = None
    provider_id: UUID | None = None
    provider_model_name: str = ""
    weight: int = 100
    rank: int = 0


@dataclass(frozen=True, kw_only=True)
class WantedShadow:
    """A candidate that gets a copy of so many percent of the requests."""

    deployment_id: UUID
    percent: int


def create_route(
    *,
    organization: Organization,
    name: str,
    targets: Sequence[WantedTarget],
    shadow: WantedShadow | None = None,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> Route:
    """A public model name of the organization. Raises InvalidInput, RouteExists."""
    checks.check_name(name)
    rows = _read_targets(organization, targets)
    candidate = _candidate(organization, shadow)
    try:
        with transaction.atomic():
            route = Route.objects.create(
                organization=organization,
                name=name,
                created_at=now,
                shadow_deployment=candidate,
                shadow_percent=shadow.percent if shadow else 0,
            )
            _put(route, rows)
            _record(route, "route.create", after=_words(route, rows), actor=actor, now=now)
            notify.routes_changed()
    except IntegrityError as error:
        raise RouteExists(
            f"There is a route named {name}.", field="name", remedy="Change that one instead."
        ) from error
    return route


@transaction.atomic
def update_route(
    *,
    organization: Organization,
    route_id: UUID,
    targets: Sequence[WantedTarget] | None = None,
    shadow: WantedShadow | object | None = KEPT,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> Route:
    """Replace the targets, the shadow or both; gateways follow within a second, and requests that
    are open end where they are. Raises InvalidInput, NotFound."""
    route_selectors.get_route(organization, route_id)
    route = Route.objects.of(organization).select_for_update().get(pk=route_id)
    old = list(route.targets.select_related("deployment", "provider"))
    before = _words(route, old)
    rows = old
    if targets is not None:
        rows = _read_targets(organization, targets)
        route.targets.all().delete()
        _put(route, rows)
    if shadow is None or isinstance(shadow, WantedShadow):
        route.shadow_deployment = _candidate(organization, shadow)
        route.shadow_percent = shadow.percent if shadow else 0
        route.save(update_fields=["shadow_deployment", "shadow_percent"])
    after = _words(route, rows)
    if after != before:
        _record(route, "route.update", before=before, after=after, actor=actor, now=now)
        notify.routes_changed()
    return route_selectors.get_route(organization, route_id)


@transaction.atomic
def delete_route(
    *,
    organization: Organization,
    route_id: UUID,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> None:
    """Take the name away: requests for it get 404. The route that a deployment came with lives as
    long as that one. Raises NotFound, RouteOfDeployment."""
    route = route_selectors.get_route(organization, route_id)
    live = selectors.list_deployments(organization).filter(delete_requested_at__isnull=True)
    if live.filter(name=route.name).exists():
        raise RouteOfDeployment(
            f"{route.name} is the name of a deployment.",
            remedy="Change the route's targets, or delete the deployment.",
        )
    before = _words(route, list(route.targets.all()))
    _record(route, "route.delete", before=before, actor=actor, now=now)
    route.delete()
    notify.routes_changed()


def _read_targets(organization: Organization, targets: Sequence[WantedTarget]) -> list[RouteTarget]:
    """Rows not yet saved, without their route."""
    if not 1 <= len(targets) <= MOST_TARGETS:
        raise InvalidInput(
            f"A route has 1 to {MOST_TARGETS} targets.",
            field="targets",
            remedy="Name at least one deployment or provider.",
        )
    rows = [
        _read_target(organization, target, where=f"targets.{index}")
        for index, target in enumerate(targets)
    ]
    met = {(row.deployment_id, row.provider_id, row.provider_model_name) for row in rows}
    if len(met) < len(rows):
        raise InvalidInput(
            "A target is named twice.", field="targets", remedy="Add its weights up in one."
        )
    if not any(row.weight for row in rows):
        raise InvalidInput(
            "No target has a weight.", field="targets", remedy="Give one of them a weight above 0."
        )
    return rows


def _read_target(organization: Organization, target: WantedTarget, *, where: str) -> RouteTarget:
    for field, most in (("weight", MOST_WEIGHT), ("rank", MOST_RANK)):
        if not 0 <= getattr(target, field) <= most:
            raise InvalidInput(
                f"{field} is {getattr(target, field)}.",
                field=f"{where}.{field}",
                remedy=f"Give a number from 0 to {most}.",
            )
    if (target.deployment_id is None) == (target.provider_id is None):
        raise InvalidInput(
            "A target is either a deployment or a provider.",
            field=f"{where}.deployment",
            remedy="Give one of the two.",
        )
    provider = None
    if target.provider_id is not None:
        provider = Provider.objects.of(organization).filter(pk=target.provider_id).first()
        if provider is None:
            raise InvalidInput("There is no such provider.", field=f"{where}.provider")
        if not target.provider_model_name.strip() or len(target.provider_model_name) > 200:
            raise InvalidInput(
                "A provider needs its own name of the model.",
                field=f"{where}.provider_model_name",
                remedy=f"Say what {provider.name} calls it.",
            )
    return RouteTarget(
        deployment=_deployment(organization, target.deployment_id, field=f"{where}.deployment"),
        provider=provider,
        provider_model_name=target.provider_model_name.strip() if provider else "",
        weight=target.weight,
        rank=target.rank,
    )


def _candidate(organization: Organization, shadow: WantedShadow | None) -> Deployment | None:
    if shadow is None:
        return None
    if not 1 <= shadow.percent <= 100:
        raise InvalidInput(
            f"{shadow.percent} percent cannot be copied.",
            field="shadow.percent",
            remedy="Give 1 to 100, or no shadow.",
        )
    return _deployment(organization, shadow.deployment_id, field="shadow.deployment")


def _deployment(organization: Organization, pk: UUID | None, *, field: str) -> Deployment | None:
    if pk is None:
        return None
    rows = selectors.list_deployments(organization).filter(delete_requested_at__isnull=True)
    row = rows.filter(pk=pk).first()
    if row is None:
        raise InvalidInput("There is no such deployment.", field=field)
    return row


def _put(route: Route, rows: Sequence[RouteTarget]) -> None:
    for row in rows:
        row.route = route
    RouteTarget.objects.bulk_create(rows)


def _words(route: Route, rows: Sequence[RouteTarget]) -> dict[str, Any]:
    """For the audit log."""
    words: dict[str, Any] = {
        "targets": [
            {
                "to": str(row.deployment or f"{row.provider}/{row.provider_model_name}"),
                "weight": row.weight,
                "rank": row.rank,
            }
            for row in rows
        ]
    }
    if route.shadow_deployment is not None:
        words["shadow"] = f"{route.shadow_deployment} ({route.shadow_percent} %)"
    return words


def _record(
    route: Route,
    action: str,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
    actor: audit.Actor,
    now: datetime,
) -> None:
    audit.record(
        organization=route.organization,
        actor=actor,
        action=action,
        object_id=route.pk,
        object_name=route.name,
        before=before or {},
        after=after or {},
        now=now,
    )
