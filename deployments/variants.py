"""What replicas of a deployment run, as an immutable value and as the row that keeps it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Self
from uuid import UUID

from django.db.models import Max

from deployments.models import Deployment, Variant

Served = Deployment | Variant  # either says what a replica asks for


@dataclass(frozen=True, kw_only=True)
class Content:
    """All that makes two replicas alike. Equal contents are the same variant of a deployment."""

    revision_id: UUID
    engine: str
    slots_per_replica: int
    accelerators_per_replica: int
    pool_name: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, row: Served) -> Self:
        return cls(
            revision_id=row.revision_id,
            engine=row.engine,
            slots_per_replica=row.slots_per_replica,
            accelerators_per_replica=row.accelerators_per_replica,
            pool_name=row.pool_name,
            settings=row.settings,
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"revision_id": str(self.revision_id)}

    @property
    def digest(self) -> str:
        text = json.dumps(self.as_json(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def ensure(deployment: Deployment, content: Content, *, now: datetime) -> Variant:
    """The deployment's variant of this content; a new one if there was none. Call it with the
    deployment locked."""
    rows = Variant.objects.filter(deployment=deployment)
    found = rows.filter(digest=content.digest).select_related("revision").first()
    if found is not None:
        return found
    last = rows.aggregate(last=Max("number"))["last"] or 0
    return Variant.objects.create(
        deployment=deployment,
        number=last + 1,
        digest=content.digest,
        revision_id=content.revision_id,
        engine=content.engine,
        slots_per_replica=content.slots_per_replica,
        accelerators_per_replica=content.accelerators_per_replica,
        pool_name=content.pool_name,
        settings=dict(content.settings),
        created_at=now,
    )


def ensure_served(deployment: Deployment, *, now: datetime) -> Variant:
    """The variant that the deployment itself describes: what it serves when nothing is changing."""
    return ensure(deployment, Content.of(deployment), now=now)
