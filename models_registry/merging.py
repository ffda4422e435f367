"""Asking for an adapter to be merged into its base; a control worker carries it out."""

import os
from datetime import datetime
from pathlib import Path
from uuid import UUID

from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from accounts import audit
from accounts.models import Organization
from common import jobs
from common.errors import DomainError, InvalidInput, NotFound
from models_registry import services, storage
from models_registry.choices import MERGE_OPEN, MergeStatus, RevisionKind, SourceKind
from models_registry.models import RegisteredModel, Revision, RevisionMerge

MAX_OPEN = 4  # of an organization, at once
SPARE_BYTES = 1 << 30  # left on a disk beside what the merge needs
SUFFIX = "-merged"


class NotAnAdapter(InvalidInput):
    """There is nothing to merge: the revision has all of its weights."""

    code = "not_an_adapter"


class BaseUnusable(DomainError):
    """The base is missing, or has no weights that could be added to."""

    code = "base_unusable"


class NameTaken(DomainError):
    """A model of that name holds something else."""

    code = "name_taken"


class NoRoom(DomainError):
    """The platform's disk has no room for the merged weights."""

    code = "no_disk_space"


class TooManyMerges(DomainError):
    """The organization has as many merges under way as it may."""

    code = "too_many_merges"


def request_merge(
    *,
    organization: Organization,
    revision_id: UUID,
    name: str = "",
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> RevisionMerge:
    """Want an adapter merged into its base, as the next revision of `name` (the adapter's own model
    with "-merged" behind it unless told otherwise).

    Asked for again it is the same merge, unless that has failed. Raises NotFound, InvalidInput,
    NotAnAdapter, BaseUnusable, NameTaken, TooManyMerges, NoRoom.
    """
    adapter = _adapter(organization, revision_id)
    name = name or default_name(adapter)
    present = _present(organization, adapter, name)
    if present is not None:
        return present
    base = _base(organization, adapter)
    services.check_name(name)
    services.check_visibility(organization=organization, name=name, visibility="private")
    _check_name_is_free(organization, name, adapter)
    _check_disk(base, adapter)
    try:
        with transaction.atomic():
            merge = _create(organization, adapter, name, actor=actor, now=now)
    except IntegrityError:  # asked for twice at the same moment
        present = _present(organization, adapter, name)
        if present is None:
            raise
        return present
    return merge


def list_merges(organization: Organization) -> QuerySet[RevisionMerge]:
    """Merges that the organization has asked for, newest first."""
    rows = RevisionMerge.objects.of(organization)
    return rows.select_related("revision__registered_model", "adapter__registered_model")


def get_merge(organization: Organization, merge_id: UUID) -> RevisionMerge:
    """Raises NotFound."""
    merge = list_merges(organization).filter(pk=merge_id).first()
    if merge is None:
        raise NotFound("No such merge.")
    return merge


def uses_dora(revision: Revision) -> bool:
    """Whether the revision is an adapter that rescales its base, which no engine adds on the way."""
    if revision.kind != RevisionKind.ADAPTER:
        return False
    trained = revision.lineage.get("hyperparameters") or {}
    return bool(revision.facts.get("dora")) or trained.get("lora_variant") == "dora"


def default_name(adapter: Revision) -> str:
    """What the merged model is called where nobody says otherwise."""
    return adapter.registered_model.name[: 96 - len(SUFFIX)].rstrip("._-") + SUFFIX


def _adapter(organization: Organization, revision_id: UUID) -> Revision:
    rows = Revision.objects.of(organization).select_related("registered_model", "parent")
    revision = rows.filter(pk=revision_id).first()
    if revision is None:
        raise NotFound("No such revision.")
    if revision.kind != RevisionKind.ADAPTER:
        raise NotAnAdapter(
            f"{revision} is no adapter: it has all of its weights.",
            field="revision",
            remedy="Deploy it as it is, or choose an adapter's revision.",
        )
    if revision.architecture not in ("", "LORA"):
        raise NotAnAdapter(
            f"{revision} is an adapter of type {revision.architecture}; only LoRA is merged.",
            field="revision",
            remedy="Merge it with PEFT's merge_and_unload and import the result.",
        )
    return revision


def _present(organization: Organization, adapter: Revision, name: str) -> RevisionMerge | None:
    rows = list_merges(organization).filter(adapter=adapter, name=name)
    return rows.exclude(status=MergeStatus.FAILED).first()


def _base(organization: Organization, adapter: Revision) -> Revision:
    parents = Revision.objects.of(organization).filter(children=adapter)
    base = parents.first()
    if base is None or not base.artifacts.filter(path__endswith=".safetensors").exists():
        raise BaseUnusable(
            f"The base of {adapter} is not among your models.",
            field="revision",
            remedy="Import the base, or ask its owner to share it.",
        )
    if base.kind == RevisionKind.ADAPTER:
        raise BaseUnusable(
            f"{base}, which {adapter} is made for, is an adapter itself.",
            field="revision",
            remedy=f"Merge {base} first, and train on the result.",
        )
    if base.quantization:
        raise BaseUnusable(
            f"The weights of {base} are quantized ({base.quantization}): nothing can be added to"
            " them without rounding anew.",
            field="revision",
            remedy="Train on the original weights, or serve the adapter on this base as it is.",
        )
    return base


def _check_name_is_free(organization: Organization, name: str, adapter: Revision) -> None:
    """Only merges of one model's adapters share a name."""
    family = adapter.registered_model_id
    model = RegisteredModel.objects.owned_by(organization).filter(name=name).first()
    latest = model.revisions.order_by("-number").first() if model is not None else None
    is_other = latest is not None and not (
        latest.source_kind == SourceKind.MERGE
        and latest.parent is not None
        and latest.parent.registered_model_id == family
    )
    waiting = RevisionMerge.objects.of(organization).filter(name=name, status__in=MERGE_OPEN)
    if is_other or waiting.exclude(adapter__registered_model=family).exists():
        raise NameTaken(
            f"A model called {name} holds something else.",
            field="name",
            remedy="Choose another name.",
        )


def _check_disk(base: Revision, adapter: Revision) -> None:
    """The merged files lie in the data folder until they are stored."""
    needed = base.size_bytes + adapter.size_bytes + SPARE_BYTES
    data = Path(settings.FACTORY_DATA)
    data.mkdir(parents=True, exist_ok=True)
    places = [(data, free_bytes(data)), (Path(settings.FACTORY_STORAGE), storage.free_bytes())]
    if len({place.stat().st_dev for place, _ in places}) == 1:
        needed += base.size_bytes
    free = min(room for _, room in places)
    if free < needed:
        raise NoRoom(
            f"Merging takes {needed / 1e9:.1f} GB on the platform's disk, and {free / 1e9:.1f} GB"
            " are free.",
            field="revision",
            remedy="Ask an operator to free space, then merge it again.",
        )


def free_bytes(folder: Path) -> int:
    """Room left on the disk of a folder."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def _create(
    organization: Organization,
    adapter: Revision,
    name: str,
    *,
    actor: audit.Actor,
    now: datetime,
) -> RevisionMerge:
    # Two that ask at once must not both count the others before either is there.
    Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)
    waiting = RevisionMerge.objects.of(organization).filter(status__in=MERGE_OPEN).count()
    if waiting >= MAX_OPEN:
        raise TooManyMerges(
            f"{waiting} merges are under way; {MAX_OPEN} are allowed at once.",
            field="revision",
            remedy="Wait until one of them has ended.",
        )
    merge = RevisionMerge.objects.create(
        organization=organization,
        adapter=adapter,
        name=name,
        status_changed_at=now,
        created_at=now,
    )
    audit.record(
        organization=organization,
        actor=actor,
        action="revision.merge",
        object_id=merge.pk,
        object_name=str(merge),
        after={"adapter": str(adapter), "base": str(adapter.parent), "name": name},
        now=now,
    )
    jobs.enqueue("models_registry.run_merge", merge_id=str(merge.pk))
    return merge
