"""A deployment in the middle of a change, played by hand: no agent, no engines, no gateway."""

import itertools
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.db.models import QuerySet

from accounts.tests.make import NOW
from chips.models import Node
from deployments import reconcile, selectors, services, signals, variants
from deployments.choices import TERMINAL, ReplicaStatus
from deployments.models import Deployment, Replica, Rollout, Variant
from deployments.reconcile.moves import count_failure, move
from deployments.tests.make import make_node

S = ReplicaStatus
PORTS = itertools.count(20_000)


class Rolling:
    """The deployment has as many ready replicas as it wants, unless `fill` is False."""

    def __init__(self, deployment: Deployment, *, fill: bool = True) -> None:
        self.deployment = deployment
        self.node = Node.objects.first() or make_node()
        self.now = NOW
        self.window: signals.Window | None = signals.Window(seconds=1, replicas={})
        self.first = variants.ensure_served(deployment, now=NOW)
        if fill:
            self.settle()

    def change(self, *, plan: dict[str, Any] | None = None, **parts: Any) -> Rollout:
        return services.update_deployment(  # type: ignore[return-value]
            organization=self.deployment.organization,
            deployment_id=self.deployment.pk,
            change=services.Change(**parts),
            plan=plan,
            now=self.now,
        )

    def steer(self, service: Callable[..., Rollout], rollout: Rollout) -> None:
        service(organization=self.deployment.organization, rollout_id=rollout.pk, now=self.now)

    def scale(self, replicas: int) -> None:
        services.scale_deployment(
            organization=self.deployment.organization,
            deployment_id=self.deployment.pk,
            replicas=replicas,
            now=self.now,
        )

    def look(self, *, after: float = 0) -> None:
        self.now += timedelta(seconds=after)
        reconcile.reconcile_deployment(
            self.deployment.pk, now=self.now, read_window=lambda **_: self.window
        )

    def make_ready(self) -> None:
        """Every replica that waits or starts gets ready."""
        for replica in self.of_all().filter(status__in=[S.PENDING, S.STARTING], wanted=True):
            self._place(replica)
            move(replica, S.READY, now=self.now, reason="healthy")

    def let_go(self) -> None:
        """Every replica that is not wanted has drained."""
        for replica in self.of_all().filter(wanted=False):
            if replica.status != S.DRAINING:
                move(replica, S.DRAINING, now=self.now, reason="not_wanted")
            move(replica, S.STOPPED, now=self.now, reason="drained")

    def settle(self) -> None:
        """Looks and ready replicas in turn, while no time passes."""
        for _ in range(6):
            self.look()
            self.let_go()
            self.make_ready()
        self.look()

    def go_to(self, step: int) -> None:
        self.look()
        for _ in range(20):
            if self.rollout().step >= step:
                return
            self.settle()
            if self.rollout().step < step:
                self.look(after=60)
        raise AssertionError("it does not get there")

    def go_through(self) -> None:
        for _ in range(20):
            if not self.rollout().is_open:
                return
            self.settle()
            self.look(after=60)
        raise AssertionError("it does not end")

    def crash_new(self, message: str) -> None:
        for replica in self.of("new"):
            self._place(replica)
            count_failure(replica, now=self.now)
            move(replica, S.FAILED, now=self.now, reason="engine_exited", message=message)

    def _place(self, replica: Replica) -> None:
        if replica.status == S.PENDING:
            replica.node, replica.address, replica.port = self.node, "127.0.0.1", next(PORTS)
            replica.save(update_fields=["node", "address", "port"])
            move(replica, S.STARTING, now=self.now, reason="placed")

    def measure(
        self,
        *,
        old: tuple[int, int],
        new: tuple[int, int],
        first_token: tuple[float, float] = (0.1, 0.1),
    ) -> None:
        """Requests and errors of each side, all on its first replica."""
        replicas = {}
        for side, (requests, errors), seconds in zip(
            ("old", "new"), (old, new), first_token, strict=True
        ):
            totals = signals.Totals(requests=requests, errors=errors)
            for _ in range(requests):
                totals.count_first_token(seconds)
            replicas[str(self.of(side)[0].pk)] = totals
        self.window = signals.Window(seconds=1, replicas=replicas)

    def of_all(self) -> QuerySet[Replica]:
        rows = Replica.objects.filter(deployment=self.deployment).exclude(status__in=TERMINAL)
        return rows.order_by("created_at", "id")

    def of(self, side: str) -> QuerySet[Replica]:
        """Wanted ones: of the first variant, or of all later ones."""
        rows = self.of_all().filter(wanted=True)
        first = rows.filter(variant=self.first)
        return first if side == "old" else rows.exclude(variant=self.first)

    def counts(self) -> dict[str, int]:
        return {side: self.of(side).count() for side in ("old", "new")}

    def ready(self) -> list[Replica]:
        return list(self.of_all().filter(status=S.READY, wanted=True))

    def weights(self) -> dict[int, float]:
        """What gateways are told: the share of each variant that has ready replicas, by number."""
        numbers = dict(Variant.objects.values_list("pk", "number"))
        (row,) = [r for r in selectors.get_routing_table() if r.name == self.deployment.name]
        return {
            numbers[target.variant_id]: target.weight
            for target in row.targets
            if target.variant_id is not None and target.weight
        }

    def served(self) -> dict[str, Any]:
        self.deployment.refresh_from_db()
        return dict(self.deployment.settings)

    def rollout(self) -> Rollout:
        return Rollout.objects.filter(deployment=self.deployment).latest("number")

    def again(self, rollout: Rollout) -> Rollout:
        return Rollout.objects.get(pk=rollout.pk)
