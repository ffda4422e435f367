"""External OpenAI-compatible providers that an organization's routes may lead to."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from accounts import audit
from accounts.models import Organization
from chips.choices import PriceItem
from chips.services.prices import set_price
from common import boxes, jobs
from common.errors import DomainError, InvalidInput
from common.outside import OutsideHosts, read_base_url
from deployments import notify, route_selectors
from deployments.models import Provider
from deployments.models.route import PROVIDER_NAME

LONGEST_KEY = 500
HINT_CHARACTERS = 4
MOST_PROVIDERS = 100  # of an organization
PRICED = {
    "input_tokens": PriceItem.INPUT_TOKENS,
    "cached_input_tokens": PriceItem.CACHED_INPUT_TOKENS,
    "output_tokens": PriceItem.OUTPUT_TOKENS,
}


class ProviderExists(DomainError):
    code = "provider_exists"


class ProviderInUse(DomainError):
    code = "provider_in_use"


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What a provider charges for a million tokens; None: no such price."""

    input_tokens: Decimal | None = None
    cached_input_tokens: Decimal | None = None
    output_tokens: Decimal | None = None
    currency: str = ""  # empty: the organization's


def create_provider(
    *,
    organization: Organization,
    name: str,
    base_url: str,
    key: str,
    prices: Prices | None = None,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> Provider:
    """A provider, looked at soon after. Raises InvalidInput, ProviderExists."""
    _check_name(name)
    base_url = _checked_url(base_url)
    sealed, hint = _sealed(key)
    if route_selectors.list_providers(organization).count() >= MOST_PROVIDERS:
        raise DomainError(
            f"There are {MOST_PROVIDERS} providers.", remedy="Delete one that no route uses."
        )
    try:
        with transaction.atomic():
            provider = Provider.objects.create(
                organization=organization,
                name=name,
                base_url=base_url,
                sealed_key=sealed,
                key_hint=hint,
                created_at=now,
            )
            _set_prices(provider, prices, actor=actor, now=now)
            _record(provider, "provider.create", {"base_url": base_url}, actor=actor, now=now)
            jobs.enqueue("gateway.check_provider", provider_id=str(provider.pk))
    except IntegrityError as error:
        raise ProviderExists(
            f"There is a provider named {name}.", field="name", remedy="Choose another name."
        ) from error
    return provider


@transaction.atomic
def update_provider(
    *,
    organization: Organization,
    provider_id: UUID,
    base_url: str | None = None,
    key: str | None = None,
    is_enabled: bool | None = None,
    prices: Prices | None = None,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> Provider:
    """Change what is given; prices hold from now on. Gateways follow within a second.

    A new address needs the key again: who may change one must not be able to send a key that they
    never saw to a server of their own. Raises InvalidInput, NotFound.
    """
    provider = (
        route_selectors.list_providers(organization).select_for_update().filter(pk=provider_id)
    )
    row = provider.first() or route_selectors.get_provider(organization, provider_id)
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    if base_url is not None and (url := _checked_url(base_url)) != row.base_url:
        if key is None:
            raise InvalidInput(
                "The key goes to another address with this.",
                field="key",
                remedy="Give the key again with the new base_url.",
            )
        before["base_url"], after["base_url"] = row.base_url, url
        row.base_url = url
    if key is not None:
        row.sealed_key, row.key_hint = _sealed(key)
        after["key"] = "changed"
    if is_enabled is not None and is_enabled != row.is_enabled:
        before["is_enabled"], after["is_enabled"] = row.is_enabled, is_enabled
        row.is_enabled = is_enabled
    row.save(update_fields=["base_url", "sealed_key", "key_hint", "is_enabled"])
    _set_prices(row, prices, actor=actor, now=now)
    if after:
        _record(row, "provider.update", after, before=before, actor=actor, now=now)
        jobs.enqueue("gateway.check_provider", provider_id=str(row.pk))
        notify.routes_changed()
    return row


@transaction.atomic
def delete_provider(
    *,
    organization: Organization,
    provider_id: UUID,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> None:
    """Forget it and its key; usage and prices keep its name. Raises NotFound, ProviderInUse."""
    row = route_selectors.get_provider(organization, provider_id)
    routes = sorted({target.route.name for target in row.route_targets.select_related("route")})
    if routes:
        raise ProviderInUse(
            f"Routes lead to {row.name}: {', '.join(routes[:5])}.",
            remedy="Take it out of them first.",
        )
    _record(row, "provider.delete", {}, actor=actor, now=now)
    row.delete()


def ask_for_check(
    *, organization: Organization, provider_id: UUID, actor: audit.Actor, now: datetime
) -> Provider:
    """Have the provider looked at now: whether it answers, takes the key, and what it has."""
    row = route_selectors.get_provider(organization, provider_id)
    _record(row, "provider.check", {}, actor=actor, now=now)
    jobs.enqueue("gateway.check_provider", provider_id=str(row.pk))
    return row


def _check_name(name: str) -> None:
    try:
        PROVIDER_NAME(name)
    except ValidationError as error:
        raise InvalidInput(
            f"{name!r:.80} is no name for a provider.",
            field="name",
            remedy=" ".join(error.messages),
        ) from error


def _checked_url(base_url: str) -> str:
    base_url = base_url.strip().rstrip("/")
    try:
        where = read_base_url(base_url)
    except ValueError as error:
        raise InvalidInput(
            f"The address cannot be used: {error}.",
            field="base_url",
            remedy="Give it as https://host/v1, without /chat/completions.",
        ) from error
    if not OutsideHosts.of(settings.PROVIDER_HOSTS).knows(where.host):
        raise InvalidInput(
            f"This platform does not speak to {where.host}.",
            field="base_url",
            remedy="Ask its operators to name the host in PROVIDER_HOSTS.",
        )
    return base_url


def _sealed(key: str) -> tuple[bytes, str]:
    key = key.strip()
    if not 8 <= len(key) <= LONGEST_KEY or not key.isascii() or not key.isprintable():
        raise InvalidInput(
            "This is no API key.",
            field="key",
            remedy=f"Give the provider's key: 8 to {LONGEST_KEY} printable characters.",
        )
    return boxes.seal(key), key[-HINT_CHARACTERS:]


def _set_prices(
    provider: Provider, prices: Prices | None, *, actor: audit.Actor, now: datetime
) -> None:
    if prices is None:
        return
    for name, item in PRICED.items():
        amount = getattr(prices, name)
        if amount is not None:
            set_price(
                item=item,
                unit_price=amount,
                currency=prices.currency or provider.organization.currency,
                provider_name=provider.name,
                organization=provider.organization,
                valid_from=now,
                actor=actor,
                now=now,
            )


def _record(
    provider: Provider,
    action: str,
    after: dict[str, Any],
    *,
    before: dict[str, Any] | None = None,
    actor: audit.Actor,
    now: datetime,
) -> None:
    audit.record(
        organization=provider.organization,
        actor=actor,
        action=action,
        object_id=provider.pk,
        object_name=provider.name,
        before=before or {},
        after=after,
        now=now,
    )
