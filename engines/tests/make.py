"""Specs, tiny models and running engines for tests."""

import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Self

import httpx
import openai

from engines import launchers
from engines.host import ServeSpec

ROOT = Path(__file__).resolve().parents[2]


def make_spec(**changes: Any) -> ServeSpec:
    """A sound spec of a fake engine on a free port, but for `changes`."""
    values: dict[str, Any] = {
        "name": "replica-1",
        "engine": "fake",
        "model_path": "/nonexistent/model",
        "served_model_name": "tiny",
        "token": "test-token",
        "device": "cpu",
        "dtype": "float32",
        "drain_seconds": 10.0,
    }
    values |= changes
    values.setdefault("port", free_port())
    return ServeSpec(**values)


def free_port() -> int:
    """A port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RunningEngine:
    """A real engine process, started as an agent would start it."""

    def __init__(self, spec: ServeSpec, folder: Path) -> None:
        self.spec = spec
        spec_path = folder / f"{spec.name}-{spec.port}.json"
        spec_path.write_text(spec.to_json())
        launch = launchers.launch(spec, spec_path=spec_path, inherited=os.environ)
        self.log_path = spec_path.with_suffix(".log")
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                launch.command, env=launch.environment, cwd=ROOT, stdout=log, stderr=log
            )
        self.url = f"http://{spec.host}:{spec.port}"
        self._http = httpx.Client(base_url=self.url, headers=self.headers, timeout=30)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.spec.token}"}

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def health(self) -> tuple[int, str]:
        """Status and body of /health; (0, "") while nothing listens."""
        try:
            answer = self._http.get("/health")
        except httpx.ConnectError:
            return 0, ""
        return answer.status_code, answer.text

    def wait_ready(self, *, seconds: float = 60) -> Self:
        deadline = time.monotonic() + seconds
        while self.health()[0] != 200:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"not ready ({self.process.poll()}): {self.log}")
            time.sleep(0.05)
        return self

    def client(self) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.url}/v1", api_key=self.spec.token, max_retries=0, timeout=60
        )

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = self._http.get("/metrics").raise_for_status().text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))

    def wait_metric(self, name: str, value: float, *, seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while (now := self.metric(name)) != value:
            if time.monotonic() > deadline:
                raise AssertionError(f"{name} is {now}, not {value}")
            time.sleep(0.02)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        """Ends the process, whatever it is doing."""
        self._http.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# The parts of Qwen's own templates that a dialect is found from, in few lines.
QWEN3_TEMPLATE = (
    "{% if tools %}<|im_start|>system\n{% for tool in tools %}{{ tool | tojson }}\n{% endfor %}"
    "answer calls as <tool_call>{...}</tool_call><|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{{ message['content'] }}{% for call in message.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}'
    "\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n"
    "{% endif %}{% endif %}"
)
CODER_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "{% for call in message.tool_calls or [] %}<tool_call>\n<function={{ call.function.name }}>\n"
    "{% for name, value in call.function.arguments | items %}"
    "<parameter={{ name }}>\n{{ value }}\n</parameter>\n{% endfor %}"
    "</function>\n</tool_call>{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING_TEMPLATE = CHAT_TEMPLATE.replace("assistant\n{%", "assistant\n<think>\n{%")
CORPUS = [
    "where is my order 1234567890 it should have come to the city of Berlin yesterday",
    "please send the parcel again, the box was wet; 请把包裹再寄一次 thank you very much",
    "naïve café déjà vu über straße 你好世界 émoji 🙂🚚📦 done",
]


def make_tokenizer(folder: Path, *, template: str = CHAT_TEMPLATE) -> None:
    """Writes a small byte-level BPE tokenizer with a ChatML template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken(each, special=True, normalized=False) for each in special],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 4, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    wrapped.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    wrapped.chat_template = template
    wrapped.save_pretrained(folder)


def make_model(
    folder: Path,
    *,
    family: str = "qwen3",
    seed: int = 0,
    template: str = CHAT_TEMPLATE,
    **changes: Any,
) -> Path:
    """Writes a tiny random model with its tokenizer, as `save_pretrained` writes one.

    Its weights are wide enough that the best token rarely has a rival within rounding.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

    make_tokenizer(folder, template=template)
    values: dict[str, Any] = {
        "vocab_size": 416,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "tie_word_embeddings": False,
        "eos_token_id": 2,
        "bos_token_id": None,
        "pad_token_id": 0,
    }
    torch.manual_seed(seed)
    if family == "qwen2":
        model = Qwen2ForCausalLM(Qwen2Config(**values | changes))
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # transformers starts them at zero, which would prove nothing
                torch.nn.init.normal_(parameter, std=0.2)
    else:
        model = Qwen3ForCausalLM(Qwen3Config(**{"head_dim": 32} | values | changes))
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.normal_(parameter, mean=1.0, std=0.2)
    model.save_pretrained(folder)
    return folder


def make_adapter(folder: Path, base: Path, *, seed: int = 0, **config: Any) -> Path:
    """Writes a random LoRA adapter of the model in `base`, as PEFT writes one.

    Its matrices are large enough that its answers are not the base's.
    """
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    values: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": LINEARS}
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    adapted = peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **values | config))
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:  # PEFT starts them at zero, which would prove nothing
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(folder)
    return folder


def make_embedding_model(folder: Path, **changes: Any) -> Path:
    """A tiny model with the files that sentence-transformers keeps beside one like Qwen3's."""
    from safetensors.torch import load_file, save_file

    make_model(folder, tie_word_embeddings=True, **changes)
    stored = load_file(folder / "model.safetensors")
    bare = {name.removeprefix("model."): tensor for name, tensor in stored.items()}
    save_file(bare, folder / "model.safetensors", metadata={"format": "pt"})
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_lasttoken": True}))
    return folder
