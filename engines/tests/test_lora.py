"""Adapters in the forward pass: greedy answers against PEFT's own model, in float32."""

import json
import random
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from engines.protocol.errors import ApiError
from engines.tests.make import make_adapter, make_model
from engines.tests.test_parity import Collector, ask, generated, prompts

NEW_TOKENS = 24
ADAPTERS: dict[str, dict[str, Any]] = {
    "all": {},
    "attention": {"target_modules": ["q_proj", "v_proj"], "r": 8},
    "feed-forward": {"target_modules": ["gate_proj", "down_proj"]},
    "rooted": {"use_rslora": True, "target_modules": ["o_proj", "up_proj", "k_proj"]},
    "some-layers": {"layers_to_transform": [0, 2]},
    "ranks": {
        "rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 6},
        "alpha_pattern": {"v_proj": 3},
    },
}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def folders(base, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {
        name: make_adapter(root / name, base, seed=seed, **config)
        for seed, (name, config) in enumerate(ADAPTERS.items())
    }


@pytest.fixture(scope="module")
def references(base, folders):
    """PEFT's model with every adapter; choose one with `set_adapter`."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    adapted = None
    for name, folder in folders.items():
        if adapted is None:
            adapted = peft.PeftModel.from_pretrained(model, folder, adapter_name=name)
        else:
            adapted.load_adapter(folder, adapter_name=name)
    return adapted.eval()


@pytest.fixture(scope="module")
def engine(base):
    collector = Collector(base, max_concurrency=32)
    yield collector
    collector.close()


def expected(references, name, prompt):
    if name is None:
        with references.disable_adapter():
            return generated(references, prompt, count=NEW_TOKENS)
    references.set_adapter(name)
    return generated(references, prompt, count=NEW_TOKENS)


def answered(engine, asked):
    """The generated ids for each (adapter, prompt), all in one batch."""
    rules = {"temperature": 0.0, "max_tokens": NEW_TOKENS, "ignore_eos": True}
    requests = [ask(prompt, **rules) for _, prompt in asked]
    engine.run(requests, adapters=[adapter for adapter, _ in asked])
    pairs = zip(engine.answers, asked, strict=True)
    return [answer.tokens[len(prompt) :] for answer, (_, prompt) in pairs]


def test_each_alone(engine, folders, references):
    [prompt] = prompts([23], seed=1)
    seen = [expected(references, None, prompt)]
    for name, folder in folders.items():
        adapter = engine.engine.read_adapter(folder)
        [tokens] = answered(engine, [(adapter, prompt)])
        assert tokens == expected(references, name, prompt), name
        assert tokens not in seen
        seen.append(tokens)
    assert answered(engine, [(None, prompt)]) == seen[:1]  # the base is as it was


def test_thirty_two_of_all_kinds_in_one_batch(engine, folders, references):
    adapters = {name: engine.engine.read_adapter(folder) for name, folder in folders.items()}
    dice = random.Random(2)
    names = [dice.choice([None, *adapters]) for _ in range(32)]
    asked = prompts([dice.randrange(1, 70) for _ in names], seed=3)
    found = answered(
        engine, [(adapters.get(name), each) for name, each in zip(names, asked, strict=True)]
    )
    for name, prompt, tokens in zip(names, asked, found, strict=True):
        assert tokens == expected(references, name, prompt), name


def test_the_same_prompt_of_two_adapters_and_the_base_one_after_another(
    engine, folders, references
):
    """Nothing that is kept of a prompt may be shared between those who read it differently."""
    [prompt] = prompts([90], seed=4)
    for name in ("all", None, "attention", "all", None):
        adapter = engine.engine.read_adapter(folders[name]) if name else None
        assert answered(engine, [(adapter, prompt)]) == [expected(references, name, prompt)]


def test_equal_adapters_have_equal_digests(engine, folders, base, tmp_path):
    read = engine.engine.read_adapter
    assert read(folders["all"]).digest == read(folders["all"]).digest
    digests = {read(folder).digest for folder in folders.values()}
    assert len(digests) == len(folders)
    scaled = make_adapter(tmp_path / "scaled", base, seed=0, lora_alpha=9)
    assert load_file(scaled / "adapter_model.safetensors").keys()
    assert read(scaled).digest not in digests


def with_config(folder, source, **changes):
    folder.mkdir()
    config = json.loads((source / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    weights = (source / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"peft_type": "LOHA"}, "only LORA"),
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "merge it into its base"),
        ({"bias": "all"}, "biases"),
        ({"init_lora_weights": "pissa_niter_4"}, "path_initial_model"),
        ({"lora_bias": True}, "lora_bias"),
        ({"something_new": {"a": 1}}, "something_new"),
        ({"r": 5}, "rank 4"),
        ({"r": 0}, "no positive number"),
        ({"rank_pattern": {"(a+)+q_proj": 4}}, "no module's name"),
    ],
)
def test_what_cannot_be_followed_is_refused(engine, folders, tmp_path, changes, reason):
    folder = with_config(tmp_path / "other", folders["all"], **changes)
    with pytest.raises(ApiError) as caught:
        engine.engine.read_adapter(folder)
    assert (caught.value.status, caught.value.param) == (400, "lora_path")
    assert reason in caught.value.message


def test_weights_that_do_not_fit_are_refused(engine, folders, tmp_path, tmp_path_factory):
    source = folders["all"]
    tensors = load_file(source / "adapter_model.safetensors")
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"

    def refused(changed, reason):
        folder = with_config(tmp_path_factory.mktemp("bad") / "a", source)
        save_file(changed, folder / "adapter_model.safetensors")
        with pytest.raises(ApiError) as caught:
            engine.engine.read_adapter(folder)
        assert reason in caught.value.message

    refused({key: each for key, each in tensors.items() if key != name}, "only one of")
    refused(tensors | {name: tensors[name].clone().fill_(float("nan"))}, "finite")
    refused(tensors | {name: torch.zeros(4, 7)}, "that it was trained on")
    refused({"base_model.model.lm_head.lora_A.weight": torch.zeros(4, 64)}, "lm_head")
    refused({key.replace("layers.2", "layers.9"): each for key, each in tensors.items()}, "layer 9")
    bigger = make_model(tmp_path / "bigger", hidden_size=96)
    with pytest.raises(ApiError, match="base that it was trained on"):
        engine.engine.read_adapter(make_adapter(tmp_path / "foreign", bigger))
    broken = with_config(tmp_path / "broken", source)
    (broken / "adapter_model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(ApiError, match="cannot be read"):
        engine.engine.read_adapter(broken)
    (broken / "adapter_model.safetensors").unlink()
    with pytest.raises(ApiError) as caught:
        engine.engine.read_adapter(broken)
    assert caught.value.status == 404
