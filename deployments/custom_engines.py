"""Engines that operators described: found by name, offered beside those the platform knows."""

import logging

from deployments.models import CustomEngine
from engines.host import SpecError
from engines.launchers import LAUNCHERS, EngineTemplate, Launcher
from engines.launchers import template as described

logger = logging.getLogger(__name__)


def find(name: str) -> CustomEngine | None:
    """The row of that name; None for the platform's own engines and for names nobody described."""
    return None if name in LAUNCHERS else CustomEngine.objects.filter(name=name).first()


def list_names() -> list[str]:
    """Every engine that a deployment may name, sorted."""
    return sorted([*LAUNCHERS, *CustomEngine.objects.values_list("name", flat=True)])


def list_templates() -> dict[str, EngineTemplate]:
    """What agents look for on their nodes, by name. One that could not be started is left out: it
    must not cost a node its heartbeat."""
    found = {}
    for row in CustomEngine.objects.all():
        try:
            found[row.name] = row.template
        except SpecError as error:
            logger.warning("engine %s is offered nowhere: %s", row.name, error)
    return found


def find_launcher(name: str) -> Launcher | None:
    """How an engine is started; None for a name that nobody knows. Raises SpecError for one that
    was described so that it cannot be started."""
    row = find(name)
    return LAUNCHERS.get(name) if row is None else described.launcher(row.template)
