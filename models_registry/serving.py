"""Which public names a revision is served under now: told by whoever serves, a floor above.

`deployments` says how when it is set up; until then, and in a process without it, nothing is served.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    from accounts.models import Organization
    from models_registry.models import Revision

FindNames = Callable[["Organization", UUID], Sequence[str]]


def _nobody(organization: Organization, revision_id: UUID) -> Sequence[str]:
    return ()


_find: list[FindNames] = [_nobody]


def say_how(find: FindNames) -> None:
    """Called once, when the process is set up."""
    _find[0] = find


def find_names(organization: Organization, revision: Revision) -> Sequence[str]:
    """Public model names of the organization that lead to this revision and to nothing else."""
    return _find[0](organization, revision.pk)
