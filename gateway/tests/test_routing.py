from collections import Counter
from types import SimpleNamespace

from gateway import routing
from gateway.routing import Router
from gateway.tests.make import make_replica, make_route, make_target

ORGANIZATION = "018f0000-0000-7000-8000-000000000000"


def choose(router, route, **options):
    choice = router.choose(route, **options)
    return choice.replica if choice else None


def test_the_replica_with_the_fewest_open_requests_is_chosen():
    first, second = make_replica(), make_replica()
    route = make_route(ORGANIZATION, make_target(first, second))
    router = Router()
    seen = []
    for _ in range(6):
        seen.append(choose(router, route).id)
        router.opened(seen[-1])
    assert Counter(seen) == {first.id: 3, second.id: 3}
    router.closed(second.id)
    assert choose(router, route) == second


def test_weights_share_the_traffic_and_none_means_none():
    heavy, light, off = make_replica(), make_replica(), make_replica()
    route = make_route(
        ORGANIZATION,
        make_target(heavy, weight=90),
        make_target(light, weight=10),
        make_target(off, weight=0),
    )
    seen = Counter(choose(Router(), route).id for _ in range(2000))
    assert seen[off.id] == 0
    assert 100 < seen[light.id] < 320


def test_a_target_without_replicas_leaves_its_share_to_the_others():
    ready = make_replica()
    route = make_route(ORGANIZATION, make_target(weight=90), make_target(ready, weight=10))
    assert choose(Router(), route) == ready


def test_a_replica_that_has_just_failed_is_left_alone_if_there_is_another():
    failing, steady = make_replica(), make_replica()
    route = make_route(ORGANIZATION, make_target(failing, steady))
    router = Router()
    router.failed(failing.id)
    router.opened(steady.id)
    assert {choose(router, route).id for _ in range(20)} == {steady.id}
    assert choose(router, route, tried={steady.id}) == failing
    router.answered(failing.id)
    assert choose(router, route) == failing
    assert choose(router, route, tried={steady.id, failing.id}) is None


def test_a_replica_that_keeps_failing_is_tried_ever_more_seldom_and_by_one_at_a_time(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(routing, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    router = Router()
    dead, alive = make_replica(), make_replica()
    route = make_route(ORGANIZATION, make_target(dead, alive))
    pauses = []
    for _ in range(5):
        router.failed(dead.id)
        router.failed(dead.id)  # several that failed together count once
        began = clock[0]
        while all(choose(router, route) == alive for _ in range(20)):
            clock[0] += 0.5
        pauses.append(clock[0] - began)
    assert pauses == [2, 4, 8, 16, 16]
    router.opened(dead.id)  # the one that tries it
    assert all(choose(router, route) == alive for _ in range(20))
    router.answered(dead.id)
    router.opened(alive.id)
    router.opened(alive.id)
    assert choose(router, route) == dead


def test_what_one_variant_of_a_deployment_breaks_on_is_tried_on_the_other():
    new = [make_replica() for _ in range(5)]
    old, other = make_replica(), make_replica()
    route = make_route(
        ORGANIZATION,
        make_target(*new, weight=90, deployment_id="rolling"),
        make_target(old, weight=10, deployment_id="rolling"),
        make_target(other, weight=100),
    )
    seen = {choose(Router(), route, tried={new[0].id}).id for _ in range(50)}
    assert seen == {old.id}
    assert choose(Router(), route, tried={new[0].id, old.id}) is not None


def test_long_streams_from_before_a_failure_do_not_keep_a_replica_from_being_tried(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr(routing, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    router = Router()
    blinked, other = make_replica(), make_replica()
    route = make_route(ORGANIZATION, make_target(blinked, other))
    router.opened(blinked.id)  # goes on all the while
    router.failed(blinked.id)
    for _ in range(5):
        router.opened(other.id)
    clock[0] += 3
    assert choose(router, route) == blinked
    is_trial = router.opened(blinked.id)
    assert choose(router, route) == other  # one at a time
    router.closed(blinked.id, is_trial=is_trial)
    assert choose(router, route) == blinked
