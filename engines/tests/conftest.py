import pytest

from engines.tests.make import RunningEngine, make_model, make_spec


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A folder with a tiny random Qwen3 and its tokenizer."""
    return make_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture
def start(tmp_path, tiny_model):
    """Starts engine processes that end with the test."""
    started: list[RunningEngine] = []

    def start_one(**changes) -> RunningEngine:
        spec = make_spec(**{"model_path": str(tiny_model)} | changes)
        started.append(RunningEngine(spec, tmp_path))
        return started[-1]

    yield start_one
    for each in started:
        each.stop()
