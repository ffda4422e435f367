"""Rows for tests."""

from datetime import UTC, datetime

from accounts import services
from accounts.choices import Role, Scope
from accounts.models import Organization, User

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def make_organization(slug: str = "retail", **fields: object) -> Organization:
    found = Organization.objects.filter(slug=slug).first()
    if found:
        return found
    return Organization.objects.create(
        **{"slug": slug, "name": slug.title(), "created_at": NOW} | fields
    )


def make_user(username: str = "ada", *, is_staff: bool = False) -> User:
    return User.objects.create_user(
        username, f"{username}@example.com", "a-long-password", is_staff=is_staff
    )


def make_member(organization: Organization, username: str = "ada", role: str = Role.OWNER) -> User:
    user = User.objects.filter(username=username).first() or make_user(username)
    services.set_member(organization=organization, user=user, role=role, now=NOW)
    return user


def make_key(
    organization: Organization,
    scopes: tuple[str, ...] = (Scope.INFERENCE, Scope.READ, Scope.WRITE),
    **options: object,
) -> str:
    """The secret of a new key."""
    return services.issue_api_key(
        organization=organization,
        name="test",
        scopes=scopes,
        may_operate=Scope.OPERATE in scopes,
        now=NOW,
        **options,  # type: ignore[arg-type]
    ).secret
