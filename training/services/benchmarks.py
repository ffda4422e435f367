"""Benchmark tasks: a YAML of lm-eval and its documents, kept as versions like any dataset."""

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

from django.conf import settings
from django.db import transaction

from accounts import audit
from accounts.models import Organization
from common.errors import InvalidInput, NotFound
from common.texts import storable
from models_registry import storage
from models_registry.models import Blob
from training.benchmarks.task import evaluated_split, read_task
from training.choices import DatasetKind, VersionStatus
from training.models import Dataset, DatasetSource, DatasetSplit, DatasetVersion
from training.services.datasets import check_name, create_dataset

ENDINGS = (".yaml", ".yml")
FORMAT = "lm_eval"
MAX_FILES = 16
MAX_DATA_BYTES = 256 * 2**20
MAX_LINE_BYTES = 2**20
FIELD = "files"
PIECE_BYTES = 2**20


def upload_task(
    *,
    organization: Organization,
    name: str,
    files: Mapping[str, BinaryIO],
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> DatasetVersion:
    """Keep a task as the next version of the dataset `name`, which is made where there is none.

    `files` by file name: one YAML, and every file that its `dataset_kwargs.data_files` names. All of
    it is checked before this returns; the same files again are the same version. Raises InvalidInput
    by key (`task.metric_list.0.metric`) or file (`files.test.jsonl`).
    """
    check_name(name)
    task, examples = check_task(files)
    splits = {split: _store(files[file], now=now) for split, file in task["data_files"].items()}
    yaml_name = _yaml_name(files)
    source = _store(files[yaml_name], now=now)
    dataset = Dataset.objects.of(organization).filter(name=name).first() or create_dataset(
        organization=organization, name=name, actor=actor, now=now
    )
    with transaction.atomic():
        Dataset.objects.select_for_update(no_key=True).get(pk=dataset.pk)
        last = DatasetVersion.objects.filter(dataset=dataset).order_by("-number").first()
        if last is not None and last.kind != DatasetKind.LM_TASK:
            raise InvalidInput(
                f"{name} is a dataset of lines to learn from.",
                field="name",
                remedy="Give the task a name of its own.",
            )
        if last is not None and _holds(last, {"task": source, **splits}):
            return last
        version = DatasetVersion.objects.create(
            dataset=dataset,
            number=last.number + 1 if last else 1,
            kind=DatasetKind.LM_TASK,
            format=FORMAT,
            status=VersionStatus.READY,
            status_reason="checked",
            status_changed_at=now,
            report={
                "kind": DatasetKind.LM_TASK,
                "format": FORMAT,
                "task": task,
                "evaluated_split": evaluated_split(task),
                "examples": sum(examples.values()),
                "splits": {split: {"examples": count} for split, count in examples.items()},
            },
            created_at=now,
        )
        named = {"task": (yaml_name, source)} | {
            split: (file, splits[split]) for split, file in task["data_files"].items()
        }
        DatasetSource.objects.bulk_create(
            DatasetSource(
                version=version,
                name=each,
                file_name=storable(file)[:200],
                blob=blob,
                size_bytes=blob.size_bytes,
            )
            for each, (file, blob) in named.items()
        )
        DatasetSplit.objects.bulk_create(
            DatasetSplit(
                version=version,
                name=split,
                blob=blob,
                examples=examples[split],
                size_bytes=blob.size_bytes,
            )
            for split, blob in splits.items()
        )
        audit.record(
            organization=organization,
            actor=actor,
            action="dataset.upload",
            object_id=version.pk,
            object_name=str(version),
            after={"task": task["task"], "examples": examples},
            now=now,
        )
    return version


def adopt_task(
    *,
    organization: Organization,
    offered: str,
    name: str = "",
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> DatasetVersion:
    """Take a task that the operator offers, as a version of the organization's own. Raises NotFound,
    and InvalidInput where the operator's files are not what a task may be."""
    folder = _folders().get(offered)
    if folder is None:
        raise NotFound("No such task is offered.", field="offered")
    opened = {path.name: path.open("rb") for path in _files(folder)}
    try:
        return upload_task(
            organization=organization, name=name or offered, files=opened, actor=actor, now=now
        )
    finally:
        for file in opened.values():
            file.close()


def list_offered() -> list[dict[str, Any]]:
    """The operator's tasks: `offered` (a name), `output_type`, `documents` and `problem`, which says
    why one cannot be taken."""
    found = []
    for name, folder in sorted(_folders().items()):
        told: dict[str, Any] = {"offered": name, "output_type": "", "problem": ""}
        try:
            raw = next(path for path in _files(folder) if path.suffix in ENDINGS).read_bytes()
            task = read_task(raw)
            told["output_type"] = task["output_type"]
        except StopIteration:
            told["problem"] = "It has no YAML."
        except (InvalidInput, OSError) as error:
            told["problem"] = str(error)
        found.append(told)
    return found


def check_task(files: Mapping[str, BinaryIO]) -> tuple[dict[str, Any], dict[str, int]]:
    """The task, and how many documents each split has. Raises InvalidInput."""
    if len(files) > MAX_FILES:
        raise InvalidInput(f"More than {MAX_FILES} files.", field=FIELD, remedy="Send fewer.")
    sizes = {name: file.seek(0, 2) for name, file in files.items()}
    if sum(sizes.values()) > MAX_DATA_BYTES:
        raise InvalidInput(
            f"The files have more than {MAX_DATA_BYTES:,} bytes.",
            field=FIELD,
            remedy="Ask fewer documents.",
        )
    yaml_name = _yaml_name(files)
    files[yaml_name].seek(0)
    task = read_task(files[yaml_name].read())
    wanted = set(task["data_files"].values())
    if missing := wanted - files.keys():
        raise InvalidInput(
            f"{min(missing)} is named by the task and was not sent.",
            field=FIELD,
            remedy="Send it along.",
        )
    if unknown := files.keys() - wanted - {yaml_name}:
        raise InvalidInput(
            f"The task does not name {min(unknown)}.",
            field=f"{FIELD}.{min(unknown)}",
            remedy="Name it in dataset_kwargs.data_files, or leave it out.",
        )
    return task, {split: _count(name, files[name]) for split, name in task["data_files"].items()}


def _yaml_name(files: Mapping[str, BinaryIO]) -> str:
    names = [name for name in files if name.endswith(ENDINGS)]
    if len(names) != 1:
        raise InvalidInput(
            f"A task is one YAML; there are {len(names)}.",
            field=FIELD,
            remedy="Send one .yaml with the files that it names.",
        )
    return names[0]


def _count(name: str, file: BinaryIO) -> int:
    """Of the documents, each a JSON object with the same names as the first. Raises InvalidInput."""
    file.seek(0)
    count, columns = 0, None
    for number in range(1, 2**31):
        raw = file.readline(MAX_LINE_BYTES + 1)
        if not raw:
            break
        if not raw.strip():
            continue
        try:
            row = json.loads(raw) if len(raw) <= MAX_LINE_BYTES else None
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise _refusal(name, number, "This is no JSON object of up to 1 MiB.")
        columns = columns if columns is not None else row.keys()
        if row.keys() != columns:
            odd = min(row.keys() ^ columns)
            raise _refusal(name, number, f"{storable(odd)!r} is not in every document.")
        count += 1
    if not count:
        raise _refusal(name, 1, "There is no document.")
    return count


def _refusal(name: str, number: int, message: str) -> InvalidInput:
    return InvalidInput(
        f"{name} line {number}: {message}",
        field=f"{FIELD}.{name}",
        remedy="Send JSON lines: one object with the same names a line.",
    )


def _store(file: BinaryIO, *, now: datetime) -> Blob:
    file.seek(0)
    return storage.put_chunks(iter(lambda: file.read(PIECE_BYTES), b""), now=now)


def _holds(version: DatasetVersion, blobs: Mapping[str, Blob]) -> bool:
    present = dict(DatasetSource.objects.filter(version=version).values_list("name", "blob_id"))
    return present == {name: blob.sha256 for name, blob in blobs.items()}


def _folders() -> dict[str, Path]:
    if not settings.FACTORY_BENCHMARKS:
        return {}
    root = Path(settings.FACTORY_BENCHMARKS)
    if not root.is_dir():
        return {}
    return {path.name: path for path in root.iterdir() if path.is_dir()}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())[: MAX_FILES + 1]
