from pathlib import Path

import pytest

from engines import launchers
from engines.fake_host import FakeHost
from engines.host import EngineHost, Seen, ServeSpec, SpecError
from engines.tests.make import make_spec


def test_a_spec_survives_its_file():
    spec = make_spec(cores=[2, 3], environment={"A": "b"}, memory_bytes=1 << 30)
    assert ServeSpec.from_json(spec.to_json()) == spec


def test_the_token_is_not_shown():
    assert "s3cret" not in repr(make_spec(token="s3cret"))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("port", 0),
        ("port", True),
        ("threads", 0),
        ("dtype", "int3"),
        ("device", "CUDA 0"),
        ("model_path", "relative/folder"),
        ("cores", [1, 1]),
        ("cores", [-1]),
        ("max_context_tokens", 1),
        ("max_concurrency", 0),
        ("memory_bytes", 0),
        ("drain_seconds", -1),
        ("environment", {"A-B": "c"}),
        ("environment", {"A": 1}),
        ("token", "two\nlines"),
    ],
)
def test_a_bad_value_is_refused_by_its_field(field, value):
    with pytest.raises(SpecError) as caught:
        make_spec(**{field: value})
    assert caught.value.field == field
    assert caught.value.remedy


@pytest.mark.parametrize("text", ["", "[]", '{"name": "a"}'])
def test_a_file_that_is_no_spec_is_refused(text):
    with pytest.raises(SpecError):
        ServeSpec.from_json(text)


def test_an_unknown_field_is_named():
    text = make_spec().to_json().replace('"port"', '"prot"')
    with pytest.raises(SpecError, match="prot"):
        ServeSpec.from_json(text)


def test_a_launch_leaves_secrets_behind():
    spec = make_spec(environment={"EXTRA": "1"}, threads=3)
    inherited = {"PATH": "/bin", "DATABASE_URL": "postgres://u:p@h/d", "FACTORY_SECRET_KEY": "k"}
    launch = launchers.launch(spec, spec_path=Path("/run/spec.json"), inherited=inherited)
    assert launch.environment["PATH"] == "/bin"
    assert launch.environment["EXTRA"] == "1"
    assert "DATABASE_URL" not in launch.environment
    assert "FACTORY_SECRET_KEY" not in launch.environment
    assert spec.token not in " ".join(launch.command)
    assert launch.health_url == f"http://127.0.0.1:{spec.port}/health"


def test_an_unknown_engine_is_refused():
    with pytest.raises(SpecError, match="steam"):
        launchers.launch(make_spec(engine="steam"), spec_path=Path("/run/spec.json"), inherited={})


def test_the_fake_host_starts_once_and_stops():
    fake = FakeHost()
    host: EngineHost = fake
    spec = make_spec(name="a")
    assert host.observe("a") is Seen.ABSENT
    host.start(spec)
    host.start(spec)
    assert fake.started == ["a"]
    assert host.observe("a") is Seen.STARTING
    fake.seen["a"] = Seen.EXITED
    host.start(spec)
    assert fake.started == ["a", "a"]
    host.stop("a")
    host.stop("a")
    assert host.observe("a") is Seen.ABSENT


def test_four_bits_are_made_by_the_built_in_engine_alone():
    make_spec(engine="transformers", dtype="int4")
    with pytest.raises(SpecError) as caught:
        make_spec(engine="vllm", dtype="int4")
    assert caught.value.field == "dtype"
