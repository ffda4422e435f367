"""vLLM, and its hardware plug-ins, which bring the same program.

The token travels in the environment: a command line is read by everyone on the machine. It guards
/v1 alone; /health, /metrics and a few tools stand open, so the engine belongs behind the gateway.
"""

from engines.host import ServeSpec
from engines.launchers.launcher import (
    Launcher,
    Place,
    core_list,
    memory_share,
    read_config,
    thread_environment,
    weight_bytes,
)
from engines.launchers.parsers import find_parsers

GIB = 2**30
PROCESS_BYTES = 4 * GIB  # on a CPU: 3.6 GiB were measured with 0.6 B parameters
LORAS_IN_A_BATCH = 8  # each takes room on the device; more of them wait for a batch
# Classes that vLLM 0.32 marks as taking LoRA, by their config's model_type.
ADAPTED = frozenset(
    {
        "llama", "mistral", "qwen2", "qwen2_5_vl", "qwen2_moe", "qwen2_vl", "qwen3", "qwen3_5",
        "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_moe", "qwen3_next", "qwen3_vl",
        "qwen3_vl_moe",
    }
)  # fmt: skip
LORA_RANK = 64  # the largest that is taken, unless the arguments name another


def _command(spec: ServeSpec, place: Place) -> list[str]:
    # Started by its interpreter: the script's first line names one that a moved folder lost.
    words = [place.program("bin/python"), place.program("bin/vllm"), "serve", spec.model_path]
    words += [f"--served-model-name={spec.served_model_name}"]
    words += [f"--host={spec.host}", f"--port={spec.port}", f"--dtype={spec.dtype}"]
    words += [f"--max-model-len={spec.max_context_tokens}"]
    words += [f"--max-num-seqs={spec.max_concurrency}"]
    words += ["--uvicorn-log-level=warning"]  # it is asked for its health every second
    words += ["--scheduling-policy=priority"]  # else it refuses a request that says its priority
    if spec.device_count > 1:
        words += [f"--tensor-parallel-size={spec.device_count}"]
    share = memory_share(spec)
    if spec.device != "cpu" and share is not None:
        words += [f"--gpu-memory-utilization={share}"]
    if _takes_adapters(spec):
        words += ["--enable-lora", f"--max-cpu-loras={spec.max_adapters}"]
        words += [f"--max-loras={min(spec.max_adapters, LORAS_IN_A_BATCH)}"]
        if "max-lora-rank" not in spec.arguments:
            words += [f"--max-lora-rank={LORA_RANK}"]
    parsers = find_parsers(spec)
    if parsers.tools != "none":
        words += ["--enable-auto-tool-choice", f"--tool-call-parser={parsers.tools}"]
    if parsers.reasoning != "none":
        words += [f"--reasoning-parser={parsers.reasoning}"]
    return words + VLLM.further_words(spec, off="--no-")


def _environment(spec: ServeSpec, place: Place) -> dict[str, str]:
    variables = thread_environment(spec) | {
        "VLLM_API_KEY": spec.token,
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    if place.home is not None:  # compiled kernels are kept with the engine, for all its replicas
        variables["VLLM_CACHE_ROOT"] = str(place.home / "cache")
    if _takes_adapters(spec):  # the routes that load them stand behind the token
        variables["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    if spec.device == "cpu":
        variables["VLLM_CPU_KVCACHE_SPACE"] = str(_cache_gib(spec))
        if spec.cores:
            variables["VLLM_CPU_OMP_THREADS_BIND"] = core_list(spec)
    return variables


def _takes_adapters(spec: ServeSpec) -> bool:
    """vLLM does not start at all if it is told to take adapters of a model that it has none for."""
    return bool(spec.adapter_folders) and read_config(spec).get("model_type") in ADAPTED


def _cache_gib(spec: ServeSpec) -> int:
    """Whole GiB for the KV cache on a CPU: what the weights and the processes leave, at least 1."""
    if spec.memory_bytes is None:
        return 4
    left = spec.memory_bytes - weight_bytes(spec) - PROCESS_BYTES
    return max(left // GIB, 1)


VLLM = Launcher(
    command=_command,
    environment=_environment,
    program="bin/vllm",
    distribution="vllm",
    open_gauges=("vllm:num_requests_running", "vllm:num_requests_waiting"),
    process_bytes=PROCESS_BYTES,
    start_seconds=600,  # compiling takes 1 to 3 minutes, more with several devices
    arguments={
        "block-size": int,
        "cpu-offload-gb": float,
        "enable-chunked-prefill": bool,
        "enable-expert-parallel": bool,
        "enable-prefix-caching": bool,
        "enforce-eager": bool,
        "kv-cache-dtype": ("auto", "fp8", "fp8_e4m3", "fp8_e5m2"),
        "language-model-only": bool,
        "max-lora-rank": int,
        "max-num-batched-tokens": int,
        "pipeline-parallel-size": int,
        "quantization": ("awq", "awq_marlin", "ascend", "compressed-tensors", "fp8", "gptq",
                         "gptq_marlin", "modelopt"),
        "seed": int,
        "swap-space": float,
    },
)  # fmt: skip
