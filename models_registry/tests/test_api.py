from pathlib import Path

import pytest
from django.test import Client
from rest_framework.test import APIClient

from accounts.choices import Scope
from accounts.models import AuditEvent, User
from accounts.tests.make import NOW, make_key, make_member, make_organization
from common.ids import new_id
from models_registry.choices import RevisionKind
from models_registry.models import EvaluationResult
from models_registry.tests.make import make_model_folder, make_revision

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _places(tmp_path: Path, settings) -> None:
    settings.FACTORY_STORAGE = str(tmp_path / "storage")
    settings.FACTORY_IMPORT_FOLDERS = [str(tmp_path)]


def client_with(secret: str) -> APIClient:
    client = APIClient()
    client.credentials(HTTP_AUTHORIZATION=f"Bearer {secret}")
    return client


@pytest.fixture
def client() -> APIClient:
    return client_with(make_key(make_organization()))


def test_a_revision_shows_files_facts_and_lineage(client: APIClient, tmp_path: Path) -> None:
    base = make_revision(tmp_path, visibility="shared")
    child = make_revision(tmp_path, name="tuned", kind=RevisionKind.FULL, seed=4, parent=base)
    child.lineage = {"training_run": {"id": "r1", "name": "first run"}}
    child.save()
    models = client.get("/api/v1/models/").json()
    assert [m["name"] for m in models["results"]] == ["tiny", "tuned"]
    body = client.get(f"/api/v1/revisions/{child.pk}/").json()
    assert {f["path"] for f in body["files"]} >= {"model.safetensors", "config.json"}
    assert all(len(f["sha256"]) == 64 for f in body["files"])
    graph = client.get(f"/api/v1/revisions/{child.pk}/lineage/").json()
    assert [f"revision:{base.pk}", f"revision:{child.pk}"] in graph["edges"]
    assert ["training_run:r1", f"revision:{child.pk}"] in graph["edges"]
    assert [n["label"] for n in graph["nodes"] if n["is_focus"]] == ["retail/tuned:1"]


def test_another_organization_finds_nothing(tmp_path: Path, client: APIClient) -> None:
    mine = make_revision(tmp_path)
    stranger = client_with(make_key(make_organization("bank")))
    model_id = mine.registered_model_id
    for path in (
        f"/api/v1/models/{model_id}/",
        f"/api/v1/models/{model_id}/revisions/",
        f"/api/v1/revisions/{mine.pk}/",
        f"/api/v1/revisions/{mine.pk}/lineage/",
    ):
        assert client.get(path).status_code == 200
        assert stranger.get(path).status_code == 404
    put = stranger.put(
        f"/api/v1/models/{model_id}/aliases/champion/", {"revision": str(mine.pk)}, format="json"
    )
    assert put.status_code == 404
    assert stranger.get("/api/v1/models/").json()["count"] == 0


def test_a_descendant_in_another_organization_is_not_named(tmp_path: Path) -> None:
    base = make_revision(tmp_path, visibility="shared")
    bank = make_organization("bank")
    make_revision(tmp_path, bank, name="secret", kind=RevisionKind.FULL, seed=4, parent=base)
    reader = client_with(make_key(make_organization("third")))
    graph = reader.get(f"/api/v1/revisions/{base.pk}/lineage/").json()
    assert [n["label"] for n in graph["nodes"]] == ["retail/tiny:1"]


def test_an_import_is_accepted_and_can_be_followed(client: APIClient, tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "m")
    body = {"name": "m", "source_kind": "folder", "source": str(folder)}
    answer = client.post("/api/v1/imports/", body, format="json")
    assert answer.status_code == 202
    followed = client.get(f"/api/v1/imports/{answer.json()['id']}/").json()
    assert followed["status"] == "pending"


def test_bad_input_names_the_field_and_the_remedy(client: APIClient) -> None:
    body = {"name": "m", "source_kind": "huggingface", "source": "no slash"}
    answer = client.post("/api/v1/imports/", body, format="json")
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["field"], error["remedy"]) == ("source", "Write it as owner/name.")
    missing = client.post("/api/v1/imports/", {}, format="json").json()["error"]
    assert missing["field"] == "name"


def test_sharing_with_all_is_for_operators(client: APIClient, tmp_path: Path) -> None:
    body = {"name": "m", "source_kind": "folder", "source": str(tmp_path), "visibility": "shared"}
    assert client.post("/api/v1/imports/", body, format="json").status_code == 403
    operator = client_with(
        make_key(make_organization("platform"), (Scope.READ, Scope.WRITE, Scope.OPERATE))
    )
    assert operator.post("/api/v1/imports/", body, format="json").status_code == 202


def test_keys_do_only_what_they_are_for_and_strangers_nothing() -> None:
    reader = client_with(make_key(make_organization(), (Scope.READ,)))
    assert reader.get("/api/v1/models/").status_code == 200
    assert reader.post("/api/v1/imports/", {}, format="json").status_code == 403
    caller = client_with(make_key(make_organization(), (Scope.INFERENCE,)))
    assert caller.get("/api/v1/models/").status_code == 403
    assert APIClient().get("/api/v1/models/").status_code == 401
    assert client_with("sk-af-nothing-x").get("/api/v1/models/").status_code == 401


def test_a_member_reads_with_a_session_and_a_viewer_cannot_write() -> None:
    member = APIClient()
    member.force_login(make_member(make_organization(), role="viewer"))
    assert member.get("/api/v1/models/").status_code == 200
    assert member.post("/api/v1/imports/", {}, format="json").status_code == 403


def test_results_on_a_shared_revision_are_seen_by_those_who_asked_alone(tmp_path: Path) -> None:
    retail, bank = make_organization(), make_organization("bank")
    shared = make_revision(tmp_path, make_organization("platform"), visibility="shared")
    for owner, dataset in ((retail, "tickets:1"), (bank, "loans:1")):
        EvaluationResult.objects.create(
            organization=owner,
            revision=shared,
            evaluation_id=new_id(),
            dataset_name=dataset,
            split="heldout",
            examples=2,
            created_at=NOW,
        )
    body = client_with(make_key(bank)).get(f"/api/v1/revisions/{shared.pk}/").json()
    assert [result["dataset_name"] for result in body["evaluation_results"]] == ["loans:1"]


def test_an_alias_too_long_is_refused_by_name(client: APIClient, tmp_path: Path) -> None:
    revision = make_revision(tmp_path)
    path = f"/api/v1/models/{revision.registered_model_id}/aliases/{'x' * 41}/"
    answer = client.put(path, {"revision": str(revision.pk)}, format="json")
    assert (answer.status_code, answer.json()["error"]["field"]) == (400, "alias")


def test_sharing_a_model_in_the_admin_is_audited(tmp_path: Path) -> None:
    model = make_revision(tmp_path).registered_model
    office = Client()
    office.force_login(User.objects.create_superuser("root", "root@example.com", "a-password"))
    inlines = {
        f"{name}-{count}": "0"
        for name in ("aliases", "revisions")
        for count in ("TOTAL_FORMS", "INITIAL_FORMS")
    }
    url = f"/admin/models_registry/registeredmodel/{model.pk}/change/"
    answer = office.post(url, inlines | {"description": "", "visibility": "shared"})
    assert answer.status_code == 302
    event = AuditEvent.objects.get(action="registeredmodel.change")
    assert (event.before, event.after) == ({"visibility": "private"}, {"visibility": "shared"})
