import io
import json
from pathlib import Path

import pytest

from accounts.models import AuditEvent
from accounts.tests.make import NOW, make_organization
from common.errors import InvalidInput, NotFound
from models_registry import services as registry
from models_registry import storage
from models_registry.models import Blob, Revision
from models_registry.tests.make import make_model_folder
from training import services
from training.models import DatasetSplit, DatasetVersion
from training.tests.make import chat_lines, make_version, write_tokenizer

pytestmark = pytest.mark.django_db


def publish_with_tokenizer(tmp_path: Path, template: str | None = None) -> Revision:
    folder = make_model_folder(tmp_path / "base")
    write_tokenizer(folder)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return registry.publish_folder(
        organization=make_organization(),
        name="base",
        folder=folder,
        kind="base",
        source_kind="folder",
        now=NOW,
    )


def test_a_good_upload_becomes_a_version_with_its_files() -> None:
    version = make_version()
    assert version.number == 1
    assert version.report["is_valid"] is True
    assert version.report["tokenizer"] is None
    train = DatasetSplit.objects.get(version=version, name="train")
    assert (train.examples, train.token_count) == (8, None)
    with storage.open_blob(train.blob_id) as file:
        assert file.read() == chat_lines(8)
    assert AuditEvent.objects.filter(action="dataset.upload").count() == 1


def test_a_bad_upload_is_refused_whole_with_its_report_and_stores_nothing() -> None:
    retail = make_organization()
    dataset = services.create_dataset(organization=retail, name="tickets", now=NOW)
    bad = chat_lines(2) + b"{\n" + chat_lines(1) + b'{"messages": []}\n'
    with pytest.raises(services.DatasetInvalid) as refused:
        services.upload_version(
            organization=retail,
            dataset_id=dataset.pk,
            files={"heldout": io.BytesIO(chat_lines(1)), "train": io.BytesIO(bad)},
            now=NOW,
        )
    body = refused.value.as_body()["error"]
    assert refused.value.status_code == 422
    assert (body["code"], body["field"]) == ("dataset_invalid", "files.train")
    assert "line 3" in body["message"]
    assert [(e["split"], e["line"]) for e in body["details"]["errors"]] == [
        ("train", 3),
        ("train", 5),
    ]
    assert not DatasetVersion.objects.exists()
    assert not Blob.objects.exists()


def test_the_same_files_again_are_the_same_version_and_others_the_next() -> None:
    version = make_version()
    retail = make_organization()

    def upload(train: bytes) -> DatasetVersion:
        return services.upload_version(
            organization=retail,
            dataset_id=version.dataset_id,
            files={"train": io.BytesIO(train), "heldout": io.BytesIO(chat_lines(4, start=100))},
            now=NOW,
        )

    assert upload(chat_lines(8)) == version
    assert upload(chat_lines(9)).number == 2


def test_paths_are_read_as_well_as_files(tmp_path: Path) -> None:
    retail = make_organization()
    dataset = services.create_dataset(organization=retail, name="tickets", now=NOW)
    path = tmp_path / "train.jsonl"
    path.write_bytes(chat_lines(3))
    version = services.upload_version(
        organization=retail, dataset_id=dataset.pk, files={"train": path}, now=NOW
    )
    assert DatasetSplit.objects.get(version=version).examples == 3


def test_tokens_are_counted_with_the_models_own_template(tmp_path: Path) -> None:
    version = make_version(
        files={"train": chat_lines(3)}, tokenizer_revision=publish_with_tokenizer(tmp_path)
    )
    split = DatasetSplit.objects.get(version=version)
    # three messages of two special tokens, a role and their words: 3, 4 and 4 of them
    assert (split.token_count, split.longest_tokens) == (3 * (9 + 11), 20)
    assert version.report["splits"]["train"]["histogram"] == [[32, 3]]
    assert "chat template" in version.report["tokenizer"]["method"]


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('no system here') }}",
        "{{ raise_exception('\\0' ~ 'x' * 10000000) }}",
        "{% for",
        "{{ messages.__class__.__mro__ }}{{ ().__class__.__bases__[0].__subclasses__()[0] }}",
    ],
)
def test_a_template_that_fails_leaves_the_dataset_without_counts(
    tmp_path: Path, template: str
) -> None:
    revision = publish_with_tokenizer(tmp_path, template)
    version = make_version(tokenizer_revision=revision)
    assert 0 < len(version.report["tokenizer"]["error"]) < 400
    assert DatasetSplit.objects.filter(version=version, token_count=None).count() == 2


def test_another_organization_cannot_upload_into_it() -> None:
    version = make_version()
    with pytest.raises(NotFound):
        services.upload_version(
            organization=make_organization("bank"),
            dataset_id=version.dataset_id,
            files={"train": io.BytesIO(chat_lines(1))},
            now=NOW,
        )


def test_names_are_checked_and_taken_once() -> None:
    retail = make_organization()
    services.create_dataset(organization=retail, name="tickets", now=NOW)
    with pytest.raises(services.DatasetNameTaken):
        services.create_dataset(organization=retail, name="tickets", now=NOW)
    with pytest.raises(InvalidInput) as refused:
        services.create_dataset(organization=retail, name="../x", now=NOW)
    assert refused.value.field == "name"


@pytest.mark.parametrize("files", [{}, {"Train!": b"x"}])
def test_odd_splits_are_refused(files: dict[str, bytes]) -> None:
    retail = make_organization()
    dataset = services.create_dataset(organization=retail, name="tickets", now=NOW)
    with pytest.raises(InvalidInput) as refused:
        services.upload_version(
            organization=retail,
            dataset_id=dataset.pk,
            files={name: io.BytesIO(data) for name, data in files.items()},
            now=NOW,
        )
    assert refused.value.field == "files"


def test_an_upload_past_the_limit_is_refused(settings) -> None:
    settings.FACTORY_MAX_UPLOAD_BYTES = 100
    with pytest.raises(InvalidInput) as refused:
        make_version(files={"train": chat_lines(5)})
    assert refused.value.field == "files"
    assert json.dumps(refused.value.as_body())
