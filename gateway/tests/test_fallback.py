"""Chains of targets: fallbacks, providers outside, the breaker, affinity, and candidates in shadow."""

import json
import time
from collections import Counter
from datetime import UTC, datetime
from decimal import Decimal
from uuid import uuid4

import openai
import pytest

from accounts.models import Organization
from accounts.tests.make import make_organization
from chips.services.prices import set_price
from deployments import shadow_answers
from deployments.models import Provider, ShadowAnswer
from deployments.tests.make import make_provider
from engines.protocol.errors import ApiError
from gateway import provider_check
from gateway.directory import Replica, Route, Shadow, Waits
from gateway.protocol import read_call
from gateway.routing import BREAKS_AFTER, Choice, Router
from gateway.tests.make import make_replica, make_route, make_target, read_events, text_of
from usage import statements

HELLO = [{"role": "user", "content": "hello there"}]
ORGANIZATION = str(uuid4())


def test_a_target_of_a_higher_rank_answers_only_what_no_lower_one_can() -> None:
    first, second = make_replica(), make_replica()
    route = make_route(ORGANIZATION, make_target(first), make_target(second, rank=1))
    router = Router()
    assert {router.choose(route).replica for _ in range(20)} == {first}
    assert router.choose(route, tried={first.id}).replica == second
    assert router.choose(route, min_rank=1).replica == second
    router.failed(first.id)
    assert router.choose(route).replica == second  # while the first is left alone
    router.failed(second.id)
    assert router.choose(route).replica == first  # both failed: in order again
    assert router.choose(route, tried={first.id, second.id}) is None


def test_errors_in_a_row_open_the_breaker_and_an_answer_closes_it() -> None:
    broken, fallback = make_replica(), make_replica()
    route = make_route(ORGANIZATION, make_target(broken), make_target(fallback, rank=1))
    router, choice = Router(), Choice(route.targets[0], broken)
    for _ in range(BREAKS_AFTER - 1):
        router.errored(route, choice)
    router.answered(broken.id)
    for _ in range(BREAKS_AFTER - 1):
        router.errored(route, choice)
    assert chosen(router, route) == broken
    router.errored(route, choice)
    assert chosen(router, route) == fallback
    router.answered(broken.id)
    assert chosen(router, route) == broken


def test_a_rollout_and_not_the_breaker_judges_a_variant() -> None:
    old, new = make_replica(), make_replica()
    deployment_id = str(uuid4())
    sides = [make_target(each, deployment_id=deployment_id) for each in (old, new)]
    route, router = make_route(ORGANIZATION, *sides), Router()
    for _ in range(BREAKS_AFTER * 3):
        router.errored(route, Choice(sides[1], new))
    assert {chosen(router, route) for _ in range(50)} == {old, new}


def chosen(router: Router, route: Route) -> Replica | None:
    choice = router.choose(route)
    return choice.replica if choice is not None else None


def test_conversations_stay_where_their_beginning_was_read_within_a_bound() -> None:
    replicas = [make_replica() for _ in range(4)]
    route = make_route(ORGANIZATION, make_target(*replicas))
    router = Router()
    homes = {n: router.choose(route, affinity=n * 7919 + 1).replica.id for n in range(400)}
    spread = Counter(homes.values())
    assert len(spread) == 4
    assert min(spread.values()) > 50, spread
    fewer = make_route(ORGANIZATION, make_target(*replicas[:3]))
    gone = replicas[3].id
    for n, home in homes.items():  # another process, one replica less: only its own ones move
        moved = Router().choose(fewer, affinity=n * 7919 + 1).replica.id
        assert moved == home or home == gone
    opened: Counter[str] = Counter()
    for _ in range(40):  # all with one beginning: none gets much more than its share
        choice = router.choose(route, affinity=5)
        router.opened(choice.replica.id)
        opened[choice.replica.id] += 1
    assert max(opened.values()) <= 40 / 4 * 1.25 + 1, opened


def test_turns_of_a_conversation_have_one_affinity() -> None:
    def affinity(*messages: tuple[str, object]) -> int:
        said = [{"role": role, "content": content} for role, content in messages]
        body = json.dumps({"model": "m", "messages": said}).encode()
        return read_call("chat/completions", body).affinity

    first = affinity(("system", "be kind"), ("user", "hello"))
    later = affinity(
        ("system", "be kind"), ("user", "hello"), ("assistant", "yes?"), ("user", "bye")
    )
    assert first == later != 0
    assert first != affinity(("system", "be kind"), ("user", "other"))
    assert affinity(("user", [{"type": "text", "text": "hello"}])) == affinity(("user", "hello"))
    with pytest.raises(ApiError):
        read_call("chat/completions", b'{"model": "m", "messages": 3}')


needs = [pytest.mark.django_db(transaction=True), pytest.mark.processes]


def outside(engine, *, rank: int = 1, token: str | None = None, name: str = "elsewhere"):
    """An engine as a provider outside; `token`: another than its own."""
    fields = {"token": token} if token else {}
    return make_target(
        make_replica(engine, is_outside=True, **fields),
        name=name,
        provider_name=name,
        served_model_name="tiny",
        rank=rank,
        revision_id=None,
    )


@pytest.fixture
def other(start_engine):
    return start_engine()


class TestThroughTheGateway:
    pytestmark = needs

    def test_a_provider_answers_while_no_replica_does_at_its_own_price(
        self, engine, start_gateway, secret
    ) -> None:
        organization = Organization.objects.get()
        for name, price in (("", "1000"), ("elsewhere", "3")):
            for item in ("input_tokens", "output_tokens"):
                set_price(
                    item=item,
                    unit_price=Decimal(price),
                    provider_name=name,
                    organization=organization if name else None,
                    valid_from=datetime(2026, 1, 1, tzinfo=UTC),
                    now=datetime.now(UTC),
                )
        gateway = start_gateway(make_target(make_replica()), outside(engine), outside="127.0.0.1")
        client = gateway.client(secret)
        answer = client.chat.completions.create(model="tiny", messages=HELLO)
        chunks = client.chat.completions.create(model="tiny", messages=HELLO, stream=True)
        assert text_of(chunks) == answer.choices[0].message.content
        events = read_events(count=2)
        assert {event["provider_name"] for event in events} == {"elsewhere"}
        assert {event["deployment_id"] for event in events} == {None}
        now = datetime.now(UTC)
        found = statements.statement(
            organization=organization,
            start=now.replace(minute=0, second=0, microsecond=0),
            end=now,
            now=now,
        )
        prices = {line.what.item: line.unit_price for line in found.lines if line.unit_price}
        assert prices == {"input_tokens": 3, "output_tokens": 3}

    def test_nothing_is_sent_to_a_host_that_was_not_named(
        self, engine, start_gateway, secret
    ) -> None:
        client = start_gateway(outside(engine, rank=0), outside="*").client(secret)
        with pytest.raises(openai.InternalServerError) as refusal:
            client.chat.completions.create(model="tiny", messages=HELLO)
        assert refusal.value.status_code == 503
        read_events(count=0)

    def test_a_key_that_the_provider_refuses_leads_on(
        self, engine, other, start_gateway, secret
    ) -> None:
        wrong = outside(engine, rank=0, token="wrong-token", name="wrong")
        gateway = start_gateway(
            wrong, make_target(make_replica(other), rank=1), outside="127.0.0.1"
        )
        assert gateway.client(secret).chat.completions.create(model="tiny", messages=HELLO)
        (event,) = read_events(count=1)
        assert event["provider_name"] == ""
        assert event["deployment_id"] is not None

    def test_a_fallback_answers_at_once_and_what_sleeps_is_woken(
        self, engine, start_gateway, secret
    ) -> None:
        asleep = make_target(waits=Waits.ON_DEMAND, is_asleep=True)
        gateway = start_gateway(asleep, make_target(make_replica(engine), rank=1))
        assert gateway.client(secret).chat.completions.create(model="tiny", messages=HELLO)
        deadline = time.monotonic() + 5
        while not gateway.woken and time.monotonic() < deadline:
            time.sleep(0.01)
        assert gateway.woken == [asleep.deployment_id]

    def test_every_replica_of_a_rank_fails_and_the_next_rank_is_tried(
        self, engine, start_gateway, secret
    ) -> None:
        dead = make_target(*(make_replica() for _ in range(6)))
        gateway = start_gateway(dead, make_target(make_replica(engine), rank=1))
        assert gateway.client(secret).chat.completions.create(model="tiny", messages=HELLO)

    @pytest.mark.parametrize("stream", [False, True])
    def test_a_candidate_in_shadow_answers_beside_and_is_not_billed(
        self, engine, other, start_gateway, secret, stream
    ) -> None:
        organization = Organization.objects.get()
        candidate = make_target(make_replica(other), name="candidate", served_model_name="tiny")
        shadow = Shadow(candidate, 1.0)
        client = start_gateway(make_target(make_replica(engine)), shadow=shadow).client(secret)
        answer = client.chat.completions.create(model="tiny", messages=HELLO, stream=stream)
        said = text_of(answer) if stream else answer.choices[0].message.content
        read_events(count=1)
        deadline = time.monotonic() + 20
        while not ShadowAnswer.objects.exists() and time.monotonic() < deadline:
            shadow_answers.take(now=datetime.now(UTC))
            time.sleep(0.05)
        row = ShadowAnswer.objects.get()
        assert row.organization == organization
        assert (row.route_name, row.candidate_name) == ("tiny", "candidate")
        assert row.primary_text == said
        assert row.candidate_text
        assert row.is_same == (row.candidate_text == said)
        assert (row.primary_status, row.candidate_status) == (200, 200)
        assert row.primary_tokens == row.candidate_tokens == 16
        assert "hello there" in row.request
        later = datetime.fromtimestamp(row.at.timestamp() + 15 * 86_400, UTC)
        assert shadow_answers.forget_old(now=later) == 1

    def test_a_provider_is_looked_at_and_says_what_it_has(self, engine, settings) -> None:
        settings.PROVIDER_HOSTS = "127.0.0.1"
        now = datetime.now(UTC)
        url = f"http://127.0.0.1:{engine.spec.port}/v1"
        row = make_provider(make_organization(), base_url=url, key=engine.spec.token)
        provider_check.check_provider(row.pk, now=now)
        row = Provider.objects.get()
        assert (row.problem, row.model_names, row.checked_at) == ("", ["tiny"], now)
        settings.PROVIDER_HOSTS = ""
        provider_check.check_provider(row.pk, now=now)
        assert "not allowed" in Provider.objects.get().problem
