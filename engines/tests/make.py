"""Specs, tiny models and running engines for tests."""

import socket
from typing import Any

from engines.host import ServeSpec


def make_spec(**changes: Any) -> ServeSpec:
    """A sound spec of a fake engine on a free port, but for `changes`."""
    values: dict[str, Any] = {
        "name": "replica-1",
        "engine": "fake",
        "model_path": "/nonexistent/model",
        "served_model_name": "tiny",
        "token": "test-token",
        "device": "cpu",
        "dtype": "float32",
        "drain_seconds": 10.0,
    }
    values |= changes
    values.setdefault("port", free_port())
    return ServeSpec(**values)


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
