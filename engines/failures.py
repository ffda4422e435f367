"""Why an engine ended: from how it ended and what it said, to a code, a sentence and a remedy.

Pure. Engines of our own name the code themselves; of others the known lines are looked for, those
of the likeliest root cause first. What nobody knows keeps the engine's last error line.
"""

import re
import signal
from dataclasses import dataclass

from engines.host import Ended

OWN = re.compile(r"cannot serve \((\w+)\): (.+)")
LONGEST_LINE = 400


@dataclass(frozen=True)
class Failure:
    """`code` is for programs, `message` and `remedy` for people; `line` is the engine's own word."""

    code: str
    message: str
    remedy: str = ""
    line: str = ""

    @property
    def text(self) -> str:
        """All of it, as pages show it."""
        said = f" It said: {self.line}" if self.line else ""
        return f"{self.message}{said} {self.remedy}".strip()


@dataclass(frozen=True)
class Known:
    code: str
    message: str
    remedy: str
    lines: str  # of a log; empty: only engines of our own name this code


KNOWN = (
    Known(
        "disk_full",
        "The node's disk is full.",
        "Free space on the node, then scale the deployment to start it again.",
        r"No space left on device|Disk quota exceeded",
    ),
    Known(
        "port_taken",
        "Another process of the node listens on the engine's port.",
        "It starts again on another one by itself; if it does not, look for a foreign process.",
        r"[Aa]ddress already in use|couldn't bind HTTP server socket|attempting to bind on address",
    ),
    Known(
        "device_missing",
        "The engine finds no device, or no driver that fits.",
        "Look at the node's driver, and whether its build of the engine is for these devices.",
        r"Found no NVIDIA driver|No CUDA GPUs are available|driver version is insufficient"
        r"|Failed to infer device type|Torch not compiled with CUDA|no kernel image is available"
        r"|libcuda\.so|libascendcl\.so|CUDA unknown error|invalid device ordinal",
    ),
    Known(
        "out_of_memory",
        "Memory ran out.",
        "Give each replica more or larger accelerators, a shorter context, fewer sequences at"
        " once, or a smaller or quantized model.",
        r"out of memory|OutOfMemoryError|MemoryError|std::bad_alloc|not enough memory|can't allocate memory"
        r"|Cannot allocate memory|failed to allocate|unable to allocate"
        r"|No available memory for the cache blocks|is less than (?:requested|desired)|exceed(?:s|ed)? (?:the )?available .{0,20}memory",
    ),
    Known(
        "cache_too_small",
        "The memory left for the cache does not hold one whole context.",
        "Set a smaller max_context_tokens, or give each replica more memory.",
        r"larger than the (?:available KV cache memory|maximum number of tokens that can be stored)"
        r"|is too long for the KV cache|estimated maximum model length",
    ),
    Known(
        "unsupported_architecture",
        "The engine does not know this kind of model.",
        "Deploy it with another engine, or with a newer version of this one.",
        r"does not recognize this architecture|[Mm]odel architectures .{0,200} (?:are not supported|failed)"
        r"|unknown model architecture|[Uu]nsupported architecture",
    ),
    Known(
        "unsupported_adapter",
        "The engine has no adapters for this kind of model.",
        "Merge the adapter into its base (on its page) and deploy that, or use another engine.",
        r"does not support LoRA|LoRA rank \d+ is greater than",
    ),
    Known(
        "unsupported_tokenizer",
        "The engine cannot use this tokenizer.",
        "Import the model again with its tokenizer files, or deploy it with another engine.",
        r"[Cc]an't load tokenizer|Couldn't instantiate the backend tokenizer|unknown pre-tokenizer"
        r"|tokenizer\.json is missing|Failed to load (?:the )?tokenizer",
    ),
    Known(
        "context_too_long",
        "The context asked for is longer than the model's own.",
        "Set a smaller max_context_tokens.",
        r"max_model_len \(\d+\) is greater than|context length .{0,40}is (?:greater|longer) than",
    ),
    Known(
        "tensor_parallel",
        "The model cannot be divided over so many devices.",
        "Set accelerators_per_replica to a number that divides the model's attention heads.",
        r"divisible by (?:the )?tensor parallel|not divisible by (?:tp|world)|world size .{0,60}(?:larger|greater)",
    ),
    Known(
        "unsupported_dtype",
        "The device or the engine does not compute in this number format.",
        "Set dtype to float16 or auto, or choose other weights.",
        r"[Bb]float16 is only supported|argument --dtype|not supported for quantization method"
        r"|[Uu]nsupported dtype|cannot serve \(unsupported_dtype\)",
    ),
    Known(
        "unreadable_weights",
        "The weights do not fit their config, or are damaged.",
        "Import the revision again; if it fails again, its files are wrong at their source.",
        r"SafetensorError|HeaderTooLarge|InvalidHeaderDeserialization|size mismatch|shape mismatch"
        r"|The size of tensor a \(\d+\) must match|error loading model"
        r"|[Cc]annot find any model weights|failed to load model,|does not appear to have a file named"
        r"|has wrong shape|weights_not_loaded|were not initialized from checkpoint",
    ),
    Known(
        "bad_argument",
        "The engine refused an argument that it was started with.",
        "Take it out of engine_arguments, or mend the engine's description; another version of the"
        " engine may take other arguments.",
        r"unrecognized arguments|invalid choice|error: argument |error: unknown|invalid argument:",
    ),
    Known(
        "engine_incomplete",
        "The engine's installation on the node is not complete.",
        "Install the engine there again (docs/engines.md).",
        r"ModuleNotFoundError|PackageNotFoundError|cannot open shared object file|version `GLIBC",
    ),
)  # fmt: skip
# Codes that our own engines name, where the table above has another word or none.
SAME = {"memory_short": "out_of_memory", "weights_missing": "unreadable_weights"}
REMEDIES = {known.code: known for known in KNOWN}
PATTERNS = tuple((known, re.compile(known.lines)) for known in KNOWN)
# What is no error: levels as Python's logging, and as llama.cpp writes them.
HARMLESS = re.compile(r"^(?:\([^)]*\) )?(?:[\d:,. -]+ )?(?:DEBUG|INFO|WARNING)\b|^[\d.]+ [DIW] ")
# Says only that something else went wrong before, or is said at every end.
EMPTY = re.compile(
    r"See root cause above|resource_tracker|leaked|exiting due to|cleaning up before|\braise \w"
)
ERROR = re.compile(r"\b(?:ERROR|CRITICAL|FATAL)\b|(?:Error|Exception)\b|^[\d.]+ E ")


def explain(log: str, ended: Ended) -> Failure:
    """The likeliest reason for an engine's end; code `engine_exited` where none is known."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for line in reversed(lines):
        if (own := OWN.search(line)) is not None:
            return _of_our_own(own[1], own[2])
    if ended.memory_ran_out and ended.returncode in (None, -signal.SIGKILL):
        known = REMEDIES["out_of_memory"]
        return Failure(known.code, "The node ran out of memory and killed it.", known.remedy)
    lines = [line for line in lines if not HARMLESS.search(line) and not EMPTY.search(line)]
    for known, pattern in PATTERNS:
        for line in reversed(lines):
            if pattern.search(line):
                return Failure(known.code, known.message, known.remedy, _short(line))
    if ended.memory_ran_out:  # a child of the engine was killed, and it gave up
        known = REMEDIES["out_of_memory"]
        return Failure(
            known.code, "The node ran out of memory and killed part of it.", known.remedy
        )
    last = next((line for line in reversed(lines) if ERROR.search(line)), "")
    return Failure("engine_exited", _how(ended), line=_short(last))


def last_error(log: str) -> str:
    """The last line that tells of an error; empty if none does."""
    lines = (line for line in reversed(log.splitlines()) if not EMPTY.search(line))
    return next((_short(line) for line in lines if ERROR.search(line)), "")


def _of_our_own(code: str, message: str) -> Failure:
    code = SAME.get(code, code)
    known = REMEDIES.get(code)
    if known is None:
        return Failure(code, "The engine could not serve this.", line=_short(message))
    return Failure(code, known.message, known.remedy, _short(message))


def _how(ended: Ended) -> str:
    if ended.returncode is None:
        return "The engine ended."
    if ended.returncode < 0:
        try:
            name = signal.Signals(-ended.returncode).name
        except ValueError:
            name = f"signal {-ended.returncode}"
        return f"The engine was killed ({name})."
    return f"The engine ended with status {ended.returncode}."


def _short(line: str) -> str:
    line = line.strip()
    return line if len(line) <= LONGEST_LINE else line[:LONGEST_LINE] + "…"
