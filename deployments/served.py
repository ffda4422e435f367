"""Under which public names a revision is served, for those who compare revisions."""

from collections.abc import Sequence
from uuid import UUID

from django.db.models import Count, Q

from accounts.models import Organization
from deployments.choices import ROLLOUT_OPEN
from deployments.models import Rollout, Route


def find_names(organization: Organization, revision_id: UUID) -> Sequence[str]:
    """Names that lead to this revision alone: no other target, no rollout on the way."""
    changing = Rollout.objects.filter(
        status__in=ROLLOUT_OPEN, deployment__organization=organization
    ).values("deployment")
    this = Q(
        targets__deployment__revision=revision_id,
        targets__deployment__delete_requested_at__isnull=True,
    ) & ~Q(targets__deployment__in=changing)
    rows = Route.objects.of(organization).annotate(
        mine=Count("targets", filter=this), all=Count("targets")
    )
    return [row.name for row in rows.order_by("name") if row.mine and row.mine == row.all]
