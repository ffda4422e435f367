"""A gateway process of its own with one key, one model and one limit, as `LIMITED` (JSON) says."""

import os

import django
import orjson

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "factory.settings.test")
django.setup()

from gateway.app import Gateway  # noqa: E402 - its modules need Django set up
from gateway.directory import Directory, Key, Replica, Route, Target  # noqa: E402
from gateway.limits import Limits, turns  # noqa: E402
from gateway.limits.rules import Rule, Rules  # noqa: E402
from gateway.limits.shared import SharedLimits  # noqa: E402
from gateway.metering import Meter  # noqa: E402
from gateway.signals import Signals  # noqa: E402

SAID = orjson.loads(os.environ["LIMITED"])
turns.ALIVE_SECONDS = SAID["alive_seconds"]


class Source:
    """What a database would know."""

    def __init__(self) -> None:
        said = SAID["key"]
        self.key = Key(
            **{name: said[name] for name in ("id", "name", "prefix")},
            secret_hash=bytes.fromhex(said["secret_hash"]),
            organization_id=said["organization_id"],
            organization_slug="retail",
            scopes=frozenset({"inference"}),
        )
        target = Target(
            deployment_id=SAID["deployment_id"],
            deployment_name="tiny",
            revision_id=None,
            served_model_name="tiny",
            weight=100,
            replicas=(Replica(**SAID["replica"]),),
        )
        self.route = Route("tiny", said["organization_id"], 1_700_000_000, (target,))

    def load_recent_keys(self, limit):
        return [self.key]

    def load_keys(self, prefixes):
        return [self.key]

    def load_routes(self):
        return [self.route]

    def touch_keys(self, ids):
        return None


class Ledger:
    def load_rules(self):
        return {SAID["key"]["organization_id"]: Rules(rules=(Rule(**SAID["rule"]),))}

    def load_spent(self, rule, start, end):
        return 0


gateway = Gateway(
    directory=Directory(Source(), redis_url=SAID["redis_url"]),
    meter=Meter(SAID["redis_url"]),
    signals=Signals(SAID["redis_url"]),
    limits=SharedLimits(Ledger(), redis_url=SAID["redis_url"], inner=Limits()),
)


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        await gateway.lifespan(receive, send)
    else:
        await gateway(scope, receive, send)
