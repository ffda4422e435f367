"""Who is who: memberships and capabilities of the person or key behind a request."""

from django.db.models import QuerySet

from accounts import permissions
from accounts.choices import Capability, Role
from accounts.models import ApiKey, Membership, Organization, User


def list_organizations(user: User) -> QuerySet[Organization]:
    """The organizations that a person may switch to: their own, unless suspended; platform staff
    see all."""
    if user.is_staff:
        return Organization.objects.all()
    open_ones = Organization.objects.filter(suspended_at__isnull=True)
    return open_ones.filter(memberships__user=user).distinct()


def get_capabilities(user: User, organization: Organization) -> frozenset[str]:
    """What a person may do in an organization. Staff may look everywhere and operate."""
    membership = Membership.objects.of(organization).filter(user=user).first()
    own = permissions.of_role(membership.role) if membership else frozenset()
    if user.is_staff:
        own |= permissions.of_role(Role.VIEWER) | {Capability.OPERATE, Capability.VIEW_AUDIT}
    return own


def get_key_capabilities(key: ApiKey) -> frozenset[str]:
    """What a key may do in its organization."""
    return permissions.of_scopes(key.scopes)
