"""`python -m trainer.merge`: the merged files are the model that PEFT's own merge gives."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Phi3Config, Phi3ForCausalLM

from trainer.merge.__main__ import main
from trainer.merge.tensors import read_shard
from trainer.tests.make import make_base, make_tokenizer
from trainer.tests.make_adapters import LAYERS, make_adapter, sharded

IDS = torch.arange(3, 43)[None]


def merge(base: Path, adapter: Path, into: Path, capsys: Any, **changes: Any) -> dict[str, Any]:
    """Run both steps here; answers with the last line of the first."""
    known = {
        f"{of}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for of, folder in (("base", base), ("adapter", adapter))
        for path in folder.glob("*.safetensors")
    }
    spec = {
        "step": "weights",
        "base": str(base),
        "adapter": str(adapter),
        "into": str(into),
        "card": "# merged\n",
        "sha256": known,
    }
    path = into.with_name("spec.json")
    path.write_text(json.dumps(spec | changes))
    main([str(path)])
    last: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return last


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS).logits.float()
    return found


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.up_proj": 32}},
        {"target_modules": ["v_proj"]},
    ],
    ids=["lora", "rslora", "dora", "patterns", "one"],
)
def test_the_merged_files_are_what_peft_merges(
    base: Path, tmp_path: Path, capsys: Any, config: dict[str, Any]
) -> None:
    source = sharded(base, tmp_path / "base")
    adapted = make_adapter(tmp_path / "adapter", source, **config)
    apart = logits(adapted)
    told = merge(source, tmp_path / "adapter", tmp_path / "merged", capsys)
    assert told["kind"] == "done", told
    assert told["changed"] == 2 * len(config.get("target_modules", LAYERS))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    theirs = adapted.merge_and_unload()
    for name, weight in theirs.state_dict().items():
        torch.testing.assert_close(merged.state_dict()[name], weight, atol=2e-6, rtol=2e-6)
    assert (logits(merged) - apart).abs().max() < 1e-4
    assert (logits(merged) - logits(AutoModelForCausalLM.from_pretrained(base))).abs().max() > 0.01
    assert {path.name for path in source.glob("*.safetensors")} == {
        path.name for path in (tmp_path / "merged").glob("*.safetensors")
    }
    assert (tmp_path / "merged" / "README.md").read_text() == "# merged\n"
    AutoTokenizer.from_pretrained(tmp_path / "merged")


@pytest.mark.parametrize("config", [{}, {"use_rslora": True}, {"use_dora": True}])
def test_bfloat16_is_rounded_once(
    base: Path, tmp_path: Path, capsys: Any, config: dict[str, Any]
) -> None:
    """Nearer to the exact sum than PEFT's own merge, and never further than half a step away."""
    source = sharded(base, tmp_path / "base", dtype=torch.bfloat16)
    make_adapter(tmp_path / "adapter", source, **config)
    assert merge(source, tmp_path / "adapter", tmp_path / "merged", capsys)["kind"] == "done"
    exact = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32), tmp_path / "adapter"
    ).merge_and_unload()
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.dtype == torch.bfloat16
    for name, weight in exact.state_dict().items():
        torch.testing.assert_close(
            merged.state_dict()[name], weight.to(torch.bfloat16), atol=1e-6, rtol=2**-7
        )
        found = merged.state_dict()[name].float()
        assert ((found - weight).abs() <= weight.abs() * 2**-8 + 1e-6).all(), name


@pytest.mark.parametrize(
    ("tied", "config"),
    [
        (False, {"modules_to_save": ["lm_head"]}),
        (False, {"target_modules": ["q_proj", "lm_head", "embed_tokens"]}),
        (True, {"modules_to_save": ["lm_head"]}),
        (True, {"modules_to_save": ["embed_tokens"]}),
        (True, {"target_modules": ["q_proj", "embed_tokens"]}),
        (True, {"target_modules": ["q_proj", "lm_head"]}),
    ],
)
def test_embeddings_and_heads(
    base: Path, tmp_path: Path, capsys: Any, tied: bool, config: dict[str, Any]
) -> None:
    """As trained: what the adapter has of one of two that were tied leaves the other as it was."""
    source = tmp_path / "base"
    model = AutoModelForCausalLM.from_pretrained(base)
    if not tied:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(1.1 * model.lm_head.weight.detach().clone())
    model.save_pretrained(source)
    make_tokenizer().save_pretrained(source)
    adapted = make_adapter(tmp_path / "adapter", source, **config)
    apart = logits(adapted)
    told = merge(source, tmp_path / "adapter", tmp_path / "merged", capsys)
    assert told["kind"] == "done", told
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert (logits(merged) - apart).abs().max() < 1e-4
    assert merged.config.tie_word_embeddings is False
    assert "lm_head.weight" in load_file(tmp_path / "merged" / "model.safetensors")


def test_both_saved_and_equal_stay_tied(base: Path, tmp_path: Path, capsys: Any) -> None:
    make_adapter(tmp_path / "adapter", base, modules_to_save=["embed_tokens"])
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    saved = weights["base_model.model.model.embed_tokens.weight"]
    save_file(
        weights | {"base_model.model.lm_head.weight": saved.clone()},
        tmp_path / "adapter" / "adapter_model.safetensors",
    )
    assert merge(base, tmp_path / "adapter", tmp_path / "merged", capsys)["kind"] == "done"
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.config.tie_word_embeddings is True
    torch.testing.assert_close(merged.lm_head.weight.data, saved)
    assert "lm_head.weight" not in load_file(tmp_path / "merged" / "model.safetensors")


def make_joined(folder: Path) -> Path:
    torch.manual_seed(5)
    config = Phi3Config(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        pad_token_id=0,
        eos_token_id=2,
        bos_token_id=None,
    )
    Phi3ForCausalLM(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("use_dora", [False, True])
def test_joined_projections(tmp_path: Path, capsys: Any, use_dora: bool) -> None:
    source = make_joined(tmp_path / "base")
    adapted = make_adapter(
        tmp_path / "adapter",
        source,
        target_modules=["qkv_proj", "gate_up_proj"],
        use_dora=use_dora,
    )
    apart = logits(adapted)
    assert merge(source, tmp_path / "adapter", tmp_path / "merged", capsys)["kind"] == "done"
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert (logits(merged) - apart).abs().max() < 1e-4


SIZES = {"qkv_proj": {"q_proj": 32, "k_proj": 16, "v_proj": 16}}
SIZES["gate_up_proj"] = {"gate_proj": 48, "up_proj": 48}


def split(tensors: dict[str, torch.Tensor], *, at: int) -> dict[str, torch.Tensor]:
    """The joined ones as their parts; of names, the part of the layer comes `at` from the end."""
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        words = name.split(".")
        sizes = SIZES.get(words[at])
        if sizes is None or "lora_A" in name:
            found |= {
                ".".join([*words[:at], part, *words[at + 1 :]]): tensor.clone()
                for part in sizes or [words[at]]
            }
            continue
        for part, rows in zip(sizes, tensor.split(list(sizes.values())), strict=True):
            found[".".join([*words[:at], part, *words[at + 1 :]])] = rows.clone()
    return found


@pytest.mark.parametrize("is_joined", ["adapter", "base"])
def test_one_of_two_is_joined(tmp_path: Path, capsys: Any, is_joined: str) -> None:
    """Rows of a joined projection are those of its parts in order, whichever side has joined them."""
    base, folder = make_joined(tmp_path / "base"), tmp_path / "adapter"
    make_adapter(folder, base, target_modules=list(SIZES), use_dora=is_joined == "adapter")
    merge(base, folder, tmp_path / "expected", capsys)
    if is_joined == "adapter":
        path, at = base / "model.safetensors", -2
    else:
        path, at = folder / "adapter_model.safetensors", -3
    save_file(split(load_file(path), at=at), path)
    assert merge(base, folder, tmp_path / "merged", capsys)["kind"] == "done"
    expected = load_file(tmp_path / "expected" / "model.safetensors")
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    if is_joined == "adapter":
        expected = split(expected, at=-2)
    assert merged.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(merged[name], weight, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "IA3"}, "not LORA"),
        ({"bias": "all"}, "biases"),
        ({"lora_bias": True}, "lora_bias"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"init_lora_weights": "pissa"}, "changed the base"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "target_parameters"),
        ({"layer_replication": [[0, 1]]}, "layer_replication"),
        ({"a_field_of_tomorrow": 1}, "a_field_of_tomorrow"),
        ({"use_dora": True}, "use_dora does not fit"),
        ({"r": 8}, "has rank 4"),
        ({"lora_alpha": -1}, "no positive number"),
        ({"alpha_pattern": {"(a+)+$": 4}}, "no module's name"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save names lm_head"),
    ],
)
def test_what_is_not_understood_is_refused(
    base: Path, tmp_path: Path, capsys: Any, changes: dict[str, Any], said: str
) -> None:
    folder = tmp_path / "adapter"
    make_adapter(folder, base)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | changes))
    told = merge(base, folder, tmp_path / "merged", capsys)
    assert told["kind"] == "refused"
    assert said in told["message"]
    assert told["remedy"]
    assert not list((tmp_path / "merged").glob("*.safetensors"))


def test_an_adapter_of_another_base_is_refused(base: Path, tmp_path: Path, capsys: Any) -> None:
    make_adapter(tmp_path / "adapter", make_base(tmp_path / "wide", hidden_size=64))
    told = merge(base, tmp_path / "adapter", tmp_path / "merged", capsys)
    assert told["kind"] == "refused"
    assert "does not fit its base" in told["message"]


def test_a_damaged_file_is_not_merged(base: Path, tmp_path: Path, capsys: Any) -> None:
    make_adapter(tmp_path / "adapter", base)
    known = {"adapter/adapter_model.safetensors": "0" * 64}
    told = merge(base, tmp_path / "adapter", tmp_path / "merged", capsys, sha256=known)
    assert (told["kind"], "hash" in told["message"]) == ("refused", True)


def test_a_diverged_adapter_is_refused(base: Path, tmp_path: Path, capsys: Any) -> None:
    make_adapter(tmp_path / "adapter", base)
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(path)
    weights[next(iter(weights))][0, 0] = float("nan")
    save_file(weights, path)
    told = merge(base, tmp_path / "adapter", tmp_path / "merged", capsys)
    assert (told["kind"], "no finite" in told["message"]) == ("refused", True)


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """600 MB of weights are merged in far less memory than that, torch itself included."""
    base, folder = tmp_path / "base", tmp_path / "adapter"
    base.mkdir()
    folder.mkdir()
    make_tokenizer().save_pretrained(base)
    (base / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    stem = "model.layers.0.mlp"
    weight = torch.zeros(15_000, 10_000, dtype=torch.bfloat16)
    for part in ("up_proj", "down_proj"):
        save_file({f"{stem}.{part}.weight": weight}, base / f"{part}.safetensors")
    del weight
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 4}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    halves = {"lora_A": torch.ones(4, 10_000), "lora_B": torch.ones(15_000, 4)}
    save_file(
        {
            f"base_model.model.{stem}.{part}.{half}.weight": value.clone()
            for part in ("up_proj", "down_proj")
            for half, value in halves.items()
        },
        folder / "adapter_model.safetensors",
    )
    known = {}
    for of, where in (("base", base), ("adapter", folder)):
        for path in where.glob("*.safetensors"):
            with path.open("rb") as file:
                known[f"{of}/{path.name}"] = hashlib.file_digest(file, "sha256").hexdigest()
    spec = {"step": "weights", "base": str(base), "adapter": str(folder), "card": ""}
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec | {"into": str(tmp_path / "merged"), "sha256": known}))
    done = subprocess.run(
        [sys.executable, "-m", "trainer.merge", str(path)],
        capture_output=True,
        check=True,
        timeout=120,
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["changed"] == 2
    if told["peak_bytes"] is not None:
        assert told["peak_bytes"] < 500e6, told["peak_bytes"]
    merged = read_shard(tmp_path / "merged" / "up_proj.safetensors").tensors[
        f"{stem}.up_proj.weight"
    ]
    assert merged.read(14_999, 15_000).unique().tolist() == [4.0]
