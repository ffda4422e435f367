"""The gateway for its benchmark: everything real but the directory's source, which holds one key
and one route, so that no database is needed. Reads BENCH_SECRET and BENCH_ENGINE_PORT."""

import os
from collections.abc import Iterable

import django

django.setup()

from django.conf import settings  # noqa: E402

from accounts.services import hash_secret, prefix_of  # noqa: E402
from common.ids import new_id  # noqa: E402
from gateway import assembly  # noqa: E402
from gateway.app import Gateway  # noqa: E402
from gateway.directory import Directory, Key, Replica, Route, Target  # noqa: E402
from gateway.limits import Limits, LimitSettings  # noqa: E402
from gateway.limits.rules import Prices, Rule, Rules, Tariff  # noqa: E402
from gateway.limits.shared import SharedLimits  # noqa: E402
from gateway.metering import Meter  # noqa: E402
from gateway.observing import Observer, open_lines  # noqa: E402
from gateway.signals import Signals  # noqa: E402

SECRET = os.environ["BENCH_SECRET"]
ORGANIZATION = str(new_id())


class OneOfEach:
    """A source with one key, and one route."""

    def load_recent_keys(self, limit: int) -> list[Key]:
        return self.load_keys([prefix_of(SECRET)])

    def load_keys(self, prefixes: Iterable[str]) -> list[Key]:
        return [
            Key(
                id=KEY_ID,
                name="bench",
                prefix=prefix_of(SECRET),
                secret_hash=hash_secret(SECRET),
                organization_id=ORGANIZATION,
                organization_slug="bench",
                scopes=frozenset({"inference"}),
            )
        ]

    def load_routes(self) -> list[Route]:
        replica = Replica(
            id=KEY_ID,
            host="127.0.0.1",
            port=int(os.environ["BENCH_ENGINE_PORT"]),
            token=os.environ.get("BENCH_ENGINE_TOKEN", "t"),
        )
        target = Target(
            deployment_id=KEY_ID,
            deployment_name="bench",
            revision_id=None,
            served_model_name="bench",
            weight=100,
            replicas=(replica,),
        )
        return [Route(name="bench", organization_id=ORGANIZATION, created_at=0, targets=(target,))]

    def touch_keys(self, ids: Iterable[str]) -> None:
        return None


class Limited:
    """A ledger with limits that hold and are never reached: a rate and a budget."""

    def load_rules(self) -> dict[str, Rules]:
        rates = Rule(id=str(new_id()), measure="requests", period="minute", amount=10**8)
        budget = Rule(id=str(new_id()), measure="money", period="month", amount=10**13)
        tariff = Tariff(prices=(Prices(80.0, 80.0, 240.0),))
        return {
            ORGANIZATION: Rules(
                rules=(rates, budget),
                tariffs={"bench": tariff},
                context_tokens={"bench": 32_768},
            )
        }

    def load_spent(self, rule: Rule, start: float, end: float) -> int:
        return 0


KEY_ID = str(new_id())
gateway = Gateway(
    directory=Directory(OneOfEach(), redis_url=settings.REDIS_URL),
    meter=Meter(settings.REDIS_URL),
    signals=Signals(settings.REDIS_URL),
    limits=SharedLimits(
        Limited(),
        redis_url=settings.REDIS_URL,
        inner=Limits(LimitSettings(requests_per_minute=10_000_000, concurrency=10_000)),
    ),
    observer=Observer(settings.REDIS_URL, lines=open_lines(os.devnull)),
)
assembly.settle()


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        await gateway.lifespan(receive, send)
    else:
        await gateway(scope, receive, send)
