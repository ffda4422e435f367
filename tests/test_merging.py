"""Adapters merged into their bases: from the asking to a revision, with the real programs."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from django.db import connection
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from accounts.models import AuditEvent
from accounts.tests.make import NOW, make_key, make_organization
from common.errors import DomainError
from models_registry import (
    cache,
    merge_programs,
    merge_work,
    merging,
    promotion,
    selectors,
    storage,
)
from models_registry import services as registry
from models_registry.choices import MergeStatus, RevisionKind, SourceKind
from models_registry.models import Revision, RevisionMerge
from trainer import parity
from trainer.tests.make import make_base
from trainer.tests.make_adapters import LAYERS, make_adapter, sharded

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(240)]
S = MergeStatus
LATER = NOW + timedelta(minutes=5)


@pytest.fixture(autouse=True)
def _places(tmp_path: Path, settings: Any) -> None:
    settings.FACTORY_STORAGE = str(tmp_path / "storage")
    settings.FACTORY_DATA = tmp_path / "data"


def publish(folder: Path, name: str, kind: str, parent: Revision | None = None) -> Revision:
    return registry.publish_folder(
        organization=make_organization(),
        name=name,
        folder=folder,
        kind=kind,
        source_kind=SourceKind.FOLDER,
        parent=parent,
        now=NOW,
    )


def make_pair(tmp_path: Path, **config: Any) -> tuple[Revision, Revision]:
    """A base in several files, and an adapter of it as a user would push one."""
    folder = sharded(make_base(tmp_path / "one"), tmp_path / "base")
    base = publish(folder, "tiny", RevisionKind.BASE)
    make_adapter(tmp_path / "adapter", folder, **config)
    return base, publish(tmp_path / "adapter", "tuned", RevisionKind.ADAPTER, base)


def ask(adapter: Revision, **options: Any) -> RevisionMerge:
    return merging.request_merge(
        organization=adapter.registered_model.organization,
        revision_id=adapter.pk,
        now=NOW,
        **options,
    )


def merged_of(merge: RevisionMerge) -> Revision:
    merge.refresh_from_db()
    assert merge.status == S.SUCCEEDED, merge.message
    assert merge.revision is not None
    return merge.revision


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        name: tensor
        for path in folder.glob("*.safetensors")
        for name, tensor in load_file(path).items()
    }


@pytest.fixture
def unproven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Merges without the comparison, which takes longest."""
    monkeypatch.setattr(merge_programs, "available_memory_bytes", lambda: 10**6)


def test_a_merge_becomes_a_revision_that_is_proven_to_be_base_and_adapter(tmp_path: Path) -> None:
    base, adapter = make_pair(tmp_path, use_dora=True)
    merge = ask(adapter)
    assert merge_work.run_merge(merge.pk, now=NOW)
    revision = merged_of(merge)
    assert str(revision) == "retail/tuned-merged:1"
    assert (revision.kind, revision.source_kind) == (RevisionKind.FULL, SourceKind.MERGE)
    assert revision.parent == adapter
    assert revision.lineage["base_revision"]["commit"] == base.commit
    assert revision.lineage["adapter_revision"]["commit"] == adapter.commit
    assert (revision.parameter_count, revision.dtype) == (base.parameter_count, base.dtype)
    names = set(revision.artifacts.values_list("path", flat=True))
    assert set(base.artifacts.values_list("path", flat=True)) <= names
    assert merge.done_bytes == merge.total_bytes == revision.size_bytes
    assert merge.peak_memory_bytes is None or merge.peak_memory_bytes > 0
    assert not merge_work.work_folder(merge).exists()

    found = revision.parity
    assert revision.parity_status == "passed", found
    assert [check["way"] for check in found["checks"]] == ["merged"]
    assert found["max_abs_logprob_diff"] < 1e-3
    assert (found["prompts"], found["base_commit"]) == (32, base.commit)
    assert {"template_sha256", "tokenizer_sha256"} <= set(found)

    folder = cache.materialize(revision, root=tmp_path / "cache")
    assert "retail/tuned:1" in (folder / "README.md").read_text()
    before, after = weights(tmp_path / "base"), weights(folder)
    assert before.keys() == after.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(changed) == 2 * len(LAYERS)
    graph = selectors.get_lineage(make_organization(), revision)
    assert [node.label for node in graph.nodes] == [str(base), str(adapter), str(revision)]
    actions = AuditEvent.objects.filter(action__in=["revision.merge", "revision.publish"])
    assert actions.count() == 4


@pytest.mark.usefixtures("unproven")
def test_asking_again_is_the_same_merge(tmp_path: Path) -> None:
    _base, adapter = make_pair(tmp_path)
    merge = ask(adapter)
    assert ask(adapter) == merge
    merge_work.run_merge(merge.pk, now=NOW)
    assert ask(adapter) == merge
    assert not merge_work.run_merge(merge.pk, now=LATER)
    assert AuditEvent.objects.filter(action="revision.merge").count() == 1
    # a worker that died between publishing and saying so: the next one finds what it published
    revision = merged_of(merge)
    RevisionMerge.objects.update(status=S.COMPARING, revision=None)
    assert merge_work.run_merge(merge.pk, now=LATER)
    assert merged_of(merge) == revision
    assert Revision.objects.filter(source_kind=SourceKind.MERGE).count() == 1


def test_a_merge_that_is_another_model_is_not_promoted(tmp_path: Path) -> None:
    """The trainer's record of the adapter says otherwise than what the merged weights do."""
    base, _adapter = make_pair(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base")
    record = {
        "dtype": "float32",
        "numbers": "float32",
        "template_sha256": parity.template_sha256(tokenizer),
        "tokenizer_sha256": parity.tokenizer_sha256(tokenizer),
        "prompts": [{"tokens": [5, 6, 7, 8], "logprobs": [-20.0, -20.0, -20.0]}],
    }
    (tmp_path / "adapter" / "parity.json").write_text(json.dumps(record))
    other = publish(tmp_path / "adapter", "tuned", RevisionKind.ADAPTER, base)
    merge = ask(other)
    merge_work.run_merge(merge.pk, now=NOW)
    revision = merged_of(merge)
    assert revision.parity_status == "failed", revision.parity
    passed = {check["way"]: check["passed"] for check in revision.parity["checks"]}
    assert passed == {"merged": True, "trained": False}
    with pytest.raises(promotion.ParityFailed) as refused:
        promotion.move_alias(
            organization=make_organization(),
            model_id=revision.registered_model_id,
            alias="champion",
            revision_id=revision.pk,
            now=NOW,
        )
    assert "as trained: log-probabilities differ" in refused.value.message
    assert "Merge it again" in refused.value.remedy


@pytest.mark.usefixtures("unproven")
def test_without_memory_to_compare_it_is_published_and_said(tmp_path: Path) -> None:
    _base, adapter = make_pair(tmp_path)
    merge = ask(adapter)
    merge_work.run_merge(merge.pk, now=NOW)
    revision = merged_of(merge)
    assert revision.parity_status == "unchecked"
    assert "GB of memory" in revision.parity["reason"]
    promotion.move_alias(
        organization=make_organization(),
        model_id=revision.registered_model_id,
        alias="champion",
        revision_id=revision.pk,
        now=NOW,
    )


# Killed half-way

WORKER = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "factory.settings.test"
import django
django.setup()
from uuid import UUID
from django.conf import settings
from django.utils import timezone
settings.FACTORY_STORAGE, settings.FACTORY_DATA = sys.argv[1], sys.argv[2]
settings.DATABASES["default"]["NAME"] = sys.argv[3]
from models_registry import merge_work
merge_work.run_merge(UUID(sys.argv[4]), now=timezone.now())
"""


def until(seen: Callable[[], Any], *, seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (found := seen()):
        assert time.monotonic() < end, "nothing was seen in time"
        time.sleep(0.02)
    return found


@pytest.mark.usefixtures("unproven")
@pytest.mark.parametrize("killed", ["worker", "both"])
def test_a_killed_worker_leaves_nothing_half_published(
    tmp_path: Path, settings: Any, killed: str
) -> None:
    """The second file is written into a pipe that nobody reads: there the merge stands."""
    base, adapter = make_pair(tmp_path)
    merge = ask(adapter)
    paths = list(
        base.artifacts.filter(path__endswith=".safetensors").values_list("path", flat=True)
    )
    into = merge_work.work_folder(merge) / "merged"
    into.mkdir(parents=True)
    blocked = into / f"{paths[1]}.partial"
    os.mkfifo(blocked)
    names = [settings.FACTORY_STORAGE, settings.FACTORY_DATA, connection.settings_dict["NAME"]]
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, *map(str, names), str(merge.pk)], stderr=subprocess.PIPE
    )
    try:
        first = into / paths[0]
        until(lambda: first.exists() or worker.poll() is not None)
        assert worker.poll() is None, worker.stderr.read().decode()
        (program,) = psutil.Process(worker.pid).children()
        worker.kill()
        worker.wait()
        if killed == "both":
            program.kill()
    finally:
        worker.kill()
        worker.communicate()
    merge.refresh_from_db()
    assert (merge.status, merge.revision) == (S.MERGING, None)
    assert not Revision.objects.filter(source_kind=SourceKind.MERGE).exists()
    written = first.stat().st_mtime_ns

    assert merge.leased_until is not None
    after = merge.leased_until + timedelta(seconds=1)
    assert merge_work.list_due(now=after) == [merge.pk]
    if killed == "worker":  # what it left behind is still there: its files are left to it
        assert not merge_work.run_merge(merge.pk, now=after)
        merge.refresh_from_db()
        assert (merge.status, merge.attempts) == (S.MERGING, 1)
        program.send_signal(signal.SIGKILL)
    until(lambda: not program.is_running() or program.status() == psutil.STATUS_ZOMBIE)
    blocked.unlink()
    kept: list[int] = []
    follow = merge_programs.run

    def run(module: str, spec: Any, folder: Path, *, tell: Any) -> dict[str, Any]:
        told = follow(module, spec, folder, tell=tell)
        kept.append(first.stat().st_mtime_ns)
        return told

    merge_programs.run = run
    try:
        assert merge_work.run_merge(merge.pk, now=after)
    finally:
        merge_programs.run = follow
    assert kept[0] == written  # the file that was whole was not made again
    revision = merged_of(merge)
    exact = cache.materialize(revision, root=tmp_path / "cache")
    assert AutoModelForCausalLM.from_pretrained(exact).num_parameters() == base.parameter_count


def test_a_program_that_always_dies_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _base, adapter = make_pair(tmp_path)
    merge = ask(adapter)

    def run(*_: Any, **__: Any) -> dict[str, Any]:
        raise merge_programs.MergeBroken("It came to no end: killed", remedy="Merge it again.")

    monkeypatch.setattr(merge_programs, "run", run)
    while merge.status != S.FAILED:
        assert merge_work.run_merge(merge.pk, now=NOW)
        merge.refresh_from_db()
    assert (merge.attempts, merge.status_reason) == (merge_work.MAX_ATTEMPTS, "merge_broken")
    assert "Merge it again" in merge.message
    assert ask(adapter) != merge  # one that failed may be asked for again


# Refusals


def refused(adapter: Revision, **options: Any) -> DomainError:
    with pytest.raises(DomainError) as caught:
        ask(adapter, **options)
    assert caught.value.field
    return caught.value


def test_what_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, adapter = make_pair(tmp_path)
    assert refused(base).code == "not_an_adapter"
    assert refused(base).remedy
    assert refused(adapter, name="tiny").code == "name_taken"
    assert refused(adapter, name="a b").code == "invalid"
    Revision.objects.filter(pk=base.pk).update(quantization="fp8")
    assert refused(adapter).code == "base_unusable"
    Revision.objects.filter(pk=base.pk).update(quantization="")
    monkeypatch.setattr(storage, "free_bytes", lambda: 10**6)
    assert refused(adapter).code == "no_disk_space"
    monkeypatch.undo()


def test_an_organization_has_few_merges_at_once(tmp_path: Path, settings: Any) -> None:
    settings.FACTORY_STORAGE = str(tmp_path / "storage")
    settings.FACTORY_DATA = tmp_path / "data"
    _base, adapter = make_pair(tmp_path)
    for number in range(merging.MAX_OPEN):
        ask(adapter, name=f"merged-{number}")
    assert refused(adapter).code == "too_many_merges"


def test_a_base_that_another_organization_no_longer_shares(tmp_path: Path) -> None:
    base, adapter = make_pair(tmp_path)
    other = make_organization("other")
    type(base.registered_model).objects.filter(pk=base.registered_model_id).update(
        organization=other
    )
    assert refused(adapter).code == "base_unusable"


def test_what_the_program_does_not_understand_fails_with_the_remedy(tmp_path: Path) -> None:
    base, _adapter = make_pair(tmp_path)
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"lora_bias": True}))
    adapter = publish(tmp_path / "adapter", "tuned", RevisionKind.ADAPTER, base)
    merge = ask(adapter)
    assert merge_work.run_merge(merge.pk, now=NOW)
    merge.refresh_from_db()
    assert (merge.status, merge.status_reason) == (S.FAILED, "not_mergeable")
    assert "lora_bias=True is not understood. Train it again" in merge.message
    assert not merge_work.work_folder(merge).exists()


@pytest.mark.usefixtures("unproven")
def test_rest(tmp_path: Path, client: Any) -> None:
    base, adapter = make_pair(tmp_path)
    organization = make_organization()
    headers = {"Authorization": f"Bearer {make_key(organization)}"}
    path = f"/api/v1/revisions/{adapter.pk}/merge/"
    answer = client.post(path, {"name": "mine"}, content_type="application/json", headers=headers)
    assert answer.status_code == 202, answer.content
    body = answer.json()
    assert (body["name"], body["status"], body["adapter"]) == ("mine", "pending", str(adapter.pk))
    merge_work.run_merge(RevisionMerge.objects.get().pk, now=NOW)
    body = client.get(f"/api/v1/merges/{body['id']}/", headers=headers).json()
    assert (body["status"], body["parity"]) == ("succeeded", "unchecked")
    assert body["revision_name"] == "retail/mine:1"
    rows = client.get("/api/v1/merges/", headers=headers).json()
    assert len(rows["results"]) == 1
    answer = client.post(
        f"/api/v1/revisions/{base.pk}/merge/", {}, content_type="application/json", headers=headers
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "not_an_adapter"
    assert answer.json()["error"]["remedy"]
