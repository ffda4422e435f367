from accounts.models.api_key import ApiKey
from accounts.models.audit_event import AuditEvent
from accounts.models.limit import Limit, LimitAlert
from accounts.models.membership import Membership
from accounts.models.organization import Organization
from accounts.models.quota import Quota
from accounts.models.tenancy import OfOrganization, TenantQuerySet
from accounts.models.user import User

__all__ = [
    "ApiKey",
    "AuditEvent",
    "Limit",
    "LimitAlert",
    "Membership",
    "OfOrganization",
    "Organization",
    "Quota",
    "TenantQuerySet",
    "User",
]
