"""Uploads with formats, plans and kinds; large ones, checked by a worker in a process of its own."""

import io
import json
from datetime import timedelta
from pathlib import Path

import pytest
from rest_framework.test import APIClient

from accounts.choices import Scope
from accounts.tests.make import NOW, make_key, make_organization
from chips.models import PriceEntry
from common.errors import InvalidInput
from models_registry import storage
from models_registry.tests.make import make_revision
from trainer.spec import Hyperparameters
from training import estimates, preparing, services
from training.lines import read_lines
from training.models import Dataset, DatasetVersion, Evaluation, TrainingRun
from training.services import dataset_versions
from training.tests.make import chat_lines, make_run, make_version
from training.tests.test_datasets import publish_with_tokenizer

pytestmark = pytest.mark.django_db
V1 = "/api/v1"


def make_dataset(name: str = "tickets") -> Dataset:
    return services.create_dataset(organization=make_organization(), name=name, now=NOW)


def upload(dataset: Dataset, files: dict[str, bytes], **settings: object) -> DatasetVersion:
    return services.upload_version(
        **{  # type: ignore[arg-type]
            "organization": dataset.organization,
            "dataset_id": dataset.pk,
            "files": {name: io.BytesIO(data) for name, data in files.items()},
            "now": NOW,
        }
        | settings
    )


def check(version: DatasetVersion) -> DatasetVersion:
    assert dataset_versions.check_version(version.pk, now=NOW + timedelta(minutes=1))
    version.refresh_from_db()
    return version


def test_a_table_becomes_splits_of_chats_and_its_source_is_kept() -> None:
    table = "q,a,who\n" + "".join(f"q {n},a {n},{n % 5}\n" for n in range(50))
    version = upload(
        make_dataset(),
        {"train": table.encode()},
        mapping={"prompt": "q", "completion": "a"},
        split_plan={"held_out": {"heldout": 0.2}, "seed": 3, "group_by": "who"},
        file_names={"train": "tickets.csv"},
    )
    assert (version.kind, version.format, version.status) == ("chat", "csv", "ready")
    assert {split.name: split.examples for split in version.splits.all()} == {
        "train": 40,
        "heldout": 10,
    }
    source = version.sources.get()
    assert (source.file_name, source.size_bytes) == ("tickets.csv", len(table))
    with storage.open_blob(source.blob_id) as file:
        assert file.read() == table.encode()
    again = upload(
        Dataset.objects.get(),
        {"train": table.encode()},
        mapping={"prompt": "q", "completion": "a"},
        split_plan={"held_out": {"heldout": 0.2}, "seed": 3, "group_by": "who"},
        file_names={"train": "tickets.csv"},
    )
    assert again == version


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"format": "xml"}, "format"),
        ({"kind": "images"}, "kind"),
        ({"kind": "preference"}, "kind"),
        ({"mapping": {"question": "q"}}, "mapping"),
        ({"mapping": {"prompt": 3}}, "mapping"),
        ({"split_plan": {"held_out": {}}}, "split_plan.held_out"),
    ],
)
def test_settings_that_do_not_fit_are_refused_by_name(given: dict, field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        upload(make_dataset(), {"train": chat_lines(3)}, **given)
    assert refused.value.field == field
    assert not DatasetVersion.objects.exists()


def test_a_large_upload_is_checked_by_a_worker_and_is_nothing_before(tmp_path: Path) -> None:
    dataset = make_dataset()
    model = publish_with_tokenizer(tmp_path)
    files = {"train": chat_lines(300), "heldout": chat_lines(3)}
    version = upload(dataset, files, at_once=False, tokenizer_revision=model)
    assert (version.status, version.splits.count()) == ("checking", 0)
    assert upload(dataset, files, at_once=False, tokenizer_revision=model) == version
    with pytest.raises(InvalidInput) as refused:
        services.create_training_run(
            organization=dataset.organization,
            name="early",
            base_revision_id=model.pk,
            dataset_version_id=version.pk,
            output_name="early",
            now=NOW,
        )
    assert (refused.value.field, refused.value.remedy) == (
        "dataset_version",
        "Wait until it is ready.",
    )
    assert dataset_versions.list_due(now=NOW) == [version.pk]
    check(version)
    assert (version.status, version.kind, version.format) == ("ready", "chat", "openai_chat")
    train = version.splits.get(name="train")
    assert train.examples == 300
    assert train.token_count is not None
    assert version.report["findings"]["leak"] == 3
    assert version.findings.filter(kind="leak").first().other_line == 1
    assert not dataset_versions.check_version(version.pk, now=NOW)
    small = upload(make_dataset("small"), files, tokenizer_revision=model)
    assert small.report == version.report  # the way it was checked makes no difference


def test_a_large_upload_with_bad_lines_is_refused_with_its_report() -> None:
    data = chat_lines(5) + b'{"messages": []}\n{\n'
    version = check(upload(make_dataset(), {"train": data}, at_once=False))
    assert (version.status, version.status_reason) == ("refused", "lines_invalid")
    assert "line 6" in version.message
    assert version.splits.count() == 0
    assert [(f.kind, f.line) for f in version.findings.all()] == [("error", 6), ("error", 7)]
    assert upload(version.dataset, {"train": chat_lines(5)}).number == 2


def test_a_check_that_dies_is_begun_again_and_given_up_at_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version = upload(make_dataset(), {"train": chat_lines(5)}, at_once=False)
    DatasetVersion.objects.update(attempts=dataset_versions.MAX_ATTEMPTS)
    check(version)
    assert (version.status, version.status_reason) == ("refused", "check_failed")
    other = upload(make_dataset("other"), {"train": chat_lines(5)}, at_once=False)
    monkeypatch.setattr(preparing, "SECONDS", 0.001)  # killed before it can say anything
    check(other)
    assert (other.status, other.status_reason) == ("refused", "check_failed")


def test_uploads_past_the_bound_wait_for_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.services.datasets.AT_ONCE_BYTES", 100)
    assert make_version().status == "checking"


def test_lines_are_read_from_anywhere() -> None:
    version = make_version(files={"train": chat_lines(300)})
    split = version.splits.get()
    raw = chat_lines(300).splitlines(keepends=True)
    split.line_index = [[1, 0], [101, len(b"".join(raw[:100]))]]
    for first, wanted in ((1, [1, 2]), (150, [150, 151]), (300, [300]), (301, [])):
        found = read_lines(split, first, 2)
        assert [line.number for line in found] == wanted
        assert [line.row for line in found] == [json.loads(raw[number - 1]) for number in wanted]


def test_what_evaluations_ask_is_looked_for_in_new_versions() -> None:
    asked = make_version()
    services.create_evaluation(
        organization=make_organization(),
        name="compare",
        dataset_version_id=asked.pk,
        split="heldout",
        model_names=["base"],
        now=NOW,
    )
    split = Evaluation.objects.get().split
    version = upload(make_dataset("next"), {"train": chat_lines(6, start=98)})
    assert version.report["compared_with"] == [
        {"split_id": str(split.pk), "name": str(split), "examples": 4}
    ]
    found = version.findings.filter(kind="evaluation_leak")
    assert [(f.line, f.other_split, f.other_line) for f in found] == [
        (n, str(split.pk), n - 2) for n in (3, 4, 5, 6)
    ]


def test_nothing_is_estimated_that_is_not_known(tmp_path: Path) -> None:
    run = make_run(tmp_path)

    def ask(**hyperparameters: object) -> estimates.Estimate:
        return estimates.estimate(
            organization=run.organization,
            version=run.dataset_version,
            base=run.base_revision,
            tuning="full",
            hyperparameters=Hyperparameters.from_json(hyperparameters),
            now=NOW,
        )

    first = ask(batch_size=4)
    assert (first.examples, first.steps, first.tokens) == (8, 6, None)
    assert (first.seconds, first.price, len(first.unknown)) == (None, None, 3)
    DatasetVersion.objects.update(
        report={
            "splits": {"train": {"kept": [[256, 800], [512, 900]], "over": [[256, 2], [512, 1]]}}
        }
    )
    run.dataset_version.splits.filter(name="train").update(token_count=1000, longest_tokens=700)
    TrainingRun.objects.update(status="succeeded", tokens_per_second=50)
    PriceEntry.objects.create(
        item="accelerator_hour", unit_price=36, currency="EUR", valid_from=NOW
    )
    PriceEntry.objects.create(
        item="training_tokens", unit_price=100, currency="EUR", valid_from=NOW
    )
    run.dataset_version.refresh_from_db()
    known = ask(batch_size=4, epochs=2, max_length_tokens=512)
    assert (known.steps, known.tokens, known.cut_examples, known.cut_share) == (4, 1800, 1, 1 / 8)
    assert (known.tokens_per_second, known.seconds) == (50, 36)
    assert (str(known.price), known.currency, known.unknown) == ("0.54", "EUR", [])
    assert ask(max_length_tokens=384, epochs=1).tokens == 850  # between what was measured


def test_the_api_takes_settings_and_tells_findings_lines_and_estimates(tmp_path: Path) -> None:
    client = APIClient()
    secret = make_key(make_organization(), (Scope.READ, Scope.WRITE))
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    path = f"{V1}/datasets/{make_dataset().pk}/versions/"
    file = io.BytesIO(b"q,a\n" + b"Where is ada@example.org?,here\n" * 2 + b"x,y\n")
    file.name = "t.csv"
    body = {
        "train": file,
        "mapping": json.dumps({"prompt": "q", "completion": "a"}),
        "kind": "chat",
        "split_plan": json.dumps({"held_out": {"heldout": 1}}),
    }
    made = client.post(path, body, format="multipart")
    assert made.status_code == 201, made.json()
    version = made.json()
    assert (version["kind"], version["format"], version["status"]) == ("chat", "csv", "ready")
    assert version["mapping"] == {"prompt": "q", "completion": "a"}
    assert [source["file_name"] for source in version["sources"]] == ["t.csv"]
    path = f"{V1}/dataset-versions/{version['id']}/"
    found = client.get(f"{path}findings/?kind=email").json()
    assert [(f["line"], f["severity"], f["excerpt"]) for f in found["results"]] == [
        (1, "info", "ad•••••••••••rg"),
        (2, "info", "ad•••••••••••rg"),
    ]
    assert client.get(f"{path}findings/").json()["count"] == 3
    lines = client.get(f"{path}lines/?line=2&count=5").json()["results"]
    assert [(line["number"], line["row"]["messages"][1]["content"]) for line in lines] == [
        (2, "here")
    ]
    assert client.get(f"{path}lines/?split=no").json()["error"]["field"] == "split"
    assert client.get(f"{path}lines/?line=x").json()["error"]["field"] == "line"
    base = make_revision(tmp_path)
    asked = {"base_revision": str(base.pk), "hyperparameters": {"batch_size": 1, "epochs": 1}}
    estimate = client.post(f"{path}estimate/", asked, format="json").json()
    assert (estimate["steps"], estimate["price"]) == (2, None)
    asked["hyperparameters"] = {"batch_size": 0}
    refused = client.post(f"{path}estimate/", asked, format="json").json()
    assert refused["error"]["field"] == "hyperparameters.batch_size"
    for name in ("mapping", "split_plan"):
        broken = client.post(
            f"{V1}/datasets/{version['dataset']}/versions/",
            {"train": io.BytesIO(b"x"), name: "{"},
            format="multipart",
        )
        assert broken.json()["error"]["field"] == name
