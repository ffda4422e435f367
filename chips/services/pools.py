"""Pools, and who may use those that are not open."""

from datetime import datetime
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from accounts import audit
from accounts.models import Organization
from chips.models import Pool, PoolGrant
from common.errors import DomainError, InvalidInput, NotFound


class PoolExists(DomainError):
    code = "pool_exists"


def create_pool(
    *,
    name: str,
    description: str = "",
    region: str = "",
    is_open: bool = True,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> Pool:
    """A new pool, without nodes. Raises InvalidInput for a bad name, PoolExists."""
    pool = Pool(name=name, description=description, region=region, is_open=is_open, created_at=now)
    try:
        pool.clean_fields()
    except ValidationError as error:
        field, messages = next(iter(error.message_dict.items()))
        raise InvalidInput(messages[0], field=field) from error
    try:
        with transaction.atomic():
            pool.save(force_insert=True)
            audit.record(
                organization=None,
                actor=actor,
                action="pool.create",
                object_id=pool.pk,
                object_name=name,
                after={"region": region, "is_open": is_open},
                now=now,
            )
    except IntegrityError as error:
        raise PoolExists(f"A pool named {name} exists.", field="name") from error
    return pool


@transaction.atomic
def update_pool(
    *,
    pool_id: UUID,
    description: str | None = None,
    region: str | None = None,
    is_open: bool | None = None,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> Pool:
    """Change what is given. Closing a pool ends nothing that runs there. Raises NotFound."""
    pool = Pool.objects.select_for_update(no_key=True).filter(pk=pool_id).first()
    if pool is None:
        raise NotFound("No such pool.")
    wanted = {"description": description, "region": region, "is_open": is_open}
    after = {
        name: value
        for name, value in wanted.items()
        if value is not None and value != getattr(pool, name)
    }
    if after:
        before = {name: getattr(pool, name) for name in after}
        for name, value in after.items():
            setattr(pool, name, value)
        pool.save(update_fields=list(after))
        audit.record(
            organization=None,
            actor=actor,
            action="pool.update",
            object_id=pool.pk,
            object_name=pool.name,
            before=before,
            after=after,
            now=now,
        )
    return pool


@transaction.atomic
def grant_pool(
    *, pool: Pool, organization: Organization, actor: audit.Actor = audit.SYSTEM, now: datetime
) -> PoolGrant:
    """Let an organization use a pool; a second time changes nothing."""
    grant, is_new = PoolGrant.objects.get_or_create(
        pool=pool, organization=organization, defaults={"created_at": now}
    )
    if is_new:
        _record("pool.grant", pool, organization, actor=actor, now=now)
    return grant


@transaction.atomic
def revoke_pool_grant(
    *, pool: Pool, organization: Organization, actor: audit.Actor = audit.SYSTEM, now: datetime
) -> None:
    """Nothing new of the organization is placed in the pool; what runs there goes on."""
    deleted, _rows = PoolGrant.objects.filter(pool=pool, organization=organization).delete()
    if deleted:
        _record("pool.revoke_grant", pool, organization, actor=actor, now=now)


def _record(
    action: str, pool: Pool, organization: Organization, *, actor: audit.Actor, now: datetime
) -> None:
    audit.record(
        organization=organization,
        actor=actor,
        action=action,
        object_id=pool.pk,
        object_name=pool.name,
        after={"organization": organization.slug},
        now=now,
    )
