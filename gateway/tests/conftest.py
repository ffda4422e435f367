"""Real engine processes, and a gateway with routes to them."""

import pytest

from accounts.tests.make import make_key, make_organization
from engines.tests.make import RunningEngine, make_spec
from gateway.tests.make import RunningGateway


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    running = RunningEngine(make_spec(), tmp_path_factory.mktemp("engine"))
    yield running.wait_ready()
    running.stop()


@pytest.fixture
def start_engine(tmp_path):
    started: list[RunningEngine] = []

    def start(**changes) -> RunningEngine:
        started.append(RunningEngine(make_spec(**changes), tmp_path).wait_ready())
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.fixture
def start_gateway():
    started: list[RunningGateway] = []

    def start(*targets, shadow=None, **options) -> RunningGateway:
        gateway = RunningGateway(**options)
        if targets:
            gateway.route(make_organization(), *targets, shadow=shadow)
        started.append(gateway.start())
        return gateway

    yield start
    for each in started:
        each.stop()


@pytest.fixture
def secret():
    return make_key(make_organization())
