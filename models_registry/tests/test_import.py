import json
import struct
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from accounts.tests.make import NOW, make_organization
from common.errors import InvalidInput
from models_registry import reconcile, services, storage
from models_registry.choices import ImportStatus, SourceKind
from models_registry.models import Revision, RevisionImport
from models_registry.tests.hub_server import REPOSITORY, running_hub
from models_registry.tests.make import make_model_folder, write_safetensors

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _places(tmp_path: Path, settings) -> None:
    settings.FACTORY_STORAGE = str(tmp_path / "storage")
    settings.FACTORY_DATA = tmp_path / "data"
    settings.FACTORY_IMPORT_FOLDERS = [str(tmp_path / "open")]


def make_import(source_kind: str, source: str = REPOSITORY, **options) -> RevisionImport:
    return services.request_import(
        organization=make_organization(),
        name="tiny",
        source_kind=source_kind,
        source=source,
        now=NOW,
        **options,
    )


@pytest.mark.parametrize("kind", [SourceKind.HUGGING_FACE, SourceKind.MODELSCOPE])
def test_a_hubs_files_arrive_and_those_that_may_hold_code_stay(
    kind: str, tmp_path: Path, settings
) -> None:
    folder = make_model_folder(tmp_path / "hub")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling_tiny.py").write_text("import os")
    with running_hub(folder) as hub:
        settings.HUGGING_FACE_ENDPOINT = settings.MODELSCOPE_ENDPOINT = hub.url
        wanted = make_import(kind)
        assert reconcile.run_import(wanted.pk, now=NOW)
        assert "pytorch_model.bin" not in hub.fetched
    wanted.refresh_from_db()
    assert (wanted.status, wanted.message) == (ImportStatus.SUCCEEDED, "")
    assert wanted.done_bytes == wanted.total_bytes == wanted.revision.size_bytes > 0
    paths = {a.path: a.blob.size_bytes for a in wanted.revision.artifacts.all()}
    assert set(paths) == {"config.json", "model.safetensors", "tokenizer.json"}
    assert wanted.revision.parameter_count == 128
    assert not (tmp_path / "data" / "imports" / str(wanted.pk)).exists()


def test_a_broken_line_does_not_spoil_the_weights(tmp_path: Path, settings) -> None:
    folder = make_model_folder(tmp_path / "hub")
    write_safetensors(folder / "model.safetensors", {"embed": [1024, 512]})
    with running_hub(folder, cut_after=700_000) as hub:
        settings.HUGGING_FACE_ENDPOINT = hub.url
        wanted = make_import(SourceKind.HUGGING_FACE)
        reconcile.run_import(wanted.pk, now=NOW)
        assert hub.fetched.count("model.safetensors") == 2
    wanted.refresh_from_db()
    assert wanted.status == ImportStatus.SUCCEEDED
    assert wanted.revision.parameter_count == 1024 * 512


def test_a_worker_that_died_is_followed_by_another(tmp_path: Path, settings) -> None:
    folder = make_model_folder(tmp_path / "hub")
    with running_hub(folder) as hub:
        settings.HUGGING_FACE_ENDPOINT = hub.url
        wanted = make_import(SourceKind.HUGGING_FACE)
        RevisionImport.objects.filter(pk=wanted.pk).update(
            status=ImportStatus.RUNNING,
            lease_token="00000000-0000-4000-8000-000000000000",
            leased_until=NOW + timedelta(seconds=20),
        )
        assert not reconcile.run_import(wanted.pk, now=NOW)
        assert reconcile.list_due(now=NOW) == []
        later = NOW + timedelta(seconds=21)
        assert reconcile.list_due(now=later) == [wanted.pk]
        assert reconcile.run_import(wanted.pk, now=later)
    wanted.refresh_from_db()
    assert wanted.status == ImportStatus.SUCCEEDED


@pytest.mark.parametrize("kind", [SourceKind.HUGGING_FACE, SourceKind.MODELSCOPE])
def test_an_unknown_repository_fails_with_what_to_do(kind: str, tmp_path: Path, settings) -> None:
    with running_hub(make_model_folder(tmp_path / "hub")) as hub:
        settings.HUGGING_FACE_ENDPOINT = settings.MODELSCOPE_ENDPOINT = hub.url
        wanted = make_import(kind, "acme/unknown")
        reconcile.run_import(wanted.pk, now=NOW)
    wanted.refresh_from_db()
    assert (wanted.status, wanted.status_reason) == (ImportStatus.FAILED, "source_unavailable")
    assert "acme/unknown" in wanted.message
    assert "Check the name" in wanted.message


def test_only_folders_that_are_open_can_be_asked_for(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "closed")
    with pytest.raises(InvalidInput) as refused:
        make_import(SourceKind.FOLDER, str(folder))
    assert refused.value.field == "source"
    with pytest.raises(InvalidInput):
        make_import(SourceKind.FOLDER, str(tmp_path / "open" / ".." / "closed"))
    make_import(SourceKind.FOLDER, str(make_model_folder(tmp_path / "open" / "m")))


def test_the_command_imports_a_folder_and_says_what_is_wrong_with_another(tmp_path: Path) -> None:
    make_organization()
    folder = make_model_folder(tmp_path / "mine")
    call_command("import_model", str(folder), organization="retail", name="mine")
    assert Revision.objects.get().registered_model.name == "mine"
    (folder / "weights.pkl").write_bytes(b"x")
    with pytest.raises(CommandError, match="pickle"):
        call_command("import_model", str(folder), organization="retail", name="other")


@pytest.mark.parametrize(
    "config",
    [
        {"max_position_embeddings": "many", "num_hidden_layers": [1], "vocab_size": 2**40},
        {"architectures": 7, "model_type": "x" * 50},
        {"architectures": [], "text_config": "x", "quantization_config": "y"},
    ],
)
def test_a_config_of_odd_values_is_taken_without_them(config: dict, tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "open" / "odd", **config)
    (folder / "generation_config.json").write_text('{"temperature": NaN}')
    wanted = make_import(SourceKind.FOLDER, str(folder))
    reconcile.run_import(wanted.pk, now=NOW)
    wanted.refresh_from_db()
    assert wanted.status == ImportStatus.SUCCEEDED, wanted.message
    assert wanted.revision.facts["generation"] == {}


@pytest.mark.parametrize("entry", [{}, {"dtype": "F32"}, {"dtype": "F32", "shape": [2**40]}])
def test_a_header_without_types_or_shapes_is_broken(entry: dict, tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "open" / "m")
    header = json.dumps({"embed": entry | {"data_offsets": [0, 4]}}).encode()
    weights = struct.pack("<Q", len(header)) + header + bytes(4)
    (folder / "model.safetensors").write_bytes(weights)
    wanted = make_import(SourceKind.FOLDER, str(folder))
    reconcile.run_import(wanted.pk, now=NOW)
    wanted.refresh_from_db()
    assert (wanted.status, wanted.status_reason) == (ImportStatus.FAILED, "incomplete_model")


def test_an_adapter_alone_is_refused(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "open" / "m")
    (folder / "config.json").rename(folder / "adapter_config.json")
    wanted = make_import(SourceKind.FOLDER, str(folder))
    reconcile.run_import(wanted.pk, now=NOW)
    wanted.refresh_from_db()
    assert wanted.status == ImportStatus.FAILED
    assert "Merge it" in wanted.message


@pytest.mark.parametrize("kind", [SourceKind.HUGGING_FACE, SourceKind.MODELSCOPE])
def test_a_hub_that_cannot_be_reached_is_a_reason(kind: str, settings) -> None:
    settings.HUGGING_FACE_ENDPOINT = settings.MODELSCOPE_ENDPOINT = "http://127.0.0.1:9"
    wanted = make_import(kind, f"acme/{'m' * 250}")
    reconcile.run_import(wanted.pk, now=NOW)
    wanted.refresh_from_db()
    assert (wanted.status, wanted.status_reason) == (ImportStatus.FAILED, "source_unavailable")


def test_the_import_of_a_worker_killed_while_it_hashed_waits_for_no_more_than_its_lease(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(**_: object) -> None:
        raise Killed

    monkeypatch.setattr(services, "publish_folder", die)
    wanted = make_import(SourceKind.FOLDER, str(make_model_folder(tmp_path / "open" / "m")))
    with pytest.raises(Killed):
        reconcile.run_import(wanted.pk, now=NOW)
    later = NOW + timedelta(seconds=reconcile.LEASE_SECONDS + 1)
    assert reconcile.list_due(now=later) == [wanted.pk]


def test_what_is_stored_again_mends_a_damaged_blob(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"whole")
    blob = storage.put_file(tmp_path / "file", now=NOW)
    storage.blob_path(blob.sha256).unlink()
    storage.blob_path(blob.sha256).write_bytes(b"damaged")
    assert storage.put_file(tmp_path / "file", now=NOW) == blob
    with storage.open_blob(blob.sha256) as file:
        assert file.read() == b"whole"


@pytest.mark.parametrize("kind", [SourceKind.HUGGING_FACE, SourceKind.MODELSCOPE])
def test_what_would_fill_the_disk_is_not_fetched(
    kind: str, tmp_path: Path, settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "free_bytes", lambda: 100)
    with running_hub(make_model_folder(tmp_path / "hub")) as hub:
        settings.HUGGING_FACE_ENDPOINT = settings.MODELSCOPE_ENDPOINT = hub.url
        wanted = make_import(kind)
        reconcile.run_import(wanted.pk, now=NOW)
        assert "model.safetensors" not in hub.fetched
    wanted.refresh_from_db()
    assert (wanted.status, wanted.status_reason) == (ImportStatus.FAILED, "no_room")


def test_a_failed_import_leaves_no_files(tmp_path: Path, settings) -> None:
    folder = make_model_folder(tmp_path / "hub")
    (folder / "config.json").unlink()
    with running_hub(folder) as hub:
        settings.HUGGING_FACE_ENDPOINT = hub.url
        wanted = make_import(SourceKind.HUGGING_FACE)
        reconcile.run_import(wanted.pk, now=NOW)
    wanted.refresh_from_db()
    assert wanted.status == ImportStatus.FAILED
    assert not (settings.FACTORY_DATA / "imports" / str(wanted.pk)).exists()


def test_the_platforms_hub_token_goes_out_for_operators_alone(tmp_path: Path, settings) -> None:
    settings.HUGGING_FACE_TOKEN = "hf_of_the_platform"
    with running_hub(make_model_folder(tmp_path / "hub")) as hub:
        settings.HUGGING_FACE_ENDPOINT = hub.url
        reconcile.run_import(make_import(SourceKind.HUGGING_FACE).pk, now=NOW)
        assert hub.tokens == {""}
        wanted = make_import(SourceKind.HUGGING_FACE, may_use_hub_token=True)
        reconcile.run_import(wanted.pk, now=NOW)
        assert "Bearer hf_of_the_platform" in hub.tokens


def test_private_weights_do_not_go_under_a_name_that_all_may_read(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "open" / "m")
    shared = make_import(SourceKind.FOLDER, str(folder), visibility="shared")
    reconcile.run_import(shared.pk, now=NOW)
    with pytest.raises(InvalidInput, match="is shared; this would be private") as refused:
        make_import(SourceKind.FOLDER, str(folder))
    assert refused.value.field == "name"
