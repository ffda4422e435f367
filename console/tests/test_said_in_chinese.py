"""What services say, in the language of who reads the page; English for programs that ask for none."""

import io
import json

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from accounts.choices import Role
from accounts.models import Organization
from accounts.tests.make import NOW, make_member, make_organization
from training import services
from training.models import DatasetVersion
from training.services import dataset_versions
from training.tests.make import chat_lines

pytestmark = pytest.mark.django_db

BAD = b'{"messages": [{"role": "robot", "content": "hi"}]}\n' * 2
CHINESE = {"accept-language": "zh-Hans"}


@pytest.fixture
def organization() -> Organization:
    return make_organization()


@pytest.fixture
def client(organization: Organization) -> Client:
    client = Client()
    client.force_login(make_member(organization, "ada", Role.DEVELOPER))
    return client


@pytest.fixture
def refused(organization: Organization) -> DatasetVersion:
    """By a worker: its report has been JSON and a row since."""
    dataset = services.create_dataset(organization=organization, name="bad", now=NOW)
    version = services.upload_version(
        organization=organization,
        dataset_id=dataset.pk,
        files={"train": io.BytesIO(BAD)},
        at_once=False,
        now=NOW,
    )
    assert dataset_versions.check_version(version.pk, now=NOW)
    version.refresh_from_db()
    return version


def test_a_refused_version_says_why_in_the_readers_language(
    client: Client, refused: DatasetVersion
) -> None:
    url = reverse("console:dataset_version", args=[refused.pk])
    english = client.get(url).content.decode()
    chinese = client.get(url, headers=CHINESE).content.decode()
    assert "train line 1: “robot” is no role we know." in english
    assert "train 第 1 行：“robot” 不是已知的角色。" in chinese
    assert "is no role" not in chinese
    source = reverse("console:dataset_version_source", args=[refused.pk])
    assert (
        "不是已知的角色" in client.get(f"{source}?source=train", headers=CHINESE).content.decode()
    )
    findings = reverse("console:dataset_version_findings_csv", args=[refused.pk])
    rows = b"".join(client.get(findings, headers=CHINESE).streaming_content).decode()  # type: ignore[attr-defined]
    assert rows.count("不是已知的角色") == 2
    assert "is no role" in refused.message  # a row is for logs and programs as well


def test_a_refused_upload_says_what_to_mend_in_the_readers_language(client: Client) -> None:
    def upload(name: str, data: bytes) -> str:
        form = {"name": name, "train": SimpleUploadedFile("a.jsonl", data)}
        return client.post(
            reverse("console:dataset_upload"), form, headers=CHINESE
        ).content.decode()

    page = upload("bad", BAD)
    assert "不是已知的角色" in page
    assert "is no role" not in page
    upload("good", chat_lines(3))
    assert "名为 good 的数据集已存在。" in upload("good", chat_lines(4))


@pytest.mark.parametrize(
    ("asked", "said"),
    [({}, "A dataset named twice exists."), (CHINESE, "名为 twice 的数据集已存在。")],
)
def test_rest_answers_in_english_unless_asked(
    client: Client, organization: Organization, asked: dict[str, str], said: str
) -> None:
    services.create_dataset(organization=organization, name="twice", now=NOW)
    response = client.post(
        "/api/v1/datasets/",
        json.dumps({"name": "twice"}),
        content_type="application/json",
        headers=asked,
    )
    assert response.json()["error"]["message"] == said
    assert response.json()["error"]["code"] == "name_taken"
