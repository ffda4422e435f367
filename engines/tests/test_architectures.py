"""The list of what the built-in engine serves, asked without torch."""

import subprocess
import sys

import pytest

from engines.architectures import ARCHITECTURES, BUILTIN, Way, refusal
from engines.launchers import LAUNCHERS


def test_the_engine_is_one_of_the_launchers():
    assert BUILTIN in LAUNCHERS


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_what_is_listed_is_served(model_type):
    for class_name in ARCHITECTURES[model_type].classes:
        assert refusal(BUILTIN, model_type=model_type, architecture=class_name) is None


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({"model_type": ""}, "unsupported_architecture"),
        ({"model_type": "gemma2"}, "unsupported_architecture"),
        (
            {"model_type": "qwen3", "architecture": "Qwen3ForSequenceClassification"},
            "unsupported_architecture",
        ),
        ({"model_type": "qwen3", "quantization": "awq"}, "unsupported_quantization"),
        ({"model_type": "qwen3_next", "adapter": True}, "unsupported_adapter"),
    ],
)
def test_a_refusal_says_what_serves_it_instead(facts, code):
    refused = refusal(BUILTIN, **facts)
    assert refused is not None
    assert refused.code == code
    assert "vllm" in refused.remedy


def test_adapters_go_with_our_forward_pass():
    for name, architecture in ARCHITECTURES.items():
        taken = refusal(BUILTIN, model_type=name, adapter=True) is None
        assert taken == (architecture.way is Way.OWN)


def test_other_engines_are_not_judged_beforehand():
    assert refusal("vllm", model_type="gemma2", quantization="fp8") is None


def test_asking_loads_no_torch():
    code = "import sys, engines.architectures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
