"""Logs of engines that could not serve, and what is made of them."""

import pytest

from engines import failures
from engines.host import Ended

# Ends of real runs of vLLM 0.32.0 (CPU) and llama.cpp (xllamacpp 2026.10), shortened.
CAPTURED = {
    "vllm: port": (
        "port_taken",
        """
(APIServer pid=14810) INFO 11-23 17:39:46 [entrypoints.py:58] Listening
(APIServer pid=14810)     sock.bind(addr)
OSError: [Errno 98] Address already in use
""",
    ),
    "vllm: architecture": (
        "unsupported_architecture",
        """
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, The checkpoint you are trying to load has model type `qwen9` but Transformers does not recognize this architecture. This could be because of an issue with the checkpoint, or because your version of Transformers is out of date.
""",
    ),
    "vllm: context": (
        "context_too_long",
        """
pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
  Value error, User-specified max_model_len (99999) is greater than the derived max_model_len (max_position_embeddings=2048.0 or model_max_length=None in model's config.json).
""",
    ),
    "vllm: argument": (
        "bad_argument",
        "usage: vllm [-h] [-v]\nvllm: error: unrecognized arguments: --no-such-flag\n",
    ),
    "vllm: dtype": (
        "unsupported_dtype",
        "vllm serve: error: argument --dtype: invalid choice: 'float7' (choose from 'auto', 'bfloat16', 'float', 'float16', 'float32', 'half')\n",
    ),
    "vllm: shapes": (
        "unreadable_weights",
        """
(APIServer pid=19562) WARNING 11-23 17:41:55 [system_utils.py:255] Found ulimit of 20000 and failed to automatically increase with error current limit exceeds maximum limit. This can cause fd limit errors like `OSError: [Errno 24] Too many open files`.
(Worker pid=20010) ERROR 11-23 17:42:12 [multiproc_executor.py:953] RuntimeError: The size of tensor a (128) must match the size of tensor b (256) at non-singleton dimension 1
    raise RuntimeError(
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}
""",
    ),
    "vllm: tensor parallel": (
        "tensor_parallel",
        "  Value error, Total number of attention heads (4) must be divisible by tensor parallel size (3). [type=value_error]\n",
    ),
    "vllm: cache": (
        "out_of_memory",
        """
(Worker pid=22129) ERROR 11-23 17:43:25 [multiproc_executor.py:1063] ValueError: Available memory on node 0 (15.86/17.34 GiB) on kv cache allocation is less than requested memory for kv (900.0 GiB). Decrease --kv-cache-memory-bytes, VLLM_CPU_KVCACHE_SPACE
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
/usr/lib/python3.11/multiprocessing/resource_tracker.py:254: UserWarning: resource_tracker: There appear to be 1 leaked shared_memory objects to clean up at shutdown
""",
    ),
    "vllm: device": (
        "device_missing",
        "RuntimeError: Failed to infer device type, please set the environment variable `VLLM_LOGGING_LEVEL=DEBUG` to turn on verbose logging to help debug the issue.\n",
    ),
    "vllm: installation": (
        "engine_incomplete",
        "importlib.metadata.PackageNotFoundError: No package metadata was found for vllm\n",
    ),
    "llamacpp: port": (
        "port_taken",
        """
0.00.003.188 E srv         start: couldn't bind HTTP server socket, hostname: 127.0.0.1, port: 21602
0.00.003.189 I srv    operator(): operator(): cleaning up before exit...
0.00.003.379 E srv          init: exiting due to HTTP server error
""",
    ),
    "llamacpp: memory": (
        "out_of_memory",
        """
0.02.142.307 W llama_context: n_ctx_seq (128000000) > n_ctx_train (2048) -- possible training context overflow
0.03.643.279 E llama_init_from_model: failed to initialize the context: std::bad_alloc
0.03.643.299 E srv    load_model: failed to create_context with model '/w/tiny.auto.gguf'
0.03.645.696 E srv          init: exiting due to model loading error
2026-11-23 17:44:37,452 ERROR engines.llamacpp: llama.cpp did not start: Failed to init server, please check the input params.
""",
    ),
    "llamacpp: file cut short": (
        "unreadable_weights",
        """
0.00.005.895 E gguf_init_from_reader: failed to read key-value pairs
0.00.006.468 E llama_model_load: error loading model: llama_model_loader: failed to load model from x.gguf
0.00.006.540 E common_fit_params: encountered an error while trying to fit params to free device memory: failed to load model
0.00.011.037 E srv    load_model: failed to load model, 'x.gguf'
""",
    ),
    "llamacpp: architecture": (
        "unsupported_architecture",
        "2026-11-23 17:41:10,214 ERROR engines.llamacpp: cannot serve (unsupported_architecture): only qwen2, qwen3 are converted, not qwen9\n",
    ),
}
# Lines that these projects write where there is hardware that the above did not run on.
PUBLISHED = {
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB": "out_of_memory",
    "RuntimeError: NPU out of memory. Tried to allocate 1.50 GiB": "out_of_memory",
    "ValueError: Free memory on device (10.1/79.1 GiB) on startup is less than desired GPU memory utilization (0.9, 71.2 GiB).": "out_of_memory",
    "RuntimeError: [enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes.": "out_of_memory",
    "ValueError: The model's max seq len (32768) is larger than the maximum number of tokens that can be stored in KV cache (4096).": "cache_too_small",
    "RuntimeError: Found no NVIDIA driver on your system.": "device_missing",
    "RuntimeError: No CUDA GPUs are available": "device_missing",
    "ValueError: Model architectures ['FooForCausalLM'] are not supported for now.": "unsupported_architecture",
    "ValueError: Bfloat16 is only supported on GPUs with compute capability of at least 8.0.": "unsupported_dtype",
    "OSError: Can't load tokenizer for '/m'. If you were trying to load it": "unsupported_tokenizer",
    "safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge": "unreadable_weights",
    "OSError: [Errno 28] No space left on device": "disk_full",
}


@pytest.mark.parametrize("case", CAPTURED)
def test_a_captured_log_is_understood(case):
    code, log = CAPTURED[case]
    failure = failures.explain(log, Ended(returncode=1))
    assert failure.code == code
    assert failure.remedy
    assert failure.line
    assert failure.line in log


@pytest.mark.parametrize("line", PUBLISHED)
def test_a_published_line_is_understood(line):
    failure = failures.explain(f"(EngineCore) INFO loading\n{line}\nbye\n", Ended(returncode=1))
    assert (failure.code, failure.line) == (PUBLISHED[line], line)


def test_a_line_that_is_no_error_says_nothing():
    log = (
        "INFO 11-23 [x.py:1] CUDA out of memory is not what happened\n"
        "WARNING 11-23 [x.py:1] OSError: [Errno 98] Address already in use, trying another\n"
        "0.00.001 W srv: failed to allocate a nicety\n"
    )
    assert failures.explain(log, Ended(returncode=3)) == failures.Failure(
        "engine_exited", "The engine ended with status 3."
    )


@pytest.mark.parametrize(
    ("ended", "code", "said"),
    [
        (Ended(returncode=-9, memory_ran_out=True), "out_of_memory", "killed it"),
        (Ended(returncode=1, memory_ran_out=True), "out_of_memory", "part of it"),
        (Ended(returncode=-9), "engine_exited", "SIGKILL"),
        (Ended(returncode=-11), "engine_exited", "SIGSEGV"),
        (Ended(returncode=None), "engine_exited", "The engine ended."),
    ],
)
def test_how_it_ended_tells_where_the_log_does_not(ended, code, said):
    failure = failures.explain("INFO all is well\n", ended)
    assert failure.code == code
    assert said in failure.text


def test_memory_killed_elsewhere_does_not_hide_what_the_engine_says():
    ended = Ended(returncode=1, memory_ran_out=True)
    failure = failures.explain("OSError: [Errno 98] Address already in use\n", ended)
    assert failure.code == "port_taken"


def test_an_engine_of_ours_names_its_reason():
    said = "ERROR engines: cannot serve (memory_short): 3 GB wanted, 2 GB given\n"
    failure = failures.explain(said, Ended(returncode=1))
    assert (failure.code, failure.line) == ("out_of_memory", "3 GB wanted, 2 GB given")
    other = failures.explain("ERROR engines: cannot serve (cores_missing): 7\n", Ended())
    assert (other.code, other.line) == ("cores_missing", "7")
