"""From checked lines to a version's rows; versions that workers check, from wanted to ready."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from accounts import audit
from common import jobs, leases, texts
from common.errors import DomainError, InvalidInput
from common.texts import Text, storable
from models_registry import storage
from models_registry.models import Blob, Revision
from training import preparing, selectors, token_counts
from training.choices import VersionStatus
from training.doctor.findings import Finding
from training.models import (
    Dataset,
    DatasetFinding,
    DatasetSource,
    DatasetSplit,
    DatasetVersion,
)
from training.prepare import Prepared
from training.splits import SplitPlan

logger = logging.getLogger(__name__)

V = VersionStatus
LEASE_SECONDS = 30.0
MAX_ATTEMPTS = 3
TELL_SECONDS = 1.0
FIELD_CHARACTERS = 200


@dataclass(frozen=True)
class Wanted:
    """What an upload asks for, apart from its files."""

    dataset: Dataset
    format: str = ""
    kind: str = ""
    mapping: dict[str, str] = field(default_factory=dict)
    plan: SplitPlan | None = None
    file_names: Mapping[str, str] = field(default_factory=dict)
    tokenizer_revision: Revision | None = None
    references: Mapping[str, DatasetSplit] = field(default_factory=dict)
    lines_expected: int | None = None  # by the check of a worker; None where nobody can tell

    @property
    def plan_json(self) -> dict[str, Any]:
        return self.plan.to_json() if self.plan else {}


def want(
    wanted: Wanted, sources: Mapping[str, Blob], *, actor: audit.Actor, now: datetime
) -> DatasetVersion:
    """A version that a worker is to check. The same files and settings again are the same version."""
    with transaction.atomic():
        last = _latest(wanted.dataset)
        if last is not None and last.status != V.REFUSED and _same_sources(last, wanted, sources):
            return last
        version = DatasetVersion.objects.create(
            dataset=wanted.dataset,
            number=last.number + 1 if last else 1,
            kind=wanted.kind or "chat",
            format=wanted.format,
            mapping=wanted.mapping,
            split_plan=wanted.plan_json,
            status=V.CHECKING,
            status_reason="uploaded",
            status_changed_at=now,
            tokenizer_revision=wanted.tokenizer_revision,
            report={"wanted_kind": wanted.kind, "lines_expected": wanted.lines_expected},
            created_at=now,
        )
        _keep_sources(version, wanted, sources)
        _record(version, sources, actor=actor, now=now)
        jobs.enqueue("training.check_version", version_id=str(version.pk))
    return version


def add(
    wanted: Wanted,
    sources: Mapping[str, Blob],
    prepared: Prepared,
    *,
    actor: audit.Actor,
    now: datetime,
) -> DatasetVersion:
    """A version of lines that are checked already; the latest one if it holds the same."""
    blobs = store(prepared, now=now)
    report = _whole_report(prepared, blobs, wanted.tokenizer_revision, wanted.references)
    with transaction.atomic():
        last = _latest(wanted.dataset)
        if last is not None and last.status == V.READY and _same(last, blobs, report):
            return last
        version = DatasetVersion.objects.create(
            dataset=wanted.dataset,
            number=last.number + 1 if last else 1,
            kind=report["kind"],
            format=report["format"],
            mapping=report["mapping"],
            split_plan=wanted.plan_json,
            status=V.READY,
            status_reason="checked",
            status_changed_at=now,
            tokenizer_revision=wanted.tokenizer_revision,
            report=report,
            created_at=now,
        )
        _keep_sources(version, wanted, sources)
        _keep_lines(version, blobs, prepared, report)
        _record(version, blobs, actor=actor, now=now)
    return version


def list_due(*, now: datetime) -> list[UUID]:
    """Versions to be checked that no worker is at."""
    free = Q(leased_until__isnull=True) | Q(leased_until__lt=now)
    rows = DatasetVersion.objects.filter(free, status=V.CHECKING)
    return list(rows.order_by("created_at").values_list("pk", flat=True))


def check_version(version_id: UUID, *, now: datetime) -> bool:
    """Check one version; false if it is not due or another worker has it.

    A worker that dies leaves its lease to run out, and the next begins anew; after three of them the
    version is refused.
    """
    rows = DatasetVersion.objects.filter(status=V.CHECKING)
    version = leases.take(rows, version_id, now=now, seconds=LEASE_SECONDS)
    if version is None:
        return False
    DatasetVersion.objects.filter(pk=version.pk).update(attempts=version.attempts + 1)
    with leases.kept(version, seconds=LEASE_SECONDS):
        try:
            if version.attempts >= MAX_ATTEMPTS:
                raise preparing.CheckFailed(
                    Text(
                        "The check was begun %(times)s times and never came to an end.",
                        times=MAX_ATTEMPTS,
                    ),
                    remedy=Text("Upload the files again; in smaller parts if they are very large."),
                )
            _check(version)
        except DomainError as error:
            with leases.finish(version) as current:
                message = f"{error.message} {error.remedy}".strip()
                said = {"message": error.message, "remedy": error.remedy}
                current.report |= {"refused": texts.with_makings(said)}
                current.save(update_fields=["report"])
                current.transition(
                    V.REFUSED, now=timezone.now(), reason=error.code, message=storable(message)
                )
    return True


def _check(version: DatasetVersion) -> None:
    organization = version.dataset.organization
    sources = {row.name: row for row in version.sources.all()}
    asked = selectors.list_evaluation_splits(organization)
    with preparing.scratch() as folder:
        prepared = preparing.in_process(
            {name: storage.blob_path(row.blob_id) for name, row in sources.items()},
            folder,
            format=version.format,
            mapping=version.mapping,
            plan=SplitPlan.from_json(version.split_plan) if version.split_plan else None,
            file_names={name: row.file_name for name, row in sources.items()},
            references=preparing.references(asked),
            progress=_teller(version),
        )
        check_kind(prepared.report, version.report.get("wanted_kind", ""))
        now = timezone.now()
        if not prepared.report["is_valid"]:
            _refuse(version, prepared, now=now)
            return
        blobs = store(prepared, now=now)
    report = _whole_report(prepared, blobs, version.tokenizer_revision, asked)
    with leases.finish(version) as current:
        current.kind, current.format = report["kind"], report["format"]
        current.mapping, current.report = report["mapping"], report
        current.save(update_fields=["kind", "format", "mapping", "report"])
        _keep_lines(current, blobs, prepared, report)
        current.transition(V.READY, now=now, reason="checked")


def _refuse(version: DatasetVersion, prepared: Prepared, *, now: datetime) -> None:
    report = prepared.report
    first = report["errors"][0]
    with leases.finish(version) as current:
        current.kind = report["kind"] or current.kind
        current.format, current.report = report["format"], report
        current.save(update_fields=["kind", "format", "report"])
        _keep_findings(current, prepared.findings)
        message = f"{first['split']} line {first['line']}: {first['message']} {first['remedy']}"
        current.transition(V.REFUSED, now=now, reason="lines_invalid", message=storable(message))


def _teller(version: DatasetVersion) -> Callable[[int], None]:
    """Writes the number of lines into the row, once a second at most."""
    rows = DatasetVersion.objects.filter(pk=version.pk, lease_token=version.lease_token)
    told_at = 0.0

    def tell(lines: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at >= TELL_SECONDS:
            told_at = time.monotonic()
            rows.update(lines_done=lines)

    return tell


def check_ready(version: DatasetVersion, field: str = "dataset_version") -> None:
    """Raises InvalidInput unless the version's lines are checked and good."""
    if version.status == V.READY:
        return
    is_open = version.status == V.CHECKING
    raise InvalidInput(
        Text("%(version)s is still being checked.", version=version)
        if is_open
        else Text("%(version)s was refused.", version=version),
        field=field,
        remedy=Text("Wait until it is ready.")
        if is_open
        else Text("Mend its lines and upload them again."),
    )


def check_kind(report: Mapping[str, Any], wanted: str) -> None:
    """Raises InvalidInput where the lines are of another kind than was asked for."""
    if wanted and report["kind"] and report["kind"] != wanted:
        raise InvalidInput(
            Text(
                "The lines are of kind %(kind)s, not %(wanted)s.",
                kind=report["kind"],
                wanted=wanted,
            ),
            field="kind",
            remedy=Text("Leave kind out, or upload lines of that kind."),
        )


def store(prepared: Prepared, *, now: datetime) -> dict[str, Blob]:
    """The canonical lines of every split, kept."""
    return {name: storage.put_file(Path(path), now=now) for name, path in prepared.files.items()}


def _whole_report(
    prepared: Prepared,
    blobs: Mapping[str, Blob],
    tokenizer: Revision | None,
    references: Mapping[str, DatasetSplit],
) -> dict[str, Any]:
    report = prepared.report
    sources = {source["name"]: source for source in report["sources"]}
    for name, blob in blobs.items():
        source = sources.get(name, {})
        report["splits"][name] |= {
            "sha256": blob.sha256,
            "lines": source.get("lines", report["splits"][name]["examples"]),
            "errors": 0,
        }
    report["compared_with"] = [
        {"split_id": name, "name": str(split), "examples": split.examples}
        for name, split in references.items()
    ]
    report["tokenizer"] = _count_tokens(blobs, report["splits"], tokenizer, prepared.findings)
    return report


def _count_tokens(
    blobs: Mapping[str, Blob],
    splits: dict[str, dict[str, Any]],
    revision: Revision | None,
    findings: list[Finding],
) -> dict[str, str] | None:
    """Write token figures into the splits' reports; returns how they came about."""
    if revision is None:
        return None
    told = {"revision_id": str(revision.pk), "revision": str(revision)}
    try:
        with token_counts.tokenizer_folder(revision) as folder:
            for name, blob in blobs.items():
                counted = token_counts.count(folder, blob.sha256)
                longest = counted.pop("longest", [])
                findings += [
                    Finding("longest", name, line, score=float(tokens)) for line, tokens in longest
                ]
                splits[name] |= counted
    except token_counts.CannotCount as error:
        return told | {"error": f"Tokens were not counted: {error}."}
    return told | {"method": token_counts.METHOD}


def _latest(dataset: Dataset) -> DatasetVersion | None:
    """With the dataset locked, so that numbers follow each other."""
    Dataset.objects.select_for_update(no_key=True).get(pk=dataset.pk)
    return DatasetVersion.objects.filter(dataset=dataset).order_by("-number").first()


def _same(last: DatasetVersion, blobs: Mapping[str, Blob], report: Mapping[str, Any]) -> bool:
    present = dict(DatasetSplit.objects.filter(version=last).values_list("name", "blob_id"))
    wanted = {name: blob.sha256 for name, blob in blobs.items()}
    return present == wanted and last.report.get("tokenizer") == report["tokenizer"]


def _same_sources(last: DatasetVersion, wanted: Wanted, sources: Mapping[str, Blob]) -> bool:
    present = dict(DatasetSource.objects.filter(version=last).values_list("name", "blob_id"))
    settings_same = (
        last.split_plan == wanted.plan_json
        and last.tokenizer_revision_id
        == (wanted.tokenizer_revision and wanted.tokenizer_revision.pk)
        and (not wanted.mapping or last.mapping == wanted.mapping)
    )
    return settings_same and present == {name: blob.sha256 for name, blob in sources.items()}


def _keep_sources(version: DatasetVersion, wanted: Wanted, sources: Mapping[str, Blob]) -> None:
    DatasetSource.objects.bulk_create(
        DatasetSource(
            version=version,
            name=name,
            file_name=wanted.file_names.get(name, ""),
            blob=blob,
            size_bytes=blob.size_bytes,
        )
        for name, blob in sources.items()
    )


def _keep_lines(
    version: DatasetVersion,
    blobs: Mapping[str, Blob],
    prepared: Prepared,
    report: Mapping[str, Any],
) -> None:
    DatasetSplit.objects.bulk_create(
        DatasetSplit(
            version=version,
            name=name,
            blob=blob,
            examples=report["splits"][name]["examples"],
            size_bytes=blob.size_bytes,
            token_count=report["splits"][name].get("token_count"),
            longest_tokens=report["splits"][name].get("longest_tokens"),
            line_index=prepared.indices.get(name, []),
        )
        for name, blob in blobs.items()
    )
    _keep_findings(version, prepared.findings)


def _keep_findings(version: DatasetVersion, findings: list[Finding]) -> None:
    DatasetFinding.objects.bulk_create(
        (
            DatasetFinding(
                version=version,
                **asdict(one)
                | {
                    "field": storable(one.field)[:FIELD_CHARACTERS],
                    "excerpt": storable(one.excerpt),
                },
            )
            for one in findings
        ),
        batch_size=1000,
    )


def _record(
    version: DatasetVersion, blobs: Mapping[str, Blob], *, actor: audit.Actor, now: datetime
) -> None:
    after: dict[str, Any] = {"splits": sorted(blobs)}
    if "examples" in version.report:
        after["examples"] = version.report["examples"]
    audit.record(
        organization=version.dataset.organization,
        actor=actor,
        action="dataset.upload",
        object_id=version.pk,
        object_name=str(version),
        after=after,
        now=now,
    )
