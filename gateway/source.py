"""The directory's source: rows in PostgreSQL, read in threads through Django."""

import logging
from collections.abc import Iterable
from functools import lru_cache

from django.db import close_old_connections, connection
from django.db.models import F, Q
from django.utils import timezone

from accounts.models import ApiKey
from common import boxes
from common.outside import read_base_url
from deployments import planning, selectors
from deployments.outside_targets import OutsideRow
from gateway.directory import Key, Replica, Route, Shadow, Target, Waits

logger = logging.getLogger(__name__)


class DatabaseSource:
    """Keys and routes as they are in the database now."""

    def load_recent_keys(self, limit: int) -> list[Key]:
        _renew_connection()
        rows = ApiKey.objects.filter(revoked_at__isnull=True).select_related("organization")
        order = F("last_used_at").desc(nulls_last=True)
        recent = rows.order_by(order, "-created_at")[:limit]
        return [key for row in recent for key in _keys(row)]

    def load_keys(self, prefixes: Iterable[str]) -> list[Key]:
        _renew_connection()
        wanted = set(prefixes)
        either = Q(prefix__in=wanted) | Q(previous_prefix__in=wanted)
        rows = ApiKey.objects.filter(either).select_related("organization")
        return [key for row in rows for key in _keys(row) if key.prefix in wanted]

    def load_routes(self) -> list[Route]:
        _renew_connection()
        return [
            Route(
                name=row.name,
                organization_id=str(row.organization_id),
                created_at=int(row.created_at.timestamp()),
                targets=_targets(row),
                shadow=Shadow(_target(row.shadow), row.shadow.weight / 100) if row.shadow else None,
            )
            for row in selectors.get_routing_table()
        ]

    def touch_keys(self, ids: Iterable[str]) -> None:
        _renew_connection()
        ApiKey.objects.filter(pk__in=list(ids)).update(last_used_at=timezone.now())


def _renew_connection() -> None:
    """These threads live long and serve no request, after which Django would look to that."""
    if not connection.in_atomic_block:
        close_old_connections()


def _keys(row: ApiKey) -> list[Key]:
    """One for each of the key's secrets: all that differs is how it is found and when it ends."""
    return [
        Key(
            id=str(row.pk),
            name=row.name,
            prefix=secret.prefix,
            secret_hash=secret.hash,
            organization_id=str(row.organization_id),
            organization_slug=row.organization.slug,
            scopes=frozenset(row.scopes),
            allowed_models=frozenset(row.allowed_models),
            allowed_networks=frozenset(row.allowed_networks),
            expires_at=secret.expires_at.timestamp() if secret.expires_at else None,
            is_revoked=row.revoked_at is not None,
            is_suspended=row.organization.suspended_at is not None,
        )
        for secret in row.secrets
    ]


def _targets(row: selectors.RouteRow) -> tuple[Target, ...]:
    """All of them in the order of their ranks."""
    inside = [_target(each) for each in row.targets]
    outside = [each for each in map(_outside, row.outside) if each is not None]
    return tuple(sorted((*inside, *outside), key=lambda target: target.rank))


@lru_cache(maxsize=4096)
def _outside(row: OutsideRow) -> Target | None:
    """None where its key cannot be opened or its address not be read, which its page says."""
    try:
        where = read_base_url(row.base_url)
        token = boxes.open_sealed(row.sealed_key)
    except (boxes.CannotOpen, ValueError) as error:
        logger.error("provider %s cannot be used: %s", row.provider_name, error)
        return None
    replica = Replica(
        id=str(row.target_id),
        host=where.host,
        port=where.port,
        token=token,
        base_path=where.path,
        is_tls=where.is_tls,
        is_outside=True,
    )
    return Target(
        deployment_id=str(row.target_id),
        deployment_name=row.provider_name,
        revision_id=None,
        served_model_name=row.provider_model_name,
        weight=row.weight,
        replicas=(replica,),
        rank=row.rank,
        provider_name=row.provider_name,
    )


def _target(row: selectors.TargetRow) -> Target:
    return Target(
        deployment_id=str(row.deployment_id),
        deployment_name=row.deployment_name,
        revision_id=str(row.revision_id),
        served_model_name=row.deployment_name,
        weight=row.weight,
        replicas=tuple(
            Replica(
                id=str(each.id),
                host=each.address,
                port=each.port,
                token=planning.replica_token(each.id),
            )
            for each in row.replicas
        ),
        message=row.message,
        waits=_waits(row),
        is_asleep=row.is_asleep,
        rank=row.rank,
    )


def _waits(row: selectors.TargetRow) -> Waits:
    if row.scales:
        return Waits.ON_DEMAND
    return Waits.FOR_RESTART if row.is_coming else Waits.NOT
