"""The tasks on a node's own queue; they run in its agent's process alone.

They only point at a row: the step itself is done by the agent's own threads, one at a time a row.
"""

from uuid import UUID

from celery import shared_task

from agent.node import NodeAgent

_here: list[NodeAgent] = []  # the agent of this process, once it has registered


def serve(agent: NodeAgent) -> None:
    """From now on this process's tasks are done by `agent`."""
    _here[:] = [agent]


@shared_task(name="agent.step_replica")
def step_replica(*, replica_id: str, **_: object) -> None:
    for agent in _here:
        agent.look_at_replica(UUID(replica_id))


@shared_task(name="agent.attach_adapters")
def attach_adapters(*, replica_id: str, **_: object) -> None:
    for agent in _here:
        agent.look_at_adapters(UUID(replica_id))


@shared_task(name="agent.step_run")
def step_run(*, run_id: str, **_: object) -> None:
    for agent in _here:
        agent.look_at_run(UUID(run_id))
