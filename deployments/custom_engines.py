"""Engines that operators described: found by name, offered beside those the platform knows."""

from deployments.models import CustomEngine
from engines.launchers import LAUNCHERS, EngineTemplate, Launcher
from engines.launchers import template as described


def find(name: str) -> CustomEngine | None:
    """The row of that name; None for the platform's own engines and for names nobody described."""
    return None if name in LAUNCHERS else CustomEngine.objects.filter(name=name).first()


def list_names() -> list[str]:
    """Every engine that a deployment may name, sorted."""
    return sorted([*LAUNCHERS, *CustomEngine.objects.values_list("name", flat=True)])


def list_templates() -> dict[str, EngineTemplate]:
    """What agents look for on their nodes, by name."""
    return {row.name: row.template for row in CustomEngine.objects.all()}


def find_launcher(name: str) -> Launcher | None:
    """How an engine is started; None for a name that nobody knows."""
    row = find(name)
    return LAUNCHERS.get(name) if row is None else described.launcher(row.template)
