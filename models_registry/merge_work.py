"""Carrying merges out: a worker takes a lease on one, has it merged and compared, and publishes it."""

import json
import logging
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from common import leases
from common.errors import DomainError
from models_registry import merge_programs, parity, services, storage
from models_registry.choices import MERGE_OPEN, MergeStatus, RevisionKind, SourceKind
from models_registry.merge_programs import MergeBroken, MergeBusy
from models_registry.models import Revision, RevisionMerge

logger = logging.getLogger(__name__)

S = MergeStatus
LEASE_SECONDS = 30.0
MAX_ATTEMPTS = 3
SERVED_DTYPES = {"float32", "bfloat16", "float16"}
# Beside the weights: torch itself, and the logits of one prompt.
MEMORY_FACTOR, MEMORY_SPARE_BYTES = 1.2, 1 << 30


def list_due(*, now: datetime) -> list[UUID]:
    """Merges that nobody is at work on, the oldest first."""
    free = Q(leased_until__isnull=True) | Q(leased_until__lt=now)
    rows = RevisionMerge.objects.filter(free, status__in=MERGE_OPEN)
    return list(rows.order_by("created_at").values_list("pk", flat=True))


def run_merge(merge_id: UUID, *, now: datetime) -> bool:
    """Carry one merge out; false if it is not due or another worker has it.

    A worker that dies leaves its lease to run out; the next one goes on with the files that are
    whole. What cannot succeed ends FAILED with the reason and the remedy in `message`.
    """
    rows = RevisionMerge.objects.filter(status__in=MERGE_OPEN)
    merge = leases.take(rows, merge_id, now=now, seconds=LEASE_SECONDS)
    if merge is None:
        return False
    RevisionMerge.objects.filter(pk=merge.pk).update(attempts=merge.attempts + 1)
    folder = work_folder(merge)
    try:
        with leases.kept(merge, seconds=LEASE_SECONDS):
            if merge.attempts >= MAX_ATTEMPTS:
                raise MergeBroken(
                    f"It was begun {MAX_ATTEMPTS} times and never came to an end.",
                    remedy="Merge it again; if it ends the same way, tell an operator.",
                )
            merge.transition(S.MERGING, now=now, reason="merging")
            revision = _published(merge) or _merge(merge, folder)
    except MergeBusy:
        RevisionMerge.objects.filter(pk=merge.pk).update(attempts=merge.attempts)
        leases.release(merge)
        return False
    except MergeBroken as error:
        if merge.attempts + 1 < MAX_ATTEMPTS:
            logger.warning("merge %s is begun again: %s", merge.pk, error)
            leases.release(merge)  # the sweep comes back to it
            return True
        _fail(merge, error)
        return True
    except DomainError as error:
        _fail(merge, error)
        return True
    with leases.finish(merge) as current:
        current.revision = revision
        current.done_bytes = current.total_bytes = revision.size_bytes
        current.save(update_fields=["revision", "done_bytes", "total_bytes"])
        current.transition(S.SUCCEEDED, now=timezone.now(), reason="published")
    shutil.rmtree(folder, ignore_errors=True)
    return True


def _fail(merge: RevisionMerge, error: DomainError) -> None:
    logger.warning("merge %s has failed: %s", merge.pk, error)
    with leases.finish(merge) as current:
        message = f"{error.message} {error.remedy}".strip()
        current.transition(S.FAILED, now=timezone.now(), reason=error.code, message=message)
    shutil.rmtree(work_folder(merge), ignore_errors=True)


def work_folder(merge: RevisionMerge) -> Path:
    """Where the merge's files lie until they are stored."""
    return Path(settings.FACTORY_DATA) / "merges" / str(merge.pk)


def _published(merge: RevisionMerge) -> Revision | None:
    """What a worker has published that died before it could say so."""
    rows = Revision.objects.filter(
        registered_model__organization=merge.organization_id,
        registered_model__name=merge.name,
        source_kind=SourceKind.MERGE,
    )
    return rows.filter(lineage__merge__id=str(merge.pk)).first()


def _merge(merge: RevisionMerge, folder: Path) -> Revision:
    adapter, base = _both(merge)
    known = _lay_out(base, folder / "base", "base") | _lay_out(
        adapter, folder / "adapter", "adapter"
    )
    into = folder / "merged"
    rows = RevisionMerge.objects.filter(pk=merge.pk, lease_token=merge.lease_token)
    spec = {
        "base": str(folder / "base"),
        "adapter": str(folder / "adapter"),
        "into": str(into),
        "card": _card(merge, adapter=adapter, base=base),
        "sha256": known,
        "threads": merge_programs.threads(),
    }
    told = merge_programs.run(
        "trainer.merge",
        spec | {"step": "weights"},
        folder,
        tell=lambda done, total: _tell(rows, done, total),
    )
    rows.update(peak_memory_bytes=told.get("peak_bytes"))
    merge.transition(S.COMPARING, now=timezone.now(), reason="comparing")
    found = _compare(spec, folder, adapter=adapter, base=base)
    return services.publish_folder(
        organization=merge.organization,
        name=merge.name,
        folder=into,
        kind=RevisionKind.FULL,
        source_kind=SourceKind.MERGE,
        source=str(adapter),
        parent=adapter,
        licence=adapter.licence or base.licence,
        lineage=_lineage(merge, adapter=adapter, base=base),
        parity=found,
        now=timezone.now(),
    )


def _both(merge: RevisionMerge) -> tuple[Revision, Revision]:
    rows = Revision.objects.select_related("registered_model__organization")
    adapter = rows.get(pk=merge.adapter_id)
    return adapter, rows.get(children=adapter)


def _tell(rows: Any, done: int, total: int) -> None:
    rows.update(done_bytes=done, total_bytes=total)


def _lay_out(revision: Revision, folder: Path, of: str) -> dict[str, str]:
    """Links to the stored files under their names; their hashes by "`of`/name". The program checks
    those of the weights as it reads them."""
    known: dict[str, str] = {}
    for path, sha256 in revision.artifacts.values_list("path", "blob_id"):
        known[f"{of}/{path}"] = sha256
        link = folder / path
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(storage.blob_path(sha256))
    return known


def _compare(
    spec: dict[str, Any], folder: Path, *, adapter: Revision, base: Revision
) -> dict[str, Any]:
    """What is kept with the revision of how it compares with base and adapter apart."""
    now = timezone.now()
    unchecked = {"checks": [], "way": "merged"}
    needed = int(base.size_bytes * MEMORY_FACTOR) + adapter.size_bytes + MEMORY_SPARE_BYTES
    free = merge_programs.available_memory_bytes()
    if free is not None and free < needed:
        reason = (
            f"the comparison takes {needed / 1e9:.1f} GB of memory on the platform's machine, and"
            f" {free / 1e9:.1f} GB are free"
        )
        return parity.record(base, unchecked, now=now) | {"reason": reason}
    report = folder / "report.json"
    try:
        merge_programs.run("trainer.merge", spec | {"step": "reference"}, folder, tell=_ignore)
        merge_programs.run("engines.parity", _parity_spec(spec, report), folder, tell=_ignore)
        told = json.loads(report.read_text(encoding="utf-8"))
    except (MergeBroken, OSError, ValueError) as error:
        logger.warning("the merge of %s cannot be compared: %s", adapter, error)
        reason = f"the comparison came to no end: {error}"
        return parity.record(base, unchecked, now=now) | {"reason": reason}
    if adapter.parity_status == "failed":
        reason = f"its adapter is not served as it was trained: {adapter.parity.get('reason', '')}"
        told["checks"].append({"way": "adapter", "passed": False, "reason": reason})
    return parity.record(base, told, now=timezone.now())


def _ignore(done: int, total: int) -> None:
    """These programs say nothing on the way."""


def _parity_spec(spec: dict[str, Any], report: Path) -> dict[str, Any]:
    record = json.loads((Path(spec["into"]) / "parity.json").read_text(encoding="utf-8"))
    return {
        "result": spec["into"],
        "base": spec["base"],
        "is_adapter": False,
        "way": "merged",
        "report": str(report),
        "dtype": record["dtype"],
        "threads": spec["threads"],
    }


def _lineage(merge: RevisionMerge, *, adapter: Revision, base: Revision) -> dict[str, Any]:
    return {
        "merge": {"id": str(merge.pk)},
        "adapter_revision": _named(adapter),
        "base_revision": _named(base),
    }


def _named(revision: Revision) -> dict[str, str]:
    return {"id": str(revision.pk), "name": str(revision), "commit": revision.commit}


def _card(merge: RevisionMerge, *, adapter: Revision, base: Revision) -> str:
    """The same for the same merge, so that publishing twice is publishing once."""
    run = (adapter.lineage.get("training_run") or {}).get("name", "")
    data = (adapter.lineage.get("dataset_version") or {}).get("name", "")
    trained = f"\nThe adapter was trained by the run `{run}` on `{data}`.\n" if run else ""
    licence = adapter.licence or base.licence
    head = [f"base_model: {base}", "base_model_relation: finetune", "library_name: transformers"]
    head += [f"license: {licence}"] if licence else []
    front = "\n".join(head)
    return (
        f"---\n{front}\n---\n\n# {merge.name}\n\n"
        f"The adapter `{adapter}` (commit `{adapter.commit}`) merged into its base `{base}`"
        f" (commit `{base.commit}`): added to its weights in float32, rounded once to their format.\n"
        f"{trained}"
    )
