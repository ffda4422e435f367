"""What a run is told: one JSON file, read once, refused whole if anything in it is off."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from trainer.errors import SpecError

METHODS = ("sft", "dpo", "kto")
# The kind of dataset that each method learns from.
DATA_KINDS = {"sft": "chat", "dpo": "preference", "kto": "label"}
TUNINGS = ("full", "lora", "qlora")
LORA_VARIANTS = ("lora", "rslora", "dora")
DTYPES = ("bfloat16", "float32")
SCHEDULERS = ("linear", "cosine", "constant")

# Adapters start from zero and are few, so they bear and need a rate ten times that of full weights.
# Preference losses pull at whole answers: they need a twentieth of the rate, and fall apart above it.
LEARNING_RATES = {
    "sft": {"full": 2e-5, "lora": 2e-4, "qlora": 2e-4},
    "dpo": {"full": 1e-6, "lora": 1e-5, "qlora": 1e-5},
    "kto": {"full": 1e-6, "lora": 1e-5, "qlora": 1e-5},
}
# What evaluations of each method may be compared by.
BEST_METRICS = {
    "sft": ("eval_loss", "token_accuracy"),
    "dpo": ("eval_loss", "reward_accuracy", "reward_margin"),
    "kto": ("eval_loss", "reward_margin"),
}
LOWER_IS_BETTER = frozenset({"eval_loss"})


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """How to train. Every field has a default that is safe for a first run."""

    epochs: float = 3.0  # instruction sets of a few thousand examples are learnt in 2 to 4
    max_steps: int | None = None  # a step is one optimizer update; the nearer bound ends the run
    learning_rate: float | None = None  # None: the rate of LEARNING_RATES for method and tuning
    batch_size: int = 8  # examples a micro-batch: fits a 0.6B model at 1,024 tokens in 16 GB
    gradient_accumulation: int = 1  # micro-batches a step; raise it when batch_size must shrink
    max_length_tokens: int = 1024  # longer than most support dialogues; the rest is cut and counted
    warmup_ratio: float = 0.03  # AdamW's second moment needs a few dozen steps to be of use
    warmup_steps: int | None = None  # in place of warmup_ratio
    scheduler: str = "cosine"  # ends near zero without the long tail of "linear" at a high rate
    min_learning_rate_ratio: float = 0.0  # what "linear" and "cosine" end at, of the learning rate
    weight_decay: float = 0.01  # AdamW's usual; norms and biases are left out
    max_grad_norm: float = 1.0  # tames the rare long or odd example
    seed: int = 42  # data order, adapter start and dropout follow from it alone
    lora_rank: int = 16  # on all linear layers this comes close to full tuning on small sets
    lora_alpha: int = 32  # twice the rank, so that the rate above holds at other ranks too
    lora_dropout: float = 0.0  # one or two epochs over clean data do not overfit adapters
    lora_variant: str = "lora"  # rslora: scaled by the root of the rank; dora: magnitudes apart
    lora_targets: str = "all"  # "all" linear layers, "attention", "mlp", or names: "q_proj,v_proj"
    beta: float = 0.1  # dpo, kto: how dearly it pays to leave the reference
    label_smoothing: float = 0.0  # dpo: the share of pairs taken to be the wrong way round
    desirable_weight: float = 1.0  # kto: raise it where undesirable answers are many more
    undesirable_weight: float = 1.0
    packing: bool = False  # see `trainer.batches`: rows of whole examples up to the length limit
    checkpoint_every_seconds: float = 20.0  # a kill loses this much; writing costs under 1 % of it
    checkpoints_kept: int = 2  # the newest, and the one before in case the newest is damaged
    snapshots_kept: int = 0  # models of the ends of the last epochs, published beside the result
    eval_every_steps: int | None = None  # None: at the end; ten times where that decides something
    early_stopping_patience: int | None = None  # evaluations in vain that end the run; None: never
    early_stopping_min_delta: float = 0.0  # a gain up to this is none
    keep_best: bool = False  # the result is the model of the best evaluation, not the last step's
    best_metric: str = "eval_loss"  # what is best: one of BEST_METRICS of the method
    log_every_steps: int = 10  # often enough for a live chart, rare enough to cost nothing
    sample_every_steps: int | None = None  # answers to fixed prompts on the way; None: none
    sample_prompts: str = ""  # a prompt a line; empty: some of the held-out lines
    max_seconds: float | None = None  # training time over all attempts; the schedule ends with it

    def __post_init__(self) -> None:
        _check_types(self, prefix="hyperparameters.")
        for name in ("batch_size", "gradient_accumulation", "lora_rank", "lora_alpha"):
            _at_least(self, name, 1)
        for name in ("checkpoints_kept", "log_every_steps", "max_steps", "eval_every_steps"):
            _at_least(self, name, 1)
        _at_least(self, "sample_every_steps", 1)
        _at_least(self, "early_stopping_patience", 1)
        _at_least(self, "early_stopping_min_delta", 0)
        _at_least(self, "warmup_steps", 0)
        _at_least(self, "max_length_tokens", 8)
        _at_least(self, "seed", 0)
        _at_least(self, "snapshots_kept", 0)
        for name in ("epochs", "learning_rate", "max_grad_norm", "max_seconds"):
            _more_than_zero(self, name)
        _more_than_zero(self, "checkpoint_every_seconds")
        _at_least(self, "weight_decay", 0)
        for name in ("beta", "desirable_weight", "undesirable_weight"):
            _more_than_zero(self, name)
        for name in ("warmup_ratio", "lora_dropout", "min_learning_rate_ratio"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise SpecError(
                    f"hyperparameters.{name}",
                    f"{value} is outside 0 (included) to 1 (excluded)",
                    remedy="give a share such as 0.05",
                )
        if not 0 <= self.label_smoothing < 0.5:
            raise SpecError(
                "hyperparameters.label_smoothing",
                f"{self.label_smoothing} is outside 0 (included) to 0.5 (excluded)",
                remedy="give the share of pairs that may be the wrong way round, such as 0.1",
            )
        _one_of("hyperparameters.scheduler", self.scheduler, SCHEDULERS)
        _one_of("hyperparameters.lora_variant", self.lora_variant, LORA_VARIANTS)
        every = tuple(sorted({name for names in BEST_METRICS.values() for name in names}))
        _one_of("hyperparameters.best_metric", self.best_metric, every)
        names = [name.strip() for name in self.lora_targets.split(",")]
        if not all(name.replace(".", "_").isidentifier() for name in names):
            raise SpecError(
                "hyperparameters.lora_targets",
                f"{self.lora_targets!r} names no layers",
                remedy='give "all", "attention", "mlp" or names such as "q_proj,v_proj"',
            )

    @property
    def needs_evaluations(self) -> bool:
        """Whether they decide something about the run."""
        return self.keep_best or self.early_stopping_patience is not None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        return cls(**_known_fields(cls, data, prefix="hyperparameters."))

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """One run. Paths are absolute; a restart of the same run differs in `attempt`
    and, where memory ran out, `micro_batch_splits`."""

    run_id: str
    base_path: str  # folder of a Hugging Face model: config, safetensors, tokenizer
    train_path: str  # jsonl of the method's kind of data, see `trainer.conversations`
    output_path: str  # folder that will hold the result; written whole or not at all
    checkpoint_path: str  # folder of checkpoints, private to this run
    progress_path: str  # jsonl, appended to
    attempt: int = 1  # counts starts of this run; labels progress lines, changes nothing else
    eval_path: str | None = None  # the same, held out from training
    init_path: str | None = None  # folder of an adapter of the base to continue from
    method: str = "sft"
    tuning: str = "lora"
    device: str = "cpu"  # a torch device: "cpu", "cuda", "cuda:1", "npu:0" ...
    dtype: str = "bfloat16"  # of weights and arithmetic; losses and norms are float32 in any case
    ranks: int = 1  # processes, each on a device of its own; more than one need `torchrun`
    threads: int = 1  # of torch in all of them; on CPU the number of cores held
    micro_batch_splits: int = 1  # parts to cut each micro-batch into, for want of memory
    cores: tuple[int, ...] = ()  # when given the process pins itself to these
    hyperparameters: Hyperparameters = field(default_factory=Hyperparameters)

    def __post_init__(self) -> None:
        _check_types(self, prefix="")
        for name in ("run_id", *_PATHS, "device"):
            if not getattr(self, name):
                raise SpecError(name, "is empty", remedy=f"give {name} a value")
        for name in (*_PATHS, "eval_path", "init_path"):
            path = getattr(self, name)
            if path is not None and not Path(path).is_absolute():
                raise SpecError(name, f"{path!r} is not absolute", remedy="give the full path")
        if len({self.output_path, self.checkpoint_path, self.base_path}) < 3:
            raise SpecError(
                "output_path",
                "the base, the checkpoints and the result share a folder",
                remedy="give base_path, checkpoint_path and output_path a folder each",
            )
        for name in ("attempt", "ranks", "threads", "micro_batch_splits"):
            if getattr(self, name) < 1:
                raise SpecError(name, f"{getattr(self, name)} is below 1", remedy="give 1 or more")
        if any(core < 0 for core in self.cores):
            raise SpecError("cores", "a core is below 0", remedy="number cores as the kernel does")
        _one_of("method", self.method, METHODS)
        _one_of("tuning", self.tuning, TUNINGS)
        _one_of("dtype", self.dtype, DTYPES)
        check_method(self.method, self.tuning, self.hyperparameters)
        check_evaluated(self.hyperparameters, is_evaluated=self.eval_path is not None)
        if self.init_path is not None and self.tuning == "full":
            raise SpecError(
                "tuning",
                "an adapter cannot be continued by training all weights",
                remedy='give tuning "lora", or merge the adapter first',
            )
        if self.tuning == "qlora" and not self.device.startswith("cuda"):
            raise SpecError(
                "tuning",
                f"qlora needs a CUDA device, not {self.device}",
                remedy='give tuning "lora", or train on an NVIDIA accelerator',
            )

    @property
    def learning_rate(self) -> float:
        """The rate in force: the one asked for, or the default of method and tuning."""
        return self.hyperparameters.learning_rate or LEARNING_RATES[self.method][self.tuning]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Check and freeze parsed JSON; raises SpecError naming the first offending field."""
        fields = _known_fields(cls, data, prefix="")
        hyperparameters = fields.get("hyperparameters", {})
        if not isinstance(hyperparameters, Mapping):
            raise SpecError("hyperparameters", "is not an object", remedy='give {"epochs": 3, ...}')
        fields["hyperparameters"] = Hyperparameters.from_json(hyperparameters)
        if isinstance(fields.get("cores"), list):
            fields["cores"] = tuple(fields["cores"])
        for required in dataclasses.fields(cls):
            if required.name not in fields and _has_no_default(required):
                raise SpecError(required.name, "is missing", remedy=f"add {required.name!r}")
        return cls(**fields)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `from_json` of them is equal to this spec."""
        return dataclasses.asdict(self) | {"cores": list(self.cores)}

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a spec file; raises SpecError if it is missing, not JSON or refused."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise SpecError(
                "spec", f"{path} cannot be read: {error}", remedy="give the path of a JSON file"
            ) from error
        if not isinstance(data, dict):
            raise SpecError("spec", f"{path} holds no object", remedy='write {"run_id": ...}')
        return cls.from_json(data)


def check_method(method: str, tuning: str, given: Hyperparameters) -> None:
    """What hyperparameters must be for this method and tuning. Raises SpecError naming the field."""
    if method == "kto" and given.batch_size < 2:
        raise SpecError(
            "hyperparameters.batch_size",
            "kto compares the answers of a micro-batch with each other",
            remedy="give 2 or more",
        )
    _one_of("hyperparameters.best_metric", given.best_metric, BEST_METRICS[method])
    if tuning == "qlora" and given.lora_variant == "dora":
        raise SpecError(
            "hyperparameters.lora_variant",
            "dora takes the base's own weights, which qlora has not",
            remedy='give "lora" or "rslora", or tuning "lora"',
        )


def check_evaluated(given: Hyperparameters, *, is_evaluated: bool) -> None:
    """Raises SpecError where something hangs on evaluations and there are none."""
    if given.needs_evaluations and not is_evaluated:
        name = "keep_best" if given.keep_best else "early_stopping_patience"
        raise SpecError(
            f"hyperparameters.{name}",
            "nothing is held out to find the best by",
            remedy="give a split to evaluate on",
        )


_PATHS = ("base_path", "train_path", "output_path", "checkpoint_path", "progress_path")


def _has_no_default(item: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return item.default is missing and item.default_factory is missing


def _known_fields(cls: type, data: Mapping[str, Any], *, prefix: str) -> dict[str, Any]:
    known = {item.name for item in dataclasses.fields(cls)}
    for name in data:
        if name not in known:
            raise SpecError(
                f"{prefix}{name}",
                "is not a field",
                remedy=f"remove it; known are {', '.join(sorted(known))}",
            )
    return dict(data)


def _check_types(spec: Hyperparameters | TrainSpec, *, prefix: str) -> None:
    for name, hint in typing.get_type_hints(type(spec)).items():
        value = getattr(spec, name)
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        if not any(_is_a(value, option) for option in options):
            wanted = " or ".join(_READABLE.get(option, "a list of numbers") for option in options)
            raise SpecError(
                f"{prefix}{name}", f"{value!r} is not {wanted}", remedy=f"give {wanted}"
            )


_READABLE: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    bool: "true or false",
    types.NoneType: "null",
    Hyperparameters: "an object",
}


def _is_a(value: Any, hint: Any) -> bool:
    if hint is float:  # JSON writes 3.0 as 3
        return (
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        )
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(hint, types.GenericAlias):  # tuple[int, ...]
        return isinstance(value, tuple) and all(_is_a(item, int) for item in value)
    return isinstance(value, hint)


def _at_least(hyperparameters: Hyperparameters, name: str, least: float) -> None:
    value = getattr(hyperparameters, name)
    if value is not None and value < least:
        raise SpecError(
            f"hyperparameters.{name}", f"{value} is below {least}", remedy=f"give {least} or more"
        )


def _more_than_zero(hyperparameters: Hyperparameters, name: str) -> None:
    value = getattr(hyperparameters, name)
    if value is not None and value <= 0:
        raise SpecError(
            f"hyperparameters.{name}", f"{value} is not above 0", remedy="give more than 0"
        )


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        choices = ", ".join(allowed)
        raise SpecError(name, f"{value!r} is not offered", remedy=f"choose one of {choices}")
