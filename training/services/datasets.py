"""Datasets: a bad upload is refused, a good one becomes an immutable version."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from accounts import audit
from accounts.models import Organization
from common import texts
from common.errors import DomainError, InvalidInput, NotFound
from common.texts import Text, storable
from models_registry import storage
from models_registry.models import Blob, Revision
from models_registry.models.registered_model import NAME
from training import formats, prepare, preparing, selectors, splits
from training.choices import DatasetKind
from training.formats import columns, containers
from training.models import Dataset, DatasetSplit, DatasetVersion
from training.prepare import Prepared
from training.services import dataset_versions
from training.splits import PlanInvalid, SplitPlan

MAX_SPLITS = 20
CHUNK_BYTES = 2**20
AT_ONCE_BYTES = 8 * 2**20  # some 40,000 short lines: checked in a few seconds
FORMATS = (*formats.NAMES, containers.CSV, containers.PARQUET)


class DatasetNameTaken(DomainError):
    code = "name_taken"


class DatasetInvalid(DomainError):
    """Lines that cannot be trained on; `details` is the whole report, errors with line numbers."""

    code = "dataset_invalid"
    status_code = 422


def create_dataset(
    *,
    organization: Organization,
    name: str,
    description: str = "",
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> Dataset:
    """A new dataset without lines. Raises InvalidInput (name), DatasetNameTaken."""
    check_name(name)
    try:
        with transaction.atomic():
            dataset = Dataset.objects.create(
                organization=organization, name=name, description=description, created_at=now
            )
            audit.record(
                organization=organization,
                actor=actor,
                action="dataset.create",
                object_id=dataset.pk,
                object_name=name,
                now=now,
            )
    except IntegrityError as error:
        raise DatasetNameTaken(
            Text("A dataset named %(name)s exists.", name=name),
            field="name",
            remedy=Text("Upload a new version to it, or choose another name."),
        ) from error
    return dataset


def upload_version(
    *,
    organization: Organization,
    dataset_id: UUID,
    files: Mapping[str, Path | BinaryIO],
    format: str = "",
    mapping: Mapping[str, str] | None = None,
    split_plan: Mapping[str, Any] | None = None,
    kind: str = "",
    file_names: Mapping[str, str] | None = None,
    tokenizer_revision: Revision | None = None,
    at_once: bool | None = None,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> DatasetVersion:
    """Check every line of every file and keep them as the dataset's next version.

    `files` are the splits by name, as paths or open binary files, of any format of
    `training.formats`: JSON lines, one JSON list, CSV or Parquet. `format` names one where the first
    row should not decide; `mapping` names columns by field; `kind` (chat, preference or label) refuses
    what turns out to be another. `split_plan` ({"held_out": {"heldout": 0.1}, "seed": 7, "group_by":
    "customer"}) deals out the lines of one file.

    Up to 8 MiB are checked before this returns: the version is ready, or DatasetInvalid is raised and
    nothing is kept. Larger ones come back with the status checking and are checked by a worker, which
    makes them ready or refused; `at_once` decides that by hand. Only versions that are ready have
    splits. The same files as the latest version's return that version.

    Tokens are counted if a model is given that can; a model that cannot is named in the report and
    refuses nothing. Raises NotFound, InvalidInput (names, sizes, settings).
    """
    dataset = Dataset.objects.of(organization).filter(pk=dataset_id).first()
    if dataset is None:
        raise NotFound(Text("No such dataset."))
    _check_split_names(files)
    plan = _read_plan(files, split_plan)
    _check_settings(format, mapping or {}, kind)
    with ExitStack() as stack:
        opened: dict[str, BinaryIO] = {
            name: stack.enter_context(file.open("rb")) if isinstance(file, Path) else file
            for name, file in files.items()
        }
        names = _file_names(files, file_names or {})
        size = _check_sizes(opened)
        asked = selectors.list_evaluation_splits(organization)
        wanted = dataset_versions.Wanted(
            dataset=dataset,
            format=format,
            kind=kind,
            mapping=dict(mapping or {}),
            plan=plan,
            file_names=names,
            tokenizer_revision=tokenizer_revision,
            references=asked,
        )
        if at_once is None:
            at_once = size + sum(split.size_bytes for split in asked.values()) <= AT_ONCE_BYTES
        if not at_once:
            sources = {name: _store(file, now=now) for name, file in opened.items()}
            wanted = replace(wanted, lines_expected=_expected_lines(opened, names, asked))
            return dataset_versions.want(wanted, sources, actor=actor, now=now)
        with preparing.scratch() as folder:
            prepared = prepare.prepare(
                opened,
                folder,
                format=format,
                mapping=mapping,
                plan=plan,
                file_names=names,
                references=preparing.references(asked),
            )
            dataset_versions.check_kind(prepared.report, kind)
            if not prepared.report["is_valid"]:
                raise _refusal(prepared)
            sources = {
                name: _store(file, prepared.report, name, now=now) for name, file in opened.items()
            }
            return dataset_versions.add(wanted, sources, prepared, actor=actor, now=now)


def check_name(name: str, field: str = "name") -> None:
    """Names of datasets, runs and results follow the registry's rule. Raises InvalidInput."""
    try:
        NAME(name)
    except ValidationError as error:
        raise InvalidInput(
            Text("%(name)s cannot be a name.", name=repr(name)),
            field=field,
            remedy=str(error.messages[0]),
        ) from error


def _check_split_names(files: Mapping[str, object]) -> None:
    if not files:
        raise InvalidInput(
            Text("There is no file."),
            field="files",
            remedy=Text("Send a file for each split, under the split's name: train, heldout, ..."),
        )
    if len(files) > MAX_SPLITS:
        raise InvalidInput(Text("More than %(most)s splits.", most=MAX_SPLITS), field="files")
    for name in files:
        if not splits.NAME.fullmatch(name):
            raise InvalidInput(
                Text("%(name)s cannot be a split's name.", name=repr(name)),
                field="files",
                remedy=Text("Use up to 40 small letters, digits, hyphens and underscores."),
            )


def _read_plan(files: Mapping[str, object], given: Mapping[str, Any] | None) -> SplitPlan | None:
    if not given:
        return None
    try:
        plan = SplitPlan.from_json(given)
    except PlanInvalid as error:
        raise InvalidInput(
            error.message, field=f"split_plan.{error.field}", remedy=error.remedy
        ) from error
    if len(files) > 1:
        raise InvalidInput(
            Text("Lines can be held out of one file only."),
            field="split_plan",
            remedy=Text("Send one file, or send the splits as files without a plan."),
        )
    return plan


def _check_settings(format: str, mapping: Mapping[str, str], kind: str) -> None:
    if format and format not in FORMATS:
        raise InvalidInput(
            Text("%(format)s is no format.", format=repr(format)),
            field="format",
            remedy=Text("Use one of %(names)s.", names=list(FORMATS)),
        )
    if kind and kind not in DatasetKind.values:
        raise InvalidInput(
            Text("%(kind)s is no kind.", kind=repr(kind)),
            field="kind",
            remedy=Text("Use one of %(names)s.", names=list(DatasetKind.values)),
        )
    texts = all(isinstance(one, str) for pair in mapping.items() for one in pair)
    unknown = [field for field in mapping if field not in columns.FIELDS]
    if unknown or not texts:
        raise InvalidInput(
            Text("%(name)s is no field.", name=repr(unknown[0]))
            if unknown
            else Text("A mapping names columns by field."),
            field="mapping",
            remedy=Text("Map any of %(names)s.", names=list(columns.FIELDS)),
        )


def _file_names(files: Mapping[str, Path | BinaryIO], given: Mapping[str, str]) -> dict[str, str]:
    names = {}
    for split, file in files.items():
        name = given.get(split) or getattr(file, "name", "") or ""
        names[split] = storable(Path(str(name)).name)[:200]
    return names


def _check_sizes(files: Mapping[str, BinaryIO]) -> int:
    total = 0
    for file in files.values():
        total += file.seek(0, 2)
        file.seek(0)
    limit = settings.FACTORY_MAX_UPLOAD_BYTES
    if total > limit:
        raise InvalidInput(
            Text(
                "The files have %(total)s bytes, more than the %(limit)s that one upload may have.",
                total=f"{total:,}",
                limit=f"{limit:,}",
            ),
            field="files",
            remedy=Text("Upload parts of it as datasets of their own."),
        )
    return total


def _expected_lines(
    files: Mapping[str, BinaryIO], names: Mapping[str, str], asked: Mapping[str, DatasetSplit]
) -> int | None:
    """How many lines a check will have looked at in the end: each twice, to read it and to compare
    it, and those of the sets that evaluations ask. None where a file is not one row a line."""
    total = sum(split.examples for split in asked.values())
    for name, file in files.items():
        file.seek(0)
        if containers.sniff(file, names.get(name, "")) not in (containers.JSONL, containers.CSV):
            return None
        total += 2 * sum(chunk.count(b"\n") for chunk in _chunks(file))
    return total


def _refusal(prepared: Prepared) -> DatasetInvalid:
    report = prepared.report
    first = report["errors"][0]
    more = report["errors_total"] - 1
    message = Text(
        "%(split)s line %(line)s: %(message)s",
        split=first["split"],
        line=first["line"],
        message=texts.kept(first, "message"),
    )
    if more:
        message = Text("%(first)s And %(count)s more errors.", first=message, count=f"{more:,}")
    return DatasetInvalid(
        message,
        field=f"files.{first['split']}",
        remedy=texts.kept(first, "remedy"),
        details=report,
    )


def _store(
    file: BinaryIO, report: Mapping[str, Any] | None = None, name: str = "", *, now: datetime
) -> Blob:
    """Keep a file as it came; with a report, only if it is still what was looked at."""
    file.seek(0)
    blob = storage.put_chunks(_chunks(file), now=now)
    if report is not None and blob.sha256 not in {one["sha256"] for one in report["sources"]}:
        raise InvalidInput(
            Text("The file of split %(name)s changed while it was read.", name=name),
            field=f"files.{name}",
            remedy=Text("Upload it again once nothing writes to it any more."),
        )
    return blob


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk
