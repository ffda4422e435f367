"""Moving aliases, and the gates that they have to pass."""

from datetime import datetime
from typing import Any
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils.translation import gettext as _

from accounts import audit
from accounts.models import Organization
from common.errors import DomainError, InvalidInput, NotAllowed, NotFound
from models_registry import gates
from models_registry.choices import RevisionKind, SourceKind
from models_registry.gates import GateNotPassed
from models_registry.models import Alias, AliasGate, RegisteredModel, Revision
from models_registry.rules import Rule

MAX_REASON_CHARACTERS = 500


class ParityFailed(DomainError):
    """What is served of a trained revision was found to be another model than was trained."""

    code = "parity_failed"


@transaction.atomic
def move_alias(
    *,
    organization: Organization,
    model_id: UUID,
    alias: str,
    revision_id: UUID,
    override_reason: str = "",
    may_override: bool = False,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> Alias:
    """Point an alias of the organization's own model at one of its revisions.

    A gate on the alias must be passed. Operators (`may_override`) may go round it with a reason,
    which the audit log keeps. Raises NotFound, InvalidInput, GateNotPassed, NotAllowed,
    and ParityFailed for one whose served model is not the trained one: that nobody goes round.
    """
    _check_name(alias)
    model = _take_model(organization, model_id)
    revision = Revision.objects.filter(registered_model=model, pk=revision_id).first()
    if revision is None:
        raise NotFound("No such model, or no such revision of it.")
    if revision.kind == RevisionKind.ADAPTER and revision.parent is None:
        raise InvalidInput("An adapter without its base cannot be promoted.", field="revision_id")
    if revision.parity_status == "failed":
        raise ParityFailed(
            f"{revision} is not served as it was trained: {revision.parity.get('reason')}.",
            field="revision_id",
            remedy="Merge it again, into the revision that its adapter was trained on."
            if revision.source_kind == SourceKind.MERGE
            else "Put base, template and tokenizer as they were in training, and train again.",
        )
    before = Alias.objects.filter(registered_model=model, name=alias).first()
    shown = _pass_gate(
        organization,
        model,
        alias,
        revision,
        holder=before.revision if before is not None else None,
        override_reason=override_reason.strip(),
        may_override=may_override,
        now=now,
    )
    row, _made = Alias.objects.update_or_create(
        registered_model=model, name=alias, defaults={"revision": revision, "moved_at": now}
    )
    audit.record(
        organization=organization,
        actor=actor,
        action="alias.move",
        object_id=row.pk,
        object_name=str(row),
        before={"revision": str(before.revision)} if before else {},
        after={"revision": str(revision)} | shown,
        now=now,
    )
    return row


@transaction.atomic
def set_gate(
    *,
    organization: Organization,
    model_id: UUID,
    alias: str,
    rule: Rule,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> AliasGate:
    """From now on the alias moves only to revisions that have shown what the rule asks for. Where
    it points already stays. Raises NotFound, InvalidInput."""
    _check_name(alias)
    model = _take_model(organization, model_id)
    before = AliasGate.objects.filter(registered_model=model, alias=alias).first()
    gate, _made = AliasGate.objects.update_or_create(
        registered_model=model,
        alias=alias,
        defaults={"rule": rule.as_json(), "changed_at": now},
        create_defaults={"rule": rule.as_json(), "changed_at": now, "created_at": now},
    )
    _record(gate, "alias_gate.set", before=before, after=gate, actor=actor, now=now)
    return gate


@transaction.atomic
def remove_gate(
    *,
    organization: Organization,
    model_id: UUID,
    alias: str,
    actor: audit.Actor = audit.SYSTEM,
    now: datetime,
) -> None:
    """The alias moves freely again. Raises NotFound."""
    model = _take_model(organization, model_id)
    gate = AliasGate.objects.filter(registered_model=model, alias=alias).first()
    if gate is None:
        raise NotFound("The alias has no gate.")
    _record(gate, "alias_gate.remove", before=gate, after=None, actor=actor, now=now)
    gate.delete()


def _check_name(alias: str) -> None:
    try:
        Alias._meta.get_field("name").clean(alias, None)
    except ValidationError as error:
        raise InvalidInput(" ".join(error.messages), field="alias") from error


def _take_model(organization: Organization, model_id: UUID) -> RegisteredModel:
    rows = RegisteredModel.objects.owned_by(organization).select_for_update(no_key=True)
    model = rows.filter(pk=model_id).first()
    if model is None:
        raise NotFound("No such model, or no such revision of it.")
    return model


def _pass_gate(
    organization: Organization,
    model: RegisteredModel,
    alias: str,
    revision: Revision,
    *,
    holder: Revision | None,
    override_reason: str,
    may_override: bool,
    now: datetime,
) -> dict[str, Any]:
    """For the audit log: what the revision has shown, or why nobody asked."""
    gate = AliasGate.objects.filter(registered_model=model, alias=alias).first()
    if gate is None:
        return {}
    seen = gates.judge(
        Rule.read(gate.rule), organization=organization, revision=revision, holder=holder, now=now
    )
    if seen.is_passed:
        return {"gate": "passed", "evidence": seen.evidence}
    if not override_reason:
        said = " ".join(seen.reasons)
        raise GateNotPassed(
            _("%(alias)s has a gate. %(reasons)s") % {"alias": alias, "reasons": said},
            field="revision",
            remedy=seen.remedy,
            details={"reasons": list(seen.reasons), "evidence": seen.evidence},
        )
    if not may_override:
        raise NotAllowed(
            "Only operators may go round a gate.",
            field="override_reason",
            remedy=seen.remedy,
        )
    if len(override_reason) > MAX_REASON_CHARACTERS:
        raise InvalidInput(
            "The reason is too long.",
            field="override_reason",
            remedy=f"Use at most {MAX_REASON_CHARACTERS} characters.",
        )
    return {
        "gate": "overridden",
        "override_reason": override_reason,
        "reasons": list(seen.reasons),
        "evidence": seen.evidence,
    }


def _record(
    gate: AliasGate,
    action: str,
    *,
    before: AliasGate | None,
    after: AliasGate | None,
    actor: audit.Actor,
    now: datetime,
) -> None:
    audit.record(
        organization=gate.registered_model.organization,
        actor=actor,
        action=action,
        object_id=gate.pk,
        object_name=str(gate),
        before=before.rule if before is not None else {},
        after=after.rule if after is not None else {},
        now=now,
    )
