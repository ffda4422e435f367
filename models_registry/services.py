"""Registering weights: immutable revisions with facts read from their files, and their lineage."""

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction

from accounts import audit
from accounts.models import Organization
from common import jobs
from common.errors import InvalidInput
from models_registry import facts as reading
from models_registry import storage
from models_registry.choices import RevisionKind, SourceKind, Visibility
from models_registry.models import (
    Artifact,
    Blob,
    RegisteredModel,
    Revision,
    RevisionImport,
)

HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")


def publish_folder(
    *,
    organization: Organization,
    name: str,
    folder: Path,
    kind: str,
    source_kind: str,
    source: str = "",
    parent: Revision | None = None,
    visibility: str = Visibility.PRIVATE,
    licence: str = "",
    lineage: Mapping[str, Any] | None = None,
    parity: Mapping[str, Any] | None = None,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> Revision:
    """Store a folder's files as the next revision of `organization/name`.

    The same files again return the revision they already are. Raises InvalidInput (name),
    UnsafeFiles, IncompleteModel. Files are hashed and stored before any row is written.
    """
    check_name(name)
    files = reading.list_files(folder)
    facts = reading.read_facts(folder, files)
    if kind != RevisionKind.ADAPTER and facts.model_type == reading.ADAPTER:
        raise reading.IncompleteModel(
            "This is an adapter without the model that it adapts.",
            field="source",
            remedy="Merge it into its base first, and import the result.",
        )
    blobs = {path: storage.put_file(folder / path, now=now) for path in files}
    with transaction.atomic():
        model = _take_model(organization, name, visibility, actor, now)
        commit = commit_of(blobs)
        present = Revision.objects.filter(registered_model=model, commit=commit).first()
        if present is not None:
            if parity and dict(parity) != present.parity:  # compared once more
                present.parity = dict(parity)
                present.save(update_fields=["parity"])
            return present
        last = Revision.objects.filter(registered_model=model).order_by("-number").first()
        revision = Revision.objects.create(
            registered_model=model,
            number=last.number + 1 if last else 1,
            commit=commit,
            kind=kind,
            parent=parent,
            source_kind=source_kind,
            source=source[:300],
            lineage=dict(lineage or {}),
            parity=dict(parity or {}),
            architecture=facts.architecture,
            model_type=facts.model_type,
            parameter_count=facts.parameter_count,
            dtype=facts.dtype,
            quantization=facts.quantization,
            context_length_tokens=facts.context_length_tokens
            or (parent.context_length_tokens if parent else None),
            licence=licence or (parent.licence if parent else ""),
            size_bytes=sum(blob.size_bytes for blob in blobs.values()),
            facts=facts.more,
            created_at=now,
        )
        Artifact.objects.bulk_create(
            Artifact(revision=revision, path=path, blob=blob) for path, blob in blobs.items()
        )
        audit.record(
            organization=organization,
            actor=actor,
            action="revision.publish",
            object_id=revision.pk,
            object_name=str(revision),
            after={"kind": kind, "source": source, "commit": commit},
            now=now,
        )
    return revision


def check_name(name: str) -> None:
    """Raises InvalidInput."""
    try:
        RegisteredModel._meta.get_field("name").clean(name, None)
    except ValidationError as error:
        raise InvalidInput(" ".join(error.messages), field="name") from error


def _take_model(
    organization: Organization, name: str, visibility: str, actor: audit.Actor, now: datetime
) -> RegisteredModel:
    """The organization's model of that name, made if new, locked until the transaction ends."""
    check_visibility(organization=organization, name=name, visibility=visibility)
    model, made = RegisteredModel.objects.get_or_create(
        organization=organization,
        name=name,
        defaults={"visibility": visibility, "created_at": now},
    )
    if made:
        audit.record(
            organization=organization,
            actor=actor,
            action="registered_model.create",
            object_id=model.pk,
            object_name=str(model),
            after={"visibility": visibility},
            now=now,
        )
    return RegisteredModel.objects.select_for_update(no_key=True).get(pk=model.pk)


def check_visibility(
    *, organization: Organization, name: str, visibility: str, field: str = "name"
) -> None:
    """Refuse to publish under a name that others read differently: weights that were meant for
    one organization would be open to all, or the other way round. Raises InvalidInput."""
    present = RegisteredModel.objects.owned_by(organization).filter(name=name).first()
    if present is not None and present.visibility != visibility:
        raise InvalidInput(
            f"{present} is {present.visibility}; this would be {visibility}.",
            field=field,
            remedy="Choose another name, or have an operator change the model's visibility.",
        )


def commit_of(blobs: Mapping[str, Blob]) -> str:
    """40 hex digits that name exactly these paths with exactly these contents."""
    lines = "".join(f"{path}\0{blob.sha256}\n" for path, blob in sorted(blobs.items()))
    return hashlib.sha256(lines.encode()).hexdigest()[:40]


@transaction.atomic
def request_import(
    *,
    organization: Organization,
    name: str,
    source_kind: str,
    source: str,
    source_revision: str = "",
    visibility: str = Visibility.PRIVATE,
    licence: str = "",
    may_read_any_folder: bool = False,
    may_use_hub_token: bool = False,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> RevisionImport:
    """Ask for an import; a control worker carries it out. Raises InvalidInput.

    Folders of the platform's machine are read only below `settings.FACTORY_IMPORT_FOLDERS`, unless
    the caller has that machine in hand anyway (`may_read_any_folder`). The platform's own hub
    token opens private repositories; it is for operators (`may_use_hub_token`).
    """
    check_name(name)
    check_visibility(organization=organization, name=name, visibility=visibility)
    kinds = {SourceKind.FOLDER, SourceKind.HUGGING_FACE, SourceKind.MODELSCOPE}
    if source_kind not in kinds:
        raise InvalidInput(
            f"{source_kind} is no source of imports.",
            field="source_kind",
            remedy=f"Use one of {', '.join(sorted(kinds))}.",
        )
    if not source.strip():
        raise InvalidInput("An import needs a source.", field="source")
    if source_kind == SourceKind.FOLDER:
        source = _check_folder(source, may_read_any_folder)
    elif not HUB_ID.fullmatch(source.strip()):
        raise InvalidInput(
            f"{source!r} is no hub id.", field="source", remedy="Write it as owner/name."
        )
    wanted = RevisionImport.objects.create(
        organization=organization,
        name=name,
        visibility=visibility,
        source_kind=source_kind,
        source=source.strip(),
        source_revision=source_revision,
        licence=licence,
        may_use_hub_token=may_use_hub_token,
        created_at=now,
        status_changed_at=now,
    )
    audit.record(
        organization=organization,
        actor=actor,
        action="import.request",
        object_id=wanted.pk,
        object_name=str(wanted),
        after={"source_kind": source_kind, "source": source},
        now=now,
    )
    jobs.enqueue("models_registry.run_import", import_id=str(wanted.pk))
    return wanted


def _check_folder(source: str, any_folder: bool) -> str:
    folder = Path(source.strip()).resolve()
    roots = [Path(root).resolve() for root in settings.FACTORY_IMPORT_FOLDERS]
    if not any_folder and not any(folder.is_relative_to(root) for root in roots):
        raise InvalidInput(
            "That folder is not open for imports.",
            field="source",
            remedy="Ask an operator to add it to FACTORY_IMPORT_FOLDERS, or to import it.",
        )
    return str(folder)
