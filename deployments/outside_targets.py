"""Providers behind routes, as gateways need them."""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from deployments.models import RouteTarget


@dataclass(frozen=True, slots=True)
class OutsideRow:
    """A provider behind a route, with its key as it is sealed."""

    target_id: UUID
    provider_name: str
    base_url: str
    sealed_key: bytes = field(repr=False)
    provider_model_name: str
    weight: int
    rank: int


def list_outside() -> dict[tuple[UUID, str], list[OutsideRow]]:
    """By organization and name of the route: the providers behind it that are switched on."""
    rows = RouteTarget.objects.filter(provider__is_enabled=True).order_by("rank", "pk")
    found: dict[tuple[UUID, str], list[OutsideRow]] = defaultdict(list)
    values: Any
    for organization_id, name, *values in rows.values_list(
        "route__organization_id",
        "route__name",
        "pk",
        "provider__name",
        "provider__base_url",
        "provider__sealed_key",
        "provider_model_name",
        "weight",
        "rank",
    ):
        pk, provider_name, base_url, sealed_key, *rest = values
        row = OutsideRow(pk, provider_name, base_url, bytes(sealed_key), *rest)
        found[organization_id, name].append(row)
    return found
