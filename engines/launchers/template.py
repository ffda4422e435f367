"""An engine that an operator describes: a command line with places to fill in.

It is taken as words, never given to a shell. Each word may hold `{names}` from PLACES; a name that
is not on the list is refused when the engine is described, not when it is started.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

from engines.host import ENVIRONMENT_NAME, ServeSpec, SpecError
from engines.launchers.launcher import Launcher, Place, core_list, memory_share, thread_environment
from engines.launchers.parsers import find_parsers

NAME = re.compile(r"[a-z][a-z0-9-]{1,38}[a-z0-9]")
GAUGE = re.compile(r"[A-Za-z_:][A-Za-z0-9_:]{0,99}")
HOLE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")  # {{ and }} stand for themselves
BEARER_FILE = "bearer"
LONGEST_WORD = 4000
MOST_WORDS = 200

PLACES: dict[str, tuple[str, Callable[[ServeSpec, Place], str]]] = {
    "cores": ("the cores to pin to, as 0-3,6; may be empty", lambda s, p: core_list(s)),
    "device": ("torch's name of the first device: cpu, cuda:0", lambda s, p: s.device),
    "device_count": ("how many devices", lambda s, p: str(s.device_count)),
    "dtype": ("auto, bfloat16, float16 or float32", lambda s, p: s.dtype),
    "folder": ("a folder for the engine's own files", lambda s, p: str(p.spec_path.parent)),
    "host": ("the address to listen on", lambda s, p: s.host),
    "max_concurrency": ("sequences at once", lambda s, p: str(s.max_concurrency)),
    "max_context_tokens": ("prompt and answer", lambda s, p: str(s.max_context_tokens)),
    "max_waiting": ("requests that may wait", lambda s, p: str(s.max_waiting)),
    "memory_share": (
        "part of each device's memory to fill, of 1",
        lambda s, p: str(memory_share(s) or 0.9),
    ),
    "model_path": ("the folder of the weights", lambda s, p: s.model_path),
    "port": ("the port to listen on", lambda s, p: str(s.port)),
    "reasoning_parser": ("by vLLM's names, or none", lambda s, p: find_parsers(s).reasoning),
    "served_model_name": ("the name that clients ask for", lambda s, p: s.served_model_name),
    "threads": ("how many threads to compute with", lambda s, p: str(s.threads)),
    "token": (
        "the bearer token; in the environment only, for command lines are read by everybody",
        lambda s, p: s.token,
    ),
    "token_file": (
        "a file that holds the token",
        lambda s, p: str(p.spec_path.with_name(BEARER_FILE)),
    ),
    "tool_parser": ("by vLLM's names, or none", lambda s, p: find_parsers(s).tools),
}


@dataclass(frozen=True, kw_only=True)
class EngineTemplate:
    """An operator's engine. It must speak OpenAI's protocol under /v1.

    Raises SpecError for values that could not be started, naming the field.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    health_path: str = "/health"
    open_gauges: Sequence[str] = ()
    start_seconds: float = 600.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "command", tuple(self.command))
        object.__setattr__(self, "environment", dict(self.environment))
        object.__setattr__(self, "open_gauges", tuple(self.open_gauges))
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            raise SpecError("name", f"{self.name!r} is no name", "use a-z, 0-9 and -, 3 to 40")
        self._check_command()
        self._check_environment()
        if not re.fullmatch(r"/[A-Za-z0-9._~/-]{0,200}", self.health_path):
            raise SpecError(
                "health_path", f"{self.health_path!r} is no path", "write it as /health"
            )
        for gauge in self.open_gauges:
            if not isinstance(gauge, str) or not GAUGE.fullmatch(gauge):
                raise SpecError("open_gauges", f"{gauge!r} is no metric", "give names of gauges")
        if not isinstance(self.start_seconds, int | float) or not 1 <= self.start_seconds <= 86_400:
            raise SpecError("start_seconds", "out of range", "give 1 to 86400 seconds")

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Reads what `to_values` gave. Raises SpecError."""
        known = {each.name for each in fields(cls)}
        for name in values:
            if name not in known:
                raise SpecError(f"template.{name}", "is no field of a template", "leave it out")
        try:
            return cls(**values)
        except TypeError as error:
            raise SpecError("template", str(error), "describe the engine again") from None

    def to_values(self) -> dict[str, Any]:
        """As JSON values."""
        values = asdict(self)
        values |= {"command": list(self.command), "open_gauges": list(self.open_gauges)}
        return values

    def _check_command(self) -> None:
        if not 1 <= len(self.command) <= MOST_WORDS:
            raise SpecError("command", "has no words, or too many", "give the program first")
        for word in self.command:
            _check_text("command", word)
            _check_places("command", word, taken=PLACES.keys() - {"token"})
        if not self.command[0] or HOLE.search(self.command[0]):
            raise SpecError("command", "the program is left open", "name it, best with its path")
        if not any("{port}" in word for word in self.command):
            raise SpecError("command", "does not say {port}", "have the engine listen there")
        if not any("{model_path}" in word for word in self.command):
            raise SpecError("command", "does not say {model_path}", "have it serve the weights")

    def _check_environment(self) -> None:
        for name, value in self.environment.items():
            if not isinstance(name, str) or not ENVIRONMENT_NAME.match(name):
                raise SpecError("environment", f"{name!r} is no name", "use letters, digits and _")
            _check_text("environment", value)
            _check_places("environment", value, taken=PLACES.keys())


def launcher(described: EngineTemplate) -> Launcher:
    """How the engine that an operator described is started."""

    def command(spec: ServeSpec, place: Place) -> list[str]:
        return [_fill(word, spec, place) for word in described.command]

    def environment(spec: ServeSpec, place: Place) -> dict[str, str]:
        own = {name: _fill(value, spec, place) for name, value in described.environment.items()}
        return thread_environment(spec) | own

    return Launcher(
        command=command,
        environment=environment,
        files=lambda spec: {BEARER_FILE: spec.token},
        health_path=described.health_path,
        open_gauges=tuple(described.open_gauges),
        start_seconds=described.start_seconds,
    )


def _fill(text: str, spec: ServeSpec, place: Place) -> str:
    """One pass: what is filled in is not looked at again."""

    def fill(hole: re.Match[str]) -> str:
        return hole[0][0] if hole[1] is None else PLACES[hole[1]][1](spec, place)

    return HOLE.sub(fill, text)


def _check_text(where: str, text: object) -> None:
    if not isinstance(text, str) or len(text) > LONGEST_WORD or "\0" in text:
        raise SpecError(where, f"{text!r:.60} is no word", f"give texts up to {LONGEST_WORD}")


def _check_places(where: str, text: str, *, taken: Collection[str]) -> None:
    for hole in HOLE.finditer(text):
        name = hole[1]
        if name is not None and name not in taken:
            known = ", ".join(sorted(taken))
            raise SpecError(where, f"{{{name}}} is no place to fill in", f"use {known}")
