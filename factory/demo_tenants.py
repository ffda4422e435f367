"""The demo's organizations, people, keys and prices. Made once; secrets lie in a private file."""

import json
import secrets
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from django.conf import settings

from accounts import services
from accounts.choices import Role, Scope
from accounts.models import Organization, User
from chips.choices import PriceItem
from chips.models import PriceEntry

ORGANIZATIONS = {
    "platform": "Platform team",
    "retail": "Retail support",
    "logistics": "Logistics support",
}
# Prices of the demo's own making, so that the statement has something to add up.
PRICES = {
    PriceItem.ACCELERATOR_HOUR: Decimal("0.12"),
    PriceItem.INPUT_TOKENS: Decimal("0.10"),
    PriceItem.OUTPUT_TOKENS: Decimal("0.40"),
    PriceItem.TRAINING_TOKENS: Decimal("0.50"),
}


@dataclass(frozen=True)
class Tenants:
    """Keys by organization, and a tenant's sign-in."""

    keys: dict[str, str]
    username: str
    password: str


def ensure_tenants(*, now: datetime) -> Tenants:
    """What the demo needs, made where it is missing."""
    path = Path(settings.FACTORY_DATA) / "demo-tenants.json"
    kept = json.loads(path.read_text()) if path.exists() else {}
    keys: dict[str, str] = kept.get("keys", {})
    password = kept.get("password") or secrets.token_urlsafe(12)
    _keep(path, keys, password)  # before anybody has it
    organizations = {slug: _organization(slug, name, now) for slug, name in ORGANIZATIONS.items()}
    for slug, organization in organizations.items():
        if not services.authenticate_api_key(keys.get(slug, ""), now=now):
            keys[slug] = _new_key(organization, now)
    _person("retail", password, organizations["retail"], now)
    _person("logistics", password, organizations["logistics"], now)
    _keep(path, keys, password)
    for item, price in PRICES.items():
        if not PriceEntry.objects.filter(item=item, organization=None).exists():
            PriceEntry.objects.create(
                item=item,
                unit_price=price,
                valid_from=now.replace(day=1, hour=0, minute=0, second=0, microsecond=0),
                note="demo",
            )
    return Tenants(keys=keys, username="retail", password=password)


def _keep(path: Path, keys: dict[str, str], password: str) -> None:
    """Whole or not at all, readable by the owner alone."""
    beside = path.with_suffix(".new")
    beside.touch(mode=0o600)
    beside.write_text(json.dumps({"keys": keys, "password": password}))
    beside.replace(path)


def _organization(slug: str, name: str, now: datetime) -> Organization:
    found = Organization.objects.filter(slug=slug).first()
    return found or services.create_organization(slug=slug, name=name, now=now)


def _new_key(organization: Organization, now: datetime) -> str:
    scopes = [Scope.INFERENCE, Scope.READ, Scope.WRITE]
    operates = organization.slug == "platform"
    return services.issue_api_key(
        organization=organization,
        name="demo",
        scopes=[*scopes, Scope.OPERATE] if operates else scopes,
        may_operate=operates,
        now=now,
    ).secret


def _person(username: str, password: str, organization: Organization, now: datetime) -> None:
    user = User.objects.filter(username=username).first()
    if user is None:
        user = User.objects.create_user(username, f"{username}@localhost.localdomain", password)
        services.set_member(organization=organization, user=user, role=Role.OWNER, now=now)
