"""Who may do what: one table for roles, one for the scopes of keys."""

from accounts import choices
from accounts.choices import Role, Scope

C = choices.Capability

BY_ROLE: dict[str, frozenset[str]] = {
    Role.VIEWER: frozenset({C.VIEW, C.VIEW_USAGE}),
    Role.DEVELOPER: frozenset({C.VIEW, C.VIEW_USAGE, C.DEVELOP, C.INFER, C.FINE_TUNE}),
    Role.ADMIN: frozenset(
        {
            C.VIEW,
            C.VIEW_USAGE,
            C.DEVELOP,
            C.INFER,
            C.FINE_TUNE,
            C.MANAGE_KEYS,
            C.MANAGE_MEMBERS,
            C.VIEW_AUDIT,
        }
    ),
    Role.OWNER: frozenset(set(C) - {C.OPERATE}),
}

BY_SCOPE: dict[str, frozenset[str]] = {
    Scope.INFERENCE: frozenset({C.INFER}),
    Scope.FINE_TUNING: frozenset({C.FINE_TUNE}),
    Scope.READ: frozenset({C.VIEW, C.VIEW_USAGE, C.VIEW_AUDIT}),
    Scope.WRITE: frozenset(
        {C.VIEW, C.VIEW_USAGE, C.VIEW_AUDIT, C.DEVELOP, C.MANAGE_KEYS, C.MANAGE_MEMBERS}
    ),
    Scope.OPERATE: frozenset({C.OPERATE, C.VIEW}),
}


def of_role(role: str) -> frozenset[str]:
    """The capabilities of a member with this role."""
    return BY_ROLE.get(role, frozenset())


def of_scopes(scopes: list[str]) -> frozenset[str]:
    """The capabilities of a key with these scopes."""
    return frozenset().union(*(BY_SCOPE.get(scope, frozenset()) for scope in scopes))
