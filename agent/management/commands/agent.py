import logging
import platform
import re
import socket
import time
from typing import Any

from celery import current_app
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import OperationalError, connection
from django.utils import timezone

from agent import probe, tasks
from agent.node import AnotherAgent, NodeAgent, node_facts, only_agent
from chips import services as chips
from chips.models import Node
from common.errors import DomainError

logger = logging.getLogger(__name__)

TASKS_AT_ONCE = 4
END_SECONDS = 12.0
LONGEST_PAUSE_SECONDS = 30.0


class Command(BaseCommand):
    help = (
        "Run this machine as a node: register its accelerators in a pool, start and watch engines "
        "and trainers. SIGTERM ends the agent; what it started lives on and is taken up again."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--pool", required=True, help="the pool that the node belongs to")
        parser.add_argument("--name", default="", help="the node's name; else the host's")
        parser.add_argument(
            "--address", default="127.0.0.1", help="where gateways reach this node's engines"
        )
        parser.add_argument("--create-pool", action="store_true", help="make the pool if missing")
        parser.add_argument(
            "--cpu-accelerators",
            type=int,
            help="in how many accelerators to split the cores; 0 for none; else by their number",
        )
        parser.add_argument(
            "--stop-processes-on-exit",
            action="store_true",
            help="end engines and trainers together with the agent",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        name = options["name"] or default_name()
        try:
            with only_agent(name):
                self._serve(name, options)
        except (AnotherAgent, DomainError) as error:
            remedy = getattr(error, "remedy", "")
            raise CommandError(f"{error} {remedy}".strip()) from error

    def _serve(self, name: str, options: dict[str, Any]) -> None:
        node = self._register_patiently(name, options)
        agent = NodeAgent(node=node, cpu_accelerators=options["cpu_accelerators"])
        tasks.serve(agent)
        agent.start()
        logger.info("node %s of pool %s is at work", node.name, options["pool"])
        try:
            self._consume(node)
        finally:
            agent.stop()
            if options["stop_processes_on_exit"]:
                agent.end_processes(seconds=END_SECONDS)

    def _register_patiently(self, name: str, options: dict[str, Any]) -> Node:
        """Register, however long the database is away: engines may be running here meanwhile."""
        pause = 1.0
        while True:
            try:
                return self._register(name, options)
            except OperationalError as error:
                logger.warning("no database, trying again in %.0f s: %s", pause, error)
                connection.close()
                time.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    def _register(self, name: str, options: dict[str, Any]) -> Node:
        if options["create_pool"]:
            try:
                chips.create_pool(name=options["pool"], now=timezone.now())
            except chips.PoolExists:
                logger.debug("pool %s is there", options["pool"])
        return chips.register_node(
            pool_name=options["pool"],
            name=name,
            address=options["address"],
            accelerators=probe.probe(cpu_accelerators=options["cpu_accelerators"]),
            facts=node_facts(),
            now=timezone.now(),
        )

    def _consume(self, node: Node) -> None:
        """Read the node's queue until SIGTERM or SIGINT; running tasks are finished first."""
        app = current_app
        app.conf.broker_connection_max_retries = None  # a broker that is away comes back
        worker = app.Worker(
            hostname=f"agent@{node.name}",
            queues=[node.queue],
            pool="threads",
            concurrency=TASKS_AT_ONCE,
            loglevel="INFO",
            without_gossip=True,
            without_mingle=True,
        )
        worker.start()


def default_name() -> str:
    """The host's name, in the letters that a node's name may have."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname() or platform.node())
    return name.strip("._-")[:120] or "node"
