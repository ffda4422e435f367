"""What each engine is told, for specs of many kinds; engines themselves are in test_foreign.py."""

import json
from pathlib import Path

import pytest

from engines import failures, installed, launchers
from engines.host import ServeSpec, SpecError
from engines.launchers import EngineTemplate, Launch, template
from engines.metrics_reading import sum_gauges
from engines.tests.make import ROOT, make_spec

GIB = 2**30
HOME = Path("/opt/engine")
TEMPLATES = {
    "hermes": "{% for t in tools %}<tool_call>{% endfor %}",
    "coder": "<tool_call>\n<function=f>\n<parameter=p>",
    "april": "<tool_call> {% if enable_thinking %}</think>{% endif %}",
    "always": "<tool_call> <|im_start|>assistant\n<think>\n </think>",
    "none": "{{ messages }}",
}


def launch(spec: ServeSpec) -> Launch:
    path = Path("/run/replica/spec.json")
    return launchers.launch(spec, spec_path=path, inherited={"PATH": "/bin"}, home=HOME)


def option(command: list[str], name: str) -> str | None:
    """The value of --name, written in one word or in two."""
    for index, word in enumerate(command):
        if word == name:
            return command[index + 1] if index + 1 < len(command) else ""
        if word.startswith(name + "="):
            return word.partition("=")[2]
    return None


def make_folder(folder: Path, template: str = "", *, weights: int = 0) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    with (folder / "model.safetensors").open("wb") as file:
        file.truncate(weights)
    return str(folder)


def test_vllm_on_a_cpu_is_given_cores_and_what_memory_the_weights_leave(tmp_path):
    folder = make_folder(tmp_path, weights=3 * GIB)
    started = launch(
        make_spec(
            engine="vllm",
            model_path=folder,
            cores=[0, 1, 2, 5],
            threads=4,
            memory_bytes=12 * GIB,
            device_memory_bytes=24 * GIB,
            max_context_tokens=2048,
            max_concurrency=32,
        )
    )
    assert started.command[:4] == [
        "/opt/engine/bin/python",
        "/opt/engine/bin/vllm",
        "serve",
        folder,
    ]
    assert option(started.command, "--max-model-len") == "2048"
    assert option(started.command, "--max-num-seqs") == "32"
    assert option(started.command, "--gpu-memory-utilization") is None
    assert option(started.command, "--tensor-parallel-size") is None
    assert started.environment["VLLM_CPU_KVCACHE_SPACE"] == "5"
    assert started.environment["VLLM_CPU_OMP_THREADS_BIND"] == "0-2,5"
    assert started.environment["PATH"] == "/opt/engine/bin:/bin"


@pytest.mark.parametrize(
    ("variable", "device"),
    [
        ("CUDA_VISIBLE_DEVICES", "cuda:0"),
        ("ASCEND_RT_VISIBLE_DEVICES", "npu:0"),
        ("MUSA_VISIBLE_DEVICES", "musa:0"),
    ],
)
@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_several_devices_are_one_engine_with_tensor_parallelism(engine, variable, device, tmp_path):
    started = launch(
        make_spec(
            engine=engine,
            model_path=make_folder(tmp_path),
            device=device,
            device_count=4,
            memory_bytes=4 * 64 * GIB,
            device_memory_bytes=64 * GIB,
            environment={variable: "0,1,2,3"},
        )
    )
    parallel = option(started.command, "--tensor-parallel-size") or option(
        started.command, "--tp-size"
    )
    share = option(started.command, "--gpu-memory-utilization") or option(
        started.command, "--mem-fraction-static"
    )
    assert (parallel, share) == ("4", "0.9")
    assert started.environment[variable] == "0,1,2,3"
    assert "VLLM_CPU_KVCACHE_SPACE" not in started.environment
    if engine == "sglang":  # chips that torch calls cuda need no word for it
        assert option(started.command, "--device") == (None if device == "cuda:0" else device[:-2])


def test_a_share_of_a_device_is_a_share_of_its_memory(tmp_path):
    started = launch(
        make_spec(
            engine="vllm",
            model_path=make_folder(tmp_path),
            device="cuda:0",
            memory_bytes=20 * GIB,
            device_memory_bytes=80 * GIB,
        )
    )
    assert option(started.command, "--gpu-memory-utilization") == "0.225"


def test_vllm_takes_adapters_at_run_time_where_the_spec_names_their_folders(tmp_path):
    folder = make_folder(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    spec = make_spec(
        engine="vllm", model_path=folder, adapter_folders=[str(tmp_path)], max_adapters=100
    )
    started = launch(spec)
    assert "--enable-lora" in started.command
    assert option(started.command, "--max-cpu-loras") == "100"
    assert option(started.command, "--max-loras") == "8"
    assert option(started.command, "--max-lora-rank") == "64"
    assert started.environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"
    without = launch(make_spec(engine="vllm", model_path=folder))
    assert "--enable-lora" not in without.command
    (tmp_path / "config.json").write_text('{"model_type": "gpt_bigcode"}')
    assert "--enable-lora" not in launch(spec).command  # it would not start


@pytest.mark.parametrize(
    ("template", "vllm", "sglang"),
    [
        ("hermes", ("hermes", None), ("qwen", None)),
        ("coder", ("qwen3_coder", None), ("qwen3_coder", None)),
        ("april", ("hermes", "qwen3"), ("qwen", "qwen3")),
        ("always", ("hermes", "deepseek_r1"), ("qwen", "qwen3-thinking")),
        ("none", (None, None), (None, None)),
    ],
)
def test_parsers_follow_from_the_chat_template_by_each_engines_names(
    template, vllm, sglang, tmp_path
):
    folder = make_folder(tmp_path, TEMPLATES[template])
    for engine, wanted in (("vllm", vllm), ("sglang", sglang)):
        command = launch(make_spec(engine=engine, model_path=folder)).command
        told = (option(command, "--tool-call-parser"), option(command, "--reasoning-parser"))
        assert told == wanted
        if engine == "vllm":
            assert ("--enable-auto-tool-choice" in command) == (wanted[0] is not None)


def test_parsers_that_were_chosen_are_not_guessed(tmp_path):
    folder = make_folder(tmp_path, TEMPLATES["april"])
    spec = make_spec(
        engine="vllm", model_path=folder, tool_parser="qwen3_coder", reasoning_parser="none"
    )
    command = launch(spec).command
    assert option(command, "--tool-call-parser") == "qwen3_coder"
    assert option(command, "--reasoning-parser") is None


@pytest.mark.parametrize("engine", ["vllm", "sglang", "llamacpp", "own"])
def test_no_command_line_shows_the_token(engine, tmp_path):
    template = EngineTemplate(
        name="own", command=["serve", "{model_path}", "{port}", "{token_file}"]
    ).to_values()
    spec = make_spec(
        engine=engine,
        model_path=make_folder(tmp_path),
        token="s3cret",
        template=template if engine == "own" else None,
    )
    started = launch(spec)
    assert "s3cret" not in " ".join(started.command)
    told = str(started.environment) + str(started.files)
    assert "s3cret" in told or engine == "llamacpp"  # which reads the spec itself


def test_an_engine_with_its_own_environment_sees_nothing_of_ours(tmp_path):
    spec = make_spec(engine="vllm", model_path=make_folder(tmp_path))
    inherited = {"PYTHONPATH": "/ours", "VIRTUAL_ENV": "/ours", "HOME": "/root"}
    started = launchers.launch(
        spec, spec_path=Path("/run/spec.json"), inherited=inherited, home=HOME
    )
    assert "/ours" not in started.environment.values()
    assert started.environment["HOME"] == "/root"


def test_an_engine_that_is_not_on_the_node_is_refused(tmp_path):
    spec = make_spec(engine="vllm", model_path=make_folder(tmp_path))
    with pytest.raises(SpecError, match="not on this node"):
        launchers.launch(spec, spec_path=Path("/run/spec.json"), inherited={})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"enforce-eager": True}, ["--enforce-eager"]),
        ({"enable-prefix-caching": False}, ["--no-enable-prefix-caching"]),
        ({"kv-cache-dtype": "fp8", "block-size": 32}, ["--block-size=32", "--kv-cache-dtype=fp8"]),
        ({"swap-space": 2}, ["--swap-space=2"]),
    ],
)
def test_further_arguments_that_the_engine_takes(arguments, words, tmp_path):
    spec = make_spec(engine="vllm", model_path=make_folder(tmp_path), arguments=arguments)
    assert launch(spec).command[-len(words) :] == words


@pytest.mark.parametrize(
    "arguments",
    [
        {"trust-remote-code": True},
        {"kv-cache-dtype": "fp9"},
        {"block-size": True},
        {"block-size": "32 --trust-remote-code"},
        {"enforce-eager": 1},
        {"kv-cache-dtype": ["fp8"]},
    ],
)
def test_further_arguments_that_it_does_not_take(arguments, tmp_path):
    spec = make_spec(engine="vllm", model_path=make_folder(tmp_path), arguments=arguments)
    with pytest.raises(SpecError, match="arguments"):
        launch(spec)


def test_a_described_engine_is_filled_in_word_by_word(tmp_path):
    template = EngineTemplate(
        name="my-engine",
        command=[
            "/opt/mine/serve", "{model_path}", "--listen={host}:{port}", "--name", "{served_model_name}",
            '--json={{"tp": {device_count}}}', "--context={max_context_tokens}",
        ],
        environment={"KEY": "{token}", "CORES": "{cores}"},
        health_path="/ready",
    )  # fmt: skip
    folder = make_folder(tmp_path / "a {port} b; rm -rf $HOME")
    spec = make_spec(
        engine="my-engine",
        model_path=folder,
        served_model_name="n {token}",
        template=template.to_values(),
        cores=[3, 4],
        device_count=2,
        token="s3cret",
    )
    started = launch(ServeSpec.from_json(spec.to_json()))
    assert started.command == [
        "/opt/mine/serve", folder, f"--listen=127.0.0.1:{spec.port}", "--name", "n {token}",
        '--json={"tp": 2}', "--context=4096",
    ]  # fmt: skip
    assert (started.environment["KEY"], started.environment["CORES"]) == ("s3cret", "3-4")
    assert started.health_url.endswith("/ready")


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("command", {"command": []}),
        ("command", {"command": ["serve", "{model_path}"]}),
        ("command", {"command": ["serve", "{port}"]}),
        ("command", {"command": ["{model_path}", "{port}"]}),
        ("command", {"command": ["serve", "{model_path}", "{port}", "{token}"]}),
        ("command", {"command": ["serve", "{model_path}", "{port}", "{secret_key}"]}),
        ("command", {"command": ["serve", "{model_path}", "{port}", "{port.__class__}"]}),
        ("command", {"command": ["serve", "{model_path}", "{port}", 7]}),
        ("environment", {"environment": {"A-B": "c"}}),
        ("environment", {"environment": {"A": "{nothing}"}}),
        ("health_path", {"health_path": "http://elsewhere/"}),
        ("name", {"name": "My Engine"}),
        ("open_gauges", {"open_gauges": ["a b"]}),
        ("start_seconds", {"start_seconds": 0}),
    ],
)
def test_a_description_that_cannot_work_is_refused_by_field(field, changes):
    values = {"name": "mine", "command": ["serve", "{model_path}", "{port}"]} | changes
    with pytest.raises(SpecError) as refused:
        EngineTemplate.from_values(values)
    assert refused.value.field == field


def test_every_place_and_every_reason_is_told_in_the_documentation():
    page = (ROOT / "docs" / "engines.md").read_text()
    assert [name for name in template.PLACES if f"`{{{name}}}`" not in page] == []
    assert [known.code for known in failures.KNOWN if f"`{known.code}`" not in page] == []
    assert [name for name in launchers.LAUNCHERS if f"| `{name}` |" not in page] == []


def test_the_engines_of_a_node_are_those_whose_programs_are_there(tmp_path):
    given = tmp_path / "elsewhere" / "vllm"
    for path in ("bin/vllm", "lib/python3.11/site-packages/vllm-0.32.0+cpu.dist-info/METADATA"):
        (given / path).parent.mkdir(parents=True, exist_ok=True)
        (given / path).touch()
    program = tmp_path / "mine"
    program.touch(mode=0o755)
    command = ["{}", "{model_path}", "{port}"]
    described = {
        name: EngineTemplate(name=name, command=[where, *command[1:]])
        for name, where in (("here", str(program)), ("gone", str(tmp_path / "gone")))
    }
    homes = installed.homes(tmp_path / "engines", {"vllm": given})
    assert homes["llamacpp"] == tmp_path / "engines" / "llamacpp"
    assert installed.find(homes, described) == {
        "fake": "", "here": "", "transformers": "", "vllm": "0.32.0+cpu",
    }  # fmt: skip


def test_open_requests_are_summed_over_labels_and_names():
    text = (
        "# HELP a:running x\n# TYPE a:running gauge\n"
        'a:running{engine="0"} 2.0\na:running{engine="1"} 1\na:running_total{x="y"} 9\n'
        "b:waiting 4\nbroken\n"
    )
    assert sum_gauges(text, ("a:running", "b:waiting")) == 7
    assert sum_gauges(text, ("c",)) == 0
