"""Pages of datasets: columns before an upload, findings down to the words they mean, files of them."""

import csv
import io
import json
import time
from pathlib import Path
from uuid import UUID

import pyarrow
import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.urls import reverse
from pyarrow import parquet

from accounts.choices import Role
from accounts.models import Organization
from accounts.tests.make import NOW, make_member, make_organization
from training import services
from training.models import DatasetVersion, TokenCount, TrainingRun
from training.services import counting, dataset_versions
from training.tests.make import chat_lines, make_run, make_version
from training.tests.test_datasets import publish_with_tokenizer

pytestmark = pytest.mark.django_db

ODD = b"ticket,frage,antwort\n1,Where is it?,On the way\n2,When?,Tomorrow\n"


@pytest.fixture
def organization() -> Organization:
    return make_organization()


@pytest.fixture
def client(organization: Organization) -> Client:
    client = Client()
    client.force_login(make_member(organization, "ada", Role.DEVELOPER))
    return client


def page_of(name: str, version: DatasetVersion, query: str = "") -> str:
    return reverse(f"console:{name}", args=[version.pk]) + query


def line(text: str, answer: str = "Yes.") -> bytes:
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages}).encode() + b"\n"


def as_parquet() -> bytes:
    out = io.BytesIO()
    table = pyarrow.table({"frage": ["Where?"] * 9, "antwort": ["There."] * 9})
    parquet.write_table(table, out, compression="none")
    return out.getvalue()


def test_columns_are_shown_by_the_ends_of_a_file(client: Client) -> None:
    path = reverse("console:dataset_columns")
    asked = {"name": "odd.csv", "size": "900000", "head": SimpleUploadedFile("h", ODD)}
    page = client.post(path, asked).content.decode()
    assert page.count("<select") == 3
    assert "On the way" in page
    whole = as_parquet()
    ends = {
        "name": "odd.parquet",
        "size": str(len(whole)),
        "head": SimpleUploadedFile("h", whole[:20]),
        "tail": SimpleUploadedFile("t", whole[20:]),
    }
    assert client.post(path, ends).content.decode().count("<select") == 2
    chat = {"name": "a.jsonl", "size": "9", "head": SimpleUploadedFile("h", chat_lines(1))}
    assert "openai_chat" in client.post(path, chat).content.decode()
    assert client.post(path, {}).status_code == 400


def test_columns_are_chosen_from_those_found(client: Client) -> None:
    path = reverse("console:dataset_upload")
    file = {"name": "odd", "train": SimpleUploadedFile("odd.csv", ODD)}
    refused = client.post(path, file)
    assert refused.status_code == 422
    assert "columns" in refused.context["form"].errors
    assert refused.content.decode().count('name="column_as"') == 3

    def again(*uses: str) -> dict[str, object]:
        columns = {"column": ["ticket", "frage", "antwort"], "column_as": list(uses)}
        return {"name": "odd", "train": SimpleUploadedFile("odd.csv", ODD), **columns}

    twice = client.post(path, again("prompt", "prompt", "completion"))
    assert "Two columns are used as prompt" in str(twice.context["form"].errors)
    assert client.post(path, again("", "prompt", "completion")).status_code == 302
    version = DatasetVersion.objects.get()
    assert version.mapping == {"prompt": "frage", "completion": "antwort"}


def test_a_column_without_a_first_value_is_a_column(client: Client) -> None:
    sparse = b"prompt,system,completion\nHi,,Hello\nHi there,Be kind,Hello you\n"
    data = {
        "name": "sparse",
        "train": SimpleUploadedFile("sparse.csv", sparse),
        "column": ["prompt", "system", "completion"],
        "column_as": ["prompt", "system", "completion"],
    }
    assert client.post(reverse("console:dataset_upload"), data).status_code == 302
    assert DatasetVersion.objects.get().splits.get().examples == 2


def test_a_finding_is_marked_in_its_line_and_listed_in_a_file(
    client: Client, organization: Organization
) -> None:
    secret = "sk-proj-" + "abcDEF123456" * 3
    files = {"train": line("Where?") + line(f"The key is {secret} and \x07 rings") + line("Where?")}
    version = make_version(organization, files=files)
    page = client.get(page_of("dataset_version_lines", version, "?split=train&line=2"))
    text = page.content.decode()
    assert f"<mark>{secret}</mark>" in text
    assert "<mark>U+0007</mark>" in text
    assert "Revoke and replace them" in text
    answer = client.get(page_of("dataset_version_findings_csv", version))
    rows = list(csv.DictReader(io.StringIO(answer.getvalue().decode("utf-8-sig"))))
    assert {(row["kind"], row["line"]) for row in rows} >= {
        ("secret", "2"),
        ("control_characters", "2"),
        ("duplicate", "3"),
    }
    assert all(row["remedy"] for row in rows)
    one = client.get(page_of("dataset_version_findings_csv", version, "?kind=secret"))
    assert one.getvalue().decode().count("\n") == 2
    lines = client.get(page_of("dataset_version_file", version, "?split=train"))
    assert lines.getvalue() == files["train"]


def test_refused_lines_are_paged_and_shown_as_they_came(
    client: Client, organization: Organization
) -> None:
    dataset = services.create_dataset(organization=organization, name="raw", now=NOW)
    bad = b"".join(b"not json %d\n" % number for number in range(60))
    version = services.upload_version(
        organization=organization,
        dataset_id=dataset.pk,
        files={"train": io.BytesIO(bad)},
        file_names={"train": "raw.jsonl"},
        at_once=False,
        now=NOW,
    )
    assert version.report["lines_expected"] == 120
    assert "being checked" in client.get(page_of("dataset_version", version)).content.decode()
    dataset_versions.check_version(version.pk, now=NOW)
    page = client.get(page_of("dataset_version", version, "?page=3"))
    assert [error["line"] for error in page.context["errors"]] == list(range(51, 61))
    source = client.get(page_of("dataset_version_source", version, "?source=train&line=52"))
    assert "not json 51" in source.content.decode()
    assert (source.context["before"], source.context["after"]) == (51, 53)
    answer = client.get(page_of("dataset_version_findings_csv", version, "?kind=error"))
    assert answer.getvalue().decode().count("Write one JSON object a line.") == 60
    kept = client.get(page_of("dataset_version_file", version, "?source=train"))
    assert kept.getvalue() == bad


def test_another_model_counts_and_the_limit_is_chosen(
    client: Client, organization: Organization, tmp_path: Path
) -> None:
    model = publish_with_tokenizer(tmp_path)
    files = {"train": chat_lines(8) + line("very " * 400)}
    version = make_version(organization, files=files)
    query = f"?tokenizer={model.pk}&limit=256"
    page = client.get(page_of("dataset_version", version, query)).content.decode()
    assert "has not counted" in page
    asked = client.post(
        page_of("dataset_version_count", version), {"tokenizer": str(model.pk), "limit": "256"}
    )
    assert asked["Location"].endswith("#lengths")
    waiting = client.get(page_of("dataset_version", version, query))
    assert 'data-poll-seconds="2"' in waiting.content.decode()
    counting.step_count(TokenCount.objects.get().pk, now=NOW)
    (split,) = client.get(page_of("dataset_version", version, query)).context["splits"]
    assert split["cut"].examples == 1
    assert 0 < split["cut"].token_share < 1
    assert not split["chart"].empty
    (whole,) = client.get(page_of("dataset_version", version, f"?tokenizer={model.pk}")).context[
        "splits"
    ]
    assert whole["cut"].examples == 0


def test_pages_of_a_hundred_thousand_findings_answer_at_once(
    client: Client, organization: Organization
) -> None:
    version = make_version(organization)
    _fill(version.pk, 100_000)
    version.report["findings"] = {"email": 100_000}
    version.save()
    for query in ("", "?kind=email", "?kind=email&page=300"):
        began = time.monotonic()
        page = client.get(page_of("dataset_version_findings", version, query))
        assert time.monotonic() - began < 1
        assert len(page.context["table"].page.object_list) == 25
    began = time.monotonic()
    assert "100,000" in client.get(page_of("dataset_version", version)).content.decode()
    assert time.monotonic() - began < 1


def _fill(version_id: UUID, rows: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO training_datasetfinding (version_id, kind, split, line, field, excerpt, "
            "other_split, other_line) SELECT %s, 'email', 'train', n, 'messages.0', 'x', '', 0 "
            "FROM generate_series(1, %s) AS n",
            [version_id, rows],
        )


def test_the_examples_of_a_version_do_not_grow_with_its_runs(
    organization: Organization, client: Client, tmp_path: Path
) -> None:
    version = make_run(tmp_path, organization).dataset_version
    page = reverse("console:dataset", args=[version.dataset_id])
    shown = client.get(page).context["versions"][0]
    assert (shown.examples, shown.run_count) == (12, 1)
    again = TrainingRun.objects.get()
    again.pk, again.name, again._state.adding = None, "second", True
    again.save()
    shown = client.get(page).context["versions"][0]
    assert (shown.examples, shown.run_count) == (12, 2)
