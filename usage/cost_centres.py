"""Who within an organization bears what."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from django.db import transaction
from django.db.models import Q, QuerySet

from accounts import audit
from accounts.models import ApiKey, Organization
from common import locks
from common.errors import InvalidInput
from usage.models import CostCentre
from usage.sealing import hour_of

Subject = tuple[UUID | None, str]  # a key's id, or a deployment's name, or neither: all else
LONGEST_CODE = 64


class CentreBook:
    """An organization's cost centres, looked up by hour: the key's own, else the deployment's, else
    that of all else, else none."""

    def __init__(self, organization: Organization) -> None:
        self._rows: dict[Subject, list[CostCentre]] = defaultdict(list)
        for row in CostCentre.objects.of(organization):
            self._rows[row.key_id, row.deployment_name].append(row)

    def of(self, hour: datetime, *, key_id: UUID | None = None, deployment_name: str = "") -> str:
        if not self._rows:
            return ""
        # Without a key, the first would be "all else" and come before the deployment's own.
        of_key: list[Subject] = [(key_id, "")] if key_id else []
        for subject in (*of_key, (None, deployment_name), (None, "")):
            for row in self._rows.get(subject, ()):
                until = row.valid_until
                if row.code and row.valid_from <= hour and (until is None or hour < until):
                    return row.code
        return ""


def list_current(organization: Organization) -> QuerySet[CostCentre]:
    """What holds now, that of all else first."""
    rows = CostCentre.objects.of(organization).filter(valid_until__isnull=True).exclude(code="")
    return rows.order_by("deployment_name", "key_id")


@transaction.atomic
def set_cost_centre(
    *,
    organization: Organization,
    code: str,
    key_id: UUID | None = None,
    deployment_name: str = "",
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> CostCentre | None:
    """From the present hour on, `code` bears the use of the key, of the deployment's name or, with
    neither, of all else; an empty code ends that. None if there was nothing to end.

    Hours before the present one stay with whom they were. Raises InvalidInput.
    """
    code = code.strip()
    _check(organization, code, key_id, deployment_name)
    locks.lock_until_commit(f"usage.cost_centres.{organization.pk}")
    since = hour_of(now)
    rows = CostCentre.objects.of(organization).filter(
        key_id=key_id, deployment_name=deployment_name
    )
    running = rows.filter(valid_until__isnull=True).first()
    before = running.code if running else ""
    if before == code:
        return running
    entry = _replace(organization, running, code, key_id, deployment_name, since)
    audit.record(
        organization=organization,
        actor=actor,
        action="cost_centre.set",
        object_id=entry.pk,
        object_name=deployment_name or str(key_id or organization.slug),
        before={"code": before},
        after={"code": code, "valid_from": since.isoformat()},
        now=now,
    )
    return entry


def _replace(
    organization: Organization,
    running: CostCentre | None,
    code: str,
    key_id: UUID | None,
    deployment_name: str,
    since: datetime,
) -> CostCentre:
    if running is not None and running.valid_from >= since:  # of this very hour, which is open
        running.code = code
        running.save(update_fields=["code"])
        return running
    if running is not None:
        running.valid_until = since
        running.save(update_fields=["valid_until"])
    return CostCentre.objects.create(
        organization=organization,
        code=code,
        key_id=key_id,
        deployment_name=deployment_name,
        valid_from=since,
    )


def _check(
    organization: Organization, code: str, key_id: UUID | None, deployment_name: str
) -> None:
    if len(code) > LONGEST_CODE or not code.isprintable():
        raise InvalidInput(
            "A cost centre is at most 64 printable characters.", field="code", remedy="Shorten it."
        )
    if key_id is not None and deployment_name:
        raise InvalidInput(
            "A cost centre is of a key or of a deployment.",
            field="deployment_name",
            remedy="Set one after the other.",
        )
    if key_id is not None and not ApiKey.objects.of(organization).filter(pk=key_id).exists():
        raise InvalidInput("No such key.", field="key_id", remedy="Take an id from /api-keys/.")


def known_codes(organization: Organization) -> Sequence[str]:
    """Every code that was ever used, for those who type."""
    rows = CostCentre.objects.of(organization).filter(~Q(code=""))
    return list(rows.order_by("code").values_list("code", flat=True).distinct())
