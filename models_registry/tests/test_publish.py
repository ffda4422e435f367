import os
from pathlib import Path

import pytest

from accounts.tests.make import NOW, make_organization
from common.errors import NotFound
from models_registry import cache, facts, promotion, storage
from models_registry.models import Blob, Revision
from models_registry.tests.make import make_model_folder, make_revision, write_safetensors
from planner import memory
from planner.shapes import ModelShape

pytestmark = pytest.mark.django_db
KINDS = (["linear_attention"] * 3 + ["full_attention"]) * 6


@pytest.fixture(autouse=True)
def _storage(tmp_path: Path, settings) -> None:
    settings.FACTORY_STORAGE = str(tmp_path / "storage")


def test_facts_come_from_the_files(tmp_path: Path) -> None:
    revision = make_revision(tmp_path)
    assert revision.architecture == "Qwen3ForCausalLM"
    assert revision.parameter_count == 128
    assert revision.dtype == "float32"
    assert revision.context_length_tokens == 512
    assert {a.path for a in revision.artifacts.all()} == {
        "config.json",
        "tokenizer.json",
        "model.safetensors",
    }


@pytest.mark.parametrize("which", [{"full_attention_interval": 4}, {"layer_types": KINDS}])
def test_layers_of_linear_attention_are_told_from_the_others(tmp_path: Path, which: dict) -> None:
    """Sizes of Qwen3.5-0.8B: 12,288 bytes of cache a token, 19.3 MiB of state a sequence."""
    text = {
        "num_hidden_layers": 24,
        "hidden_size": 1024,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "head_dim": 256,
        "vocab_size": 248320,
        "linear_num_value_heads": 16,
        "linear_num_key_heads": 16,
        "linear_value_head_dim": 128,
        "linear_key_head_dim": 128,
        "linear_conv_kernel_dim": 4,
    }
    revision = make_revision(tmp_path, config={"text_config": text | which})
    shape = ModelShape.from_facts(
        parameter_count=revision.parameter_count, dtype=revision.dtype, facts=revision.facts
    )
    assert shape is not None
    assert memory.kv_bytes_per_token(shape) == 12_288
    assert memory.linear_state_bytes(shape) / 2**20 == pytest.approx(19.3, abs=0.05)


def test_the_same_files_again_are_the_same_revision_and_other_files_the_next(
    tmp_path: Path,
) -> None:
    first = make_revision(tmp_path)
    assert make_revision(tmp_path).pk == first.pk
    second = make_revision(tmp_path, seed=1)
    assert (second.number, second.registered_model_id) == (2, first.registered_model_id)
    # config and tokenizer are the same bytes: one blob each for both revisions
    assert Blob.objects.count() == 4


def test_another_organization_sees_only_what_is_shared(tmp_path: Path) -> None:
    retail, bank = make_organization("retail"), make_organization("bank")
    private = make_revision(tmp_path, retail, name="own")
    shared = make_revision(tmp_path, retail, name="base", visibility="shared", seed=2)
    assert list(Revision.objects.of(bank)) == [shared]
    assert set(Revision.objects.of(retail)) == {private, shared}


@pytest.mark.parametrize(
    ("name", "content"),
    [("pytorch_model.bin", "x"), ("modeling.py", "x"), ("weights.pkl", "x"), ("run.sh", "x")],
)
def test_files_that_may_hold_code_are_refused(tmp_path: Path, name: str, content: str) -> None:
    folder = make_model_folder(tmp_path / "m")
    (folder / name).write_text(content)
    with pytest.raises(facts.UnsafeFiles) as refused:
        facts.list_files(folder)
    assert name in refused.value.message


def test_remote_code_is_refused(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "m", auto_map={"AutoModel": "x.Y"})
    with pytest.raises(facts.UnsafeFiles, match="auto_map"):
        facts.read_facts(folder, facts.list_files(folder))


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "m")
    (tmp_path / "secret.txt").write_text("x")
    (folder / "notes.txt").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(facts.UnsafeFiles):
        facts.list_files(folder)


def test_a_cut_off_weights_file_is_refused(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "m")
    os.truncate(folder / "model.safetensors", 200)
    with pytest.raises(facts.IncompleteModel):
        facts.read_facts(folder, facts.list_files(folder))


def test_materialized_files_are_the_stored_ones_and_damage_is_noticed(tmp_path: Path) -> None:
    revision = make_revision(tmp_path)
    folder = cache.materialize(revision, root=tmp_path / "cache")
    source = tmp_path / "tiny-0"
    for name in ("config.json", "model.safetensors"):
        assert (folder / name).read_bytes() == (source / name).read_bytes()
    assert cache.materialize(revision, root=tmp_path / "cache") == folder
    weights = revision.artifacts.get(path="model.safetensors").blob
    stored = storage.blob_path(weights.sha256)
    stored.chmod(0o600)
    stored.write_bytes(b"\0" * weights.size_bytes)
    with pytest.raises(storage.BlobDamaged):
        cache.materialize(revision, root=tmp_path / "elsewhere")
    assert not list((tmp_path / "elsewhere").rglob("model.safetensors"))


def test_an_alias_moves_only_within_its_own_model(tmp_path: Path) -> None:
    retail = make_organization()
    first, second = make_revision(tmp_path), make_revision(tmp_path, seed=1)
    other = make_revision(tmp_path, name="other", seed=3)
    for revision in (first, second):
        alias = promotion.move_alias(
            organization=retail,
            model_id=first.registered_model_id,
            alias="champion",
            revision_id=revision.pk,
            now=NOW,
        )
        assert alias.revision == revision
    with pytest.raises(NotFound):
        promotion.move_alias(
            organization=retail,
            model_id=first.registered_model_id,
            alias="champion",
            revision_id=other.pk,
            now=NOW,
        )


def test_git_sha1_is_gits_own(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("hello\n")
    # `printf 'hello\n' | git hash-object --stdin`
    assert storage.put_file(path, now=NOW).git_sha1 == "ce013625030ba8dba906f756967f9e9ca394464a"


def test_sharded_weights_are_added_up(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "m")
    write_safetensors(folder / "model-2.safetensors", {"lm_head": [16, 8], "norm": [8]})
    read = facts.read_facts(folder, facts.list_files(folder))
    assert (read.parameter_count, read.more["tensors"]) == (264, 3)
