"""`python -m engines.llamacpp.server SPEC_FILE`, run by llama.cpp's own environment.

Makes the GGUF file if there is none yet, then serves it: by the `llama-server` of that environment
where an operator has put a build of their own there, else by the one inside the xllamacpp wheel.
Exit status as the built-in engine's: 1 could not start (the last log line says why), 2 a bad spec.
"""

import json
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from engines.host import ServeSpec, SpecError
from engines.llamacpp.conversion import CannotConvert, find_or_make

logger = logging.getLogger("engines.llamacpp")

WORKING_BYTES = 2**30  # libraries, buffers of one batch
EVERY_LAYER = 999


def main(arguments: Sequence[str]) -> int:
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level="INFO")
    try:
        spec = ServeSpec.from_json(Path(arguments[0]).read_bytes())
    except (IndexError, OSError, SpecError) as error:
        logger.error("cannot serve (bad_spec): %s", error)
        return 2
    if spec.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, spec.cores)
    try:
        model = find_or_make(
            Path(spec.model_path), weights=str(spec.arguments.get("weights", spec.dtype))
        )
    except CannotConvert as error:
        logger.error("cannot serve (%s): %s", error.code, error)
        return 1
    except OSError as error:
        logger.error("the GGUF file could not be made: %s", error)
        return 1
    own_build = Path(sys.executable).with_name("llama-server")
    if own_build.exists():
        os.environ["LLAMA_API_KEY"] = spec.token
        os.execv(own_build, command(spec, program=own_build, model=model))  # noqa: S606
    return serve(spec, model=model)


def command(spec: ServeSpec, *, program: Path, model: Path) -> list[str]:
    """The command line of a `llama-server`."""
    words = [str(program), "--model", str(model), "--alias", spec.served_model_name]
    words += ["--host", spec.host, "--port", str(spec.port), "--metrics", "--no-webui", "--jinja"]
    words += ["--parallel", str(spec.max_concurrency), "--ctx-size", str(cache_tokens(spec))]
    words += ["--kv-unified", "--threads", str(spec.threads), "--offline"]
    words += ["--n-gpu-layers", str(0 if spec.device == "cpu" else EVERY_LAYER)]
    if spec.reasoning_parser == "none":
        words += ["--reasoning-format", "none"]
    return words


def serve(spec: ServeSpec, *, model: Path) -> int:
    """Serves until SIGTERM. Raises ImportError where the environment is not llama.cpp's."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias = {spec.served_model_name}
    params.hostnames, params.port = [spec.host], spec.port
    params.api_keys = [spec.token]
    params.n_parallel, params.n_ctx = spec.max_concurrency, cache_tokens(spec)
    params.kv_unified = True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = spec.threads
    params.n_gpu_layers = 0 if spec.device == "cpu" else EVERY_LAYER
    params.endpoint_metrics, params.endpoint_slots, params.ui = True, False, False
    params.use_jinja, params.offline, params.cache_ram_mib = True, True, 0
    if spec.reasoning_parser == "none":
        params.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(0))  # it is asked once no request is open
    try:
        server = xllamacpp.Server(params)
    except (RuntimeError, ValueError) as error:
        logger.error("llama.cpp did not start: %s", error)  # it has said why
        return 1
    logger.info("serving %s at %s", model, server.listening_address)
    while True:
        signal.pause()


def cache_tokens(spec: ServeSpec) -> int:
    """Tokens of KV cache for all sequences together, 2 bytes a value: as many as memory holds, at
    least one whole context, at most one for each sequence."""
    wished = spec.max_context_tokens * spec.max_concurrency
    if spec.memory_bytes is None:
        return wished
    model = Path(spec.model_path)
    config = json.loads((model / "config.json").read_bytes())
    heads = int(config["num_attention_heads"])
    head_dim = int(config.get("head_dim") or int(config["hidden_size"]) // heads)
    key_values = int(config.get("num_key_value_heads") or heads) * head_dim
    token_bytes = 2 * int(config["num_hidden_layers"]) * key_values * 2
    weights = sum(path.stat().st_size for path in model.glob("*.safetensors"))
    left = (spec.memory_bytes - weights - WORKING_BYTES) // token_bytes
    return max(spec.max_context_tokens, min(wished, left))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
