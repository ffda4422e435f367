"""SGLang.

It takes its token as an argument only, and everyone on the machine reads command lines: so the
token goes into a settings file that its owner alone reads.
"""

import json

from engines.host import ServeSpec
from engines.launchers.launcher import (
    Launcher,
    Place,
    core_list,
    memory_share,
    thread_environment,
)
from engines.launchers.parsers import find_parsers

SETTINGS_FILE = "sglang.yaml"
TOOLS = {"hermes": "qwen", "qwen3_coder": "qwen3_coder"}
REASONING = {"qwen3": "qwen3", "deepseek_r1": "qwen3-thinking"}


def _command(spec: ServeSpec, place: Place) -> list[str]:
    words = [place.program("bin/python"), "-m", "sglang.launch_server"]
    words += ["--config", str(place.spec_path.with_name(SETTINGS_FILE))]
    words += ["--model-path", spec.model_path, "--served-model-name", spec.served_model_name]
    words += ["--host", spec.host, "--port", str(spec.port), "--dtype", spec.dtype]
    words += ["--context-length", str(spec.max_context_tokens)]
    words += ["--max-running-requests", str(spec.max_concurrency)]
    words += ["--max-queued-requests", str(max(spec.max_waiting, 1))]
    words += ["--enable-metrics", "--log-level-http", "warning"]
    words += ["--enable-priority-scheduling", "--schedule-low-priority-values-first"]
    words += ["--default-priority-value", "0"]
    kind = spec.device.partition(":")[0]
    if kind != "cuda":  # cuda also stands for the chips that torch calls so
        words += ["--device", kind]
    if spec.device_count > 1:
        words += ["--tp-size", str(spec.device_count)]
    share = memory_share(spec)
    if kind != "cpu" and share is not None:
        words += ["--mem-fraction-static", str(share)]
    parsers = find_parsers(spec)
    if parsers.tools in TOOLS:
        words += ["--tool-call-parser", TOOLS[parsers.tools]]
    if parsers.reasoning in REASONING:
        words += ["--reasoning-parser", REASONING[parsers.reasoning]]
    return words + SGLANG.further_words(spec)


def _environment(spec: ServeSpec, place: Place) -> dict[str, str]:
    variables = thread_environment(spec)
    if spec.device == "cpu" and spec.cores:
        variables["SGLANG_CPU_OMP_THREADS_BIND"] = core_list(spec)
        variables["SGLANG_USE_CPU_ENGINE"] = "1"
    return variables


def _files(spec: ServeSpec) -> dict[str, str]:
    return {SETTINGS_FILE: json.dumps({"api-key": spec.token}) + "\n"}  # JSON is YAML


SGLANG = Launcher(
    command=_command,
    environment=_environment,
    files=_files,
    program="bin/python",
    distribution="sglang",
    open_gauges=("sglang:num_running_reqs", "sglang:num_queue_reqs"),
    process_bytes=3 * 2**30,
    start_seconds=600,
    arguments={
        "attention-backend": ("ascend", "fa3", "flashinfer", "intel_amx", "torch_native", "triton"),
        "chunked-prefill-size": int,
        "disable-cuda-graph": bool,
        "disable-radix-cache": bool,
        "kv-cache-dtype": ("auto", "fp8_e4m3", "fp8_e5m2"),
        "max-prefill-tokens": int,
        "mem-fraction-static": float,
        "quantization": ("awq", "compressed-tensors", "fp8", "gptq", "modelopt", "w8a8_int8"),
        "random-seed": int,
        "schedule-conservativeness": float,
        "torchao-config": ("fp8wo", "int4wo-128", "int8wo"),
    },
)
