"""Rows to values: what a replica asks of the hardware, what its engine is told."""

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings

from chips.selectors import Device
from common.errors import InvalidInput
from deployments import adapters, custom_engines, selectors
from deployments.models import Replica
from deployments.variants import Served
from engines import architectures
from engines.host import ADAPTER_ENGINES, DTYPES, REASONING_PARSERS, TOOL_PARSERS, ServeSpec
from models_registry.models import Revision
from planner import memory
from planner.placement import AcceleratorRequest
from planner.shapes import ModelShape

# Where the files do not tell a model's shape: a fifth more than its weights, for cache and all else.
UNKNOWN_SHAPE_FACTOR = 1.2
DEFAULT_CONTEXT_TOKENS = 8192
SLOWEST_LOADING = 100 * 10**6  # bytes a second: a busy spinning disk, or a network of 1 Gbit/s


@dataclass(frozen=True)
class ServeSettings:
    """A deployment's `settings`, read and checked. `read` raises InvalidInput by field."""

    max_context_tokens: int | None = None  # None: the model's own, at most DEFAULT_CONTEXT_TOKENS
    max_concurrency: int = 16
    max_waiting: int = 256
    max_adapters: int = 32
    dtype: str = "auto"
    drain_seconds: float = 30.0
    startup_limit_seconds: float | None = None  # None: by engine and size of the weights
    tool_parser: str = "auto"  # auto: by the model's chat template
    reasoning_parser: str = "auto"
    engine_arguments: dict[str, Any] | None = None  # those that the engine's launcher lets through
    environment: dict[str, str] | None = None  # of the fake engine alone: FAKE_*

    LIMITS = {
        "max_context_tokens": (2, 1 << 24),
        "max_concurrency": (1, 4096),
        "max_waiting": (0, 1 << 20),
        "max_adapters": (1, 4096),
        "drain_seconds": (0, 3600),
        "startup_limit_seconds": (10, 86_400),
    }
    CHOICES = {
        "dtype": DTYPES,
        "tool_parser": TOOL_PARSERS,
        "reasoning_parser": REASONING_PARSERS,
    }

    @classmethod
    def read(cls, values: dict[str, Any]) -> "ServeSettings":
        for name, value in values.items():
            field = f"settings.{name}"
            if name in cls.LIMITS:
                low, high = cls.LIMITS[name]
                whole = isinstance(value, int) or name.endswith("_seconds")
                number = isinstance(value, int | float) and not isinstance(value, bool)
                if not number or not whole or not low <= value <= high:
                    raise InvalidInput(
                        f"{value!r} is out of range.", field=field, remedy=f"Use {low} to {high}."
                    )
            elif name in cls.CHOICES:
                if value not in cls.CHOICES[name]:
                    raise InvalidInput(
                        f"{value!r} is no {name}.",
                        field=field,
                        remedy=f"Use one of {', '.join(cls.CHOICES[name])}.",
                    )
            elif name == "engine_arguments":
                if not isinstance(value, dict):
                    raise InvalidInput(
                        "Not an object.", field=field, remedy="Give names and values."
                    )
            elif name == "environment":
                _check_environment(value)
            else:
                known = ", ".join([*cls.LIMITS, *cls.CHOICES, "engine_arguments"])
                raise InvalidInput("No such setting.", field=field, remedy=f"Known are {known}.")
        return cls(**values)


def _check_environment(value: object) -> None:
    """Variables reach a process on a node: only those that make a fake engine behave are taken."""
    sound = isinstance(value, dict) and all(
        isinstance(name, str)
        and name.startswith("FAKE_")
        and isinstance(text, str)
        and "\0" not in text
        for name, text in value.items()
    )
    if not sound:
        raise InvalidInput(
            "Only the fake engine's own variables may be set.",
            field="settings.environment",
            remedy="Leave it out.",
        )


def accelerator_request(wanted: Served) -> AcceleratorRequest:
    """What one replica needs to hold.

    Accelerators on which the revision was trained come last: a run that wants them again, and the
    serving of its result, do not stand in each other's way.
    """
    whole = wanted.accelerators_per_replica
    described = custom_engines.find(wanted.engine)
    devices = described.torch_devices if described is not None else []
    return AcceleratorRequest(
        accelerators=whole,
        slots=0 if whole else wanted.slots_per_replica,
        memory_bytes=None if wanted.engine == "fake" else _memory_bytes(wanted),
        pool_name=wanted.pool_name or None,
        engine=wanted.engine,
        torch_devices=frozenset(devices) or None,
        avoid_accelerators=selectors.list_training_accelerators(wanted.revision),
    )


def _memory_bytes(wanted: Served) -> int:
    """The least that one replica does with: weights, and the cache of one full context. What the
    accelerators have beyond it, the engine fills with more sequences."""
    revision = adapters.base_of(wanted.revision)
    shape = ModelShape.from_facts(
        parameter_count=revision.parameter_count, dtype=revision.dtype, facts=revision.facts
    )
    launcher = custom_engines.find_launcher(wanted.engine)
    overhead = launcher.process_bytes if launcher is not None else memory.PROCESS_BYTES
    if shape is None:
        return round(revision.size_bytes * UNKNOWN_SHAPE_FACTOR) + overhead
    context = _context_tokens(revision, ServeSettings.read(wanted.settings))
    widened = revision.quantization and wanted.engine == architectures.BUILTIN
    return memory.serving(
        shape,
        context_tokens=context,
        concurrency=1,
        overhead_bytes=overhead,
        dtype="bfloat16" if widened else None,  # the built-in engine turns quantized weights back
    ).total_bytes


def context_tokens(wanted: Served) -> int:
    """Prompt and answer together, as the engine will be told."""
    return _context_tokens(wanted.revision, ServeSettings.read(dict(wanted.settings)))


def _context_tokens(revision: Revision, wanted: ServeSettings) -> int:
    limit = revision.context_length_tokens or DEFAULT_CONTEXT_TOKENS
    return min(wanted.max_context_tokens or DEFAULT_CONTEXT_TOKENS, limit)


def serve_spec(replica: Replica, devices: Sequence[Device], model_path: Path) -> ServeSpec:
    """What the replica's engine is told. Its address and port must be in the row already.

    Raises engines.host.SpecError for values that no engine can follow.
    """
    variant = replica.variant
    wanted = ServeSettings.read(variant.settings)
    cores = sorted({core for device in devices for core in device.cores})
    known = [device.memory_bytes for device in devices if device.memory_bytes is not None]
    kind = (devices[0].torch_device if devices else "") or "cpu"
    described = custom_engines.find(variant.engine)
    return ServeSpec(
        name=str(replica.pk),
        engine=variant.engine,
        model_path=str(model_path),
        served_model_name=_served_model_name(replica),
        host=replica.address,
        port=replica.port or 0,
        token=replica_token(replica.pk),
        device="cpu" if kind == "cpu" else f"{kind.partition(':')[0]}:0",
        dtype=wanted.dtype,
        threads=max(len(cores), 1),
        cores=cores,
        max_context_tokens=_context_tokens(replica.revision, wanted),
        max_concurrency=wanted.max_concurrency,
        max_waiting=wanted.max_waiting,
        device_count=max(len(devices), 1),
        device_memory_bytes=devices[0].whole_memory_bytes if devices else None,
        tool_parser=wanted.tool_parser,
        reasoning_parser=wanted.reasoning_parser,
        arguments=wanted.engine_arguments or {},
        template=described.template.to_values() if described is not None else None,
        adapter_folders=_adapter_folders(replica),
        max_adapters=wanted.max_adapters,
        memory_bytes=sum(known) if known and len(known) == len(devices) else None,
        drain_seconds=wanted.drain_seconds,
        environment=_visible(devices) | (wanted.environment or {}),
    )


def startup_limit_seconds(wanted: Served) -> float:
    """How long a replica may take from its placement to its first answer: what was set, else what
    the engine needs at most by itself, and time to fetch the weights and to load them."""
    given = ServeSettings.read(wanted.settings).startup_limit_seconds
    if given is not None:
        return given
    launcher = custom_engines.find_launcher(wanted.engine)
    own = launcher.start_seconds if launcher is not None else 0.0
    return own + 2 * adapters.base_of(wanted.revision).size_bytes / SLOWEST_LOADING


def _served_model_name(replica: Replica) -> str:
    """What the engine calls the weights it was started with. Where they are there for an adapter's
    sake alone, the public name is the adapter's, and no route leads to this one."""
    name = replica.deployment.name
    return f"{name}:base" if adapters.is_adapter(replica.revision) else name


def _adapter_folders(replica: Replica) -> tuple[str, ...]:
    """Any engine that can takes adapters from the node's copy of revisions, whenever they come."""
    if replica.node is None or replica.variant.engine not in ADAPTER_ENGINES:
        return ()
    return (str(weights_folder(replica.node.name)),)


def _visible(devices: Sequence[Device]) -> dict[str, str]:
    """The variable by which a vendor's runtime shows a process only its own devices."""
    variable = devices[0].visible_devices_variable if devices else ""
    if not variable or devices[0].torch_device == "cpu":
        return {}
    variables = {variable: ",".join(str(device.index) for device in devices)}
    if variable == "CUDA_VISIBLE_DEVICES":  # the driver counts by bus, the runtime by speed
        variables["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    return variables


def replica_token(replica_id: UUID) -> str:
    """The bearer token of a replica's engine: derived whenever needed, stored nowhere."""
    message = f"replica:{replica_id}".encode()
    return hmac.new(settings.SECRET_KEY.encode(), message, hashlib.sha256).hexdigest()


def node_folder(node_name: str) -> Path:
    """Everything that a node keeps: processes, weights, work in progress."""
    return Path(settings.FACTORY_DATA) / "node" / node_name


def engines_folder() -> Path:
    """Where a machine's engines are installed, each in a folder of its name, for all its nodes."""
    return Path(settings.FACTORY_DATA) / "engines"


def weights_folder(node_name: str) -> Path:
    """The root of the node's copy of revisions (`models_registry.cache.materialize`)."""
    return node_folder(node_name) / "weights"
