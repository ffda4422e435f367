"""The seam between those who want engines and the place where engine processes live.

`ServeSpec` says all that one replica's engine needs to know; it is written to a file that the
engine program reads. `EngineHost` is the pair of hands on a node; `Seen` is what it sees.
"""

import enum
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import PurePath
from typing import Any, Protocol, Self

DTYPES = ("auto", "bfloat16", "float16", "float32", "int4")  # int4: the weights alone
# Named as vLLM's flags name them, so that one field serves every engine.
TOOL_PARSERS = ("auto", "none", "hermes", "qwen3_coder")
REASONING_PARSERS = ("auto", "none", "qwen3", "deepseek_r1")
OWN_ENGINES = ("transformers", "fake")
DEVICE = re.compile(r"^[a-z]+(:\d+)?$")
ADAPTER_ENGINES = frozenset({"transformers", "fake", "vllm"})  # load adapters while they run
ENVIRONMENT_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")


class SpecError(ValueError):
    """A serve spec that no engine could follow: which field, why, and what to write instead."""

    def __init__(self, field_name: str, problem: str, remedy: str) -> None:
        super().__init__(f"{field_name}: {problem}; {remedy}")
        self.field = field_name
        self.problem = problem
        self.remedy = remedy


class AdapterRefused(Exception):
    """An engine has looked at an adapter and will not serve it; the text says why, for people."""


class EngineSilent(Exception):
    """An engine could not be asked, or did not answer in time: try again."""


class Seen(enum.StrEnum):
    """What a host sees of one engine, looked at now."""

    ABSENT = "absent"  # this host knows no such engine, or has stopped it
    STARTING = "starting"  # the process lives and has not been healthy yet
    HEALTHY = "healthy"  # it answered its health route
    UNHEALTHY = "unhealthy"  # it was healthy, lives, and does not answer within its limit
    EXITED = "exited"  # it ended without being asked to


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How an engine ended. `returncode` as subprocess counts; None: nobody was there to ask.
    `memory_ran_out`: while it lived, its machine killed a process for memory."""

    returncode: int | None = None
    memory_ran_out: bool = False
    log: str = field(default="", repr=False)  # the end of what it said, more than `log_tail`


@dataclass(frozen=True, kw_only=True)
class ServeSpec:
    """One replica's engine process, complete: equal specs start equal engines.

    Raises SpecError when made from values that cannot be served. The token is the bearer secret
    of every route but /health; it is left out of `repr` and must be left out of logs.
    """

    name: str  # the replica's id; unique on its node
    engine: str  # a name known to engines.launchers
    model_path: str  # a local folder of config, tokenizer and safetensors
    served_model_name: str  # the `model` clients ask for
    port: int
    token: str = field(repr=False)
    host: str = "127.0.0.1"
    device: str = "cpu"  # as torch writes it: cpu, cuda:0, npu:0 ...
    dtype: str = "auto"  # auto: as the weights are stored
    threads: int = 1
    cores: Sequence[int] = ()  # pinned to these; empty: not pinned
    max_context_tokens: int = 4096  # prompt and answer together; bounded by the model's own
    max_concurrency: int = 16  # sequences decoded together; more of them wait
    max_waiting: int = 256  # sequences that may wait; past it a request is refused with 503
    memory_bytes: int | None = None  # for weights and KV cache together; None: not bounded
    tool_parser: str = "auto"  # reads tool calls from answers; auto: by model; none: off
    reasoning_parser: str = "auto"  # tells thoughts from answers; likewise
    adapter_folders: Sequence[str] = ()  # LoRA adapters are loaded from inside these; none: never
    max_adapters: int = 32  # held in memory at once; others are read again when asked for
    drain_seconds: float = 30.0  # what open requests get to finish after SIGTERM
    device_count: int = 1  # devices of the same kind, that of `device` the first
    device_memory_bytes: int | None = None  # of each of them, all of it; None: not known
    arguments: Mapping[str, Any] = field(default_factory=dict)  # what its launcher lets through
    template: Mapping[str, Any] | None = None  # an engine that an operator described
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "arguments", dict(self.arguments))
        object.__setattr__(self, "cores", tuple(self.cores))
        object.__setattr__(self, "adapter_folders", tuple(self.adapter_folders))
        object.__setattr__(self, "environment", dict(self.environment))
        for name in ("name", "engine", "served_model_name", "host", "model_path", "token"):
            self._require_text(name)
        self._require_integer("port", 1, 65535)
        self._require_integer("threads", 1, 4096)
        self._require_integer("max_context_tokens", 2, 1 << 24)
        self._require_integer("max_concurrency", 1, 4096)
        self._require_integer("max_waiting", 0, 1 << 20)
        self._require_integer("max_adapters", 1, 4096)
        self._require_integer("device_count", 1, 1024)
        if self.device_memory_bytes is not None:
            self._require_integer("device_memory_bytes", 1, 1 << 50)
        if self.memory_bytes is not None:
            self._require_integer("memory_bytes", 1, 1 << 50)
        if not isinstance(self.drain_seconds, int | float) or not 0 <= self.drain_seconds <= 86_400:
            raise SpecError(
                "drain_seconds", f"{self.drain_seconds!r} is no time", "give 0 to 86400 seconds"
            )
        if not PurePath(self.model_path).is_absolute():
            raise SpecError(
                "model_path", f"{self.model_path!r} is relative", "give the absolute folder"
            )
        self._check_dtype()
        if not isinstance(self.device, str) or not DEVICE.match(self.device):
            raise SpecError(
                "device", f"{self.device!r} is no torch device", "write it like cpu or cuda:0"
            )
        for name, known in (("tool_parser", TOOL_PARSERS), ("reasoning_parser", REASONING_PARSERS)):
            if (value := getattr(self, name)) not in known:
                raise SpecError(name, f"{value!r} is not known", f"use one of {list(known)}")
        for folder in self.adapter_folders:
            if not isinstance(folder, str) or not PurePath(folder).is_absolute():
                raise SpecError(
                    "adapter_folders", f"{folder!r} is relative", "give absolute folders"
                )
        self._check_cores()
        self._check_environment()

    def to_json(self) -> str:
        """The spec as one JSON object, token included: write it to a file only its owner reads."""
        values = asdict(self)
        values["cores"] = list(self.cores)
        values["adapter_folders"] = list(self.adapter_folders)
        return json.dumps(values, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Reads what `to_json` wrote. Raises SpecError for anything else."""
        try:
            values = json.loads(text)
        except ValueError as error:
            raise SpecError(
                "spec", f"not JSON ({error})", "write it with ServeSpec.to_json"
            ) from None
        if not isinstance(values, dict):
            raise SpecError("spec", "not a JSON object", "write it with ServeSpec.to_json")
        known = {each.name for each in fields(cls)}
        for name in values:
            if name not in known:
                raise SpecError(name, "is not a field of a serve spec", "leave it out")
        try:
            return cls(**values)
        except TypeError as error:
            raise SpecError("spec", str(error), "write it with ServeSpec.to_json") from None

    def _require_text(self, name: str) -> None:
        value: Any = getattr(self, name)
        if not isinstance(value, str) or not value.strip():
            raise SpecError(name, f"{value!r} is not a text", "give a text that is not empty")
        if any(ord(character) < 32 for character in value):
            raise SpecError(name, "has control characters", "leave them out")

    def _require_integer(self, name: str, low: int, high: int) -> None:
        value: Any = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise SpecError(
                name, f"{value!r} is out of range", f"give a whole number from {low} to {high}"
            )

    def _check_dtype(self) -> None:
        if self.dtype not in DTYPES:
            raise SpecError("dtype", f"{self.dtype!r} is not known", f"use one of {list(DTYPES)}")
        if self.dtype == "int4" and self.engine not in OWN_ENGINES:
            raise SpecError(
                "dtype",
                f"{self.engine} does not make four-bit weights of others",
                "serve it with the built-in engine, or as auto",
            )

    def _check_cores(self) -> None:
        sound = all(isinstance(core, int) and core >= 0 for core in self.cores)
        if not sound or len(set(self.cores)) != len(self.cores):
            raise SpecError(
                "cores",
                f"{list(self.cores)!r} is not a set of cores",
                "name each core once, from 0",
            )

    def _check_environment(self) -> None:
        for name, value in self.environment.items():
            if not isinstance(name, str) or not ENVIRONMENT_NAME.match(name):
                raise SpecError(
                    "environment", f"{name!r} is no variable's name", "use letters, digits and _"
                )
            if not isinstance(value, str) or "\0" in value:
                raise SpecError(
                    "environment", f"the value of {name} is not a text", "give it as a text"
                )


class EngineHost(Protocol):
    """Where engine processes live. Every call returns soon and may be repeated at any time."""

    def observe(self, name: str) -> Seen:
        """Looks at the engine now: its process and its health route. Never raises for an engine."""
        ...

    def start(self, spec: ServeSpec) -> None:
        """Starts the engine. Does nothing if one of that name lives; replaces one that exited."""
        ...

    def stop(self, name: str) -> None:
        """Asks the engine to end (SIGTERM), and kills it (SIGKILL) once its deadline has passed.

        Does not wait: call it at each step until `observe` says ABSENT. An unknown name is fine.
        """
        ...

    def pid(self, name: str) -> int | None:
        """The engine's process id; None if it does not run."""
        ...

    def log_tail(self, name: str) -> str:
        """The end of what the engine said, also after it exited; empty once it is stopped."""
        ...

    def ended(self, name: str) -> Ended | None:
        """How the engine ended; None while it runs or where nothing of that name is known."""
        ...

    def list_adapters(self, name: str) -> dict[str, str]:
        """The adapters that the engine has loaded, each with its folder. Raises EngineSilent."""
        ...

    def load_adapter(self, name: str, *, adapter_name: str, folder: str) -> None:
        """Has the engine load an adapter from a folder of its node, in place of one of that name.
        Returns once requests for it are answered. Raises AdapterRefused, EngineSilent."""
        ...

    def unload_adapter(self, name: str, *, adapter_name: str) -> None:
        """Has the engine refuse new requests for the adapter; open ones finish. An unknown adapter
        is fine. Raises EngineSilent."""
        ...
