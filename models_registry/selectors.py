"""Questions asked of the registry."""

from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from django.db.models import Count, Max, Prefetch, QuerySet

from accounts.models import Organization
from common.errors import NotFound
from models_registry.models import (
    AliasGate,
    EvaluationResult,
    RegisteredModel,
    Revision,
    RevisionImport,
)

LONGEST_CHAIN = 50  # ancestors and descendants shown; deeper families are cut, not looped over


@dataclass(frozen=True)
class LineageNode:
    """A revision, or something it was made from or with."""

    key: str
    kind: str  # revision, dataset_version, training_run
    label: str
    detail: str = ""
    object_id: str = ""
    is_focus: bool = False


@dataclass
class Lineage:
    """Nodes, and edges from what came before to what was made of it."""

    nodes: list[LineageNode] = field(default_factory=list)
    edges: list[tuple[str, str]] = field(default_factory=list)


def list_models(organization: Organization) -> QuerySet[RegisteredModel]:
    """What the organization may read, with `revision_count` and `changed_at`."""
    rows = RegisteredModel.objects.of(organization).select_related("organization")
    return rows.annotate(
        revision_count=Count("revisions"), changed_at=Max("revisions__created_at")
    ).order_by("organization__slug", "name")


def get_model(organization: Organization, model_id: UUID) -> RegisteredModel:
    """Raises NotFound."""
    model = list_models(organization).filter(pk=model_id).first()
    if model is None:
        raise NotFound("No such model.")
    return model


def list_revisions(organization: Organization) -> QuerySet[Revision]:
    """Revisions that the organization may read, newest first."""
    rows = Revision.objects.of(organization)
    return rows.select_related("registered_model__organization", "parent").order_by("-created_at")


def get_revision(organization: Organization, revision_id: UUID) -> Revision:
    """With the organization's own evaluation results. Raises NotFound."""
    results = list_results(organization)
    rows = list_revisions(organization).prefetch_related(results)
    revision = rows.filter(pk=revision_id).first()
    if revision is None:
        raise NotFound("No such revision.")
    return revision


def list_results(organization: Organization) -> "Prefetch[str]":
    """For `prefetch_related` on revisions: the evaluation results that the organization may see."""
    return Prefetch("evaluation_results", queryset=EvaluationResult.objects.of(organization))


def list_gates(organization: Organization, model_id: UUID) -> QuerySet[AliasGate]:
    """Of the organization's own model, by alias. Raises NotFound."""
    model = RegisteredModel.objects.owned_by(organization).filter(pk=model_id).first()
    if model is None:
        raise NotFound("No such model.")
    return AliasGate.objects.filter(registered_model=model).order_by("alias")


def list_imports(organization: Organization) -> QuerySet[RevisionImport]:
    return RevisionImport.objects.of(organization).select_related("revision__registered_model")


def get_lineage(organization: Organization, revision: Revision) -> Lineage:
    """The revision's ancestors and descendants, with the data and runs that made each.

    Only what the organization may read is named: a descendant that another organization made of
    a shared base is left out.
    """
    graph = Lineage()
    readable = Revision.objects.of(organization).select_related("registered_model__organization")
    chain: list[Revision] = [revision]
    while chain[0].parent_id and len(chain) < LONGEST_CHAIN:
        parent = readable.filter(pk=chain[0].parent_id).first()
        if parent is None:
            break
        chain.insert(0, parent)
    family = list(chain)
    frontier = [revision.pk]
    while frontier and len(family) < LONGEST_CHAIN:
        children = list(readable.filter(parent_id__in=frontier).order_by("created_at")[:20])
        family += children
        frontier = [child.pk for child in children]
    known = {member.pk for member in family}
    for member in family:
        _add(graph, member, is_focus=member.pk == revision.pk)
        if member.parent_id in known:
            graph.edges.append((f"revision:{member.parent_id}", f"revision:{member.pk}"))
    return graph


def _add(graph: Lineage, revision: Revision, *, is_focus: bool) -> None:
    key = f"revision:{revision.pk}"
    graph.nodes.append(
        LineageNode(
            key=key,
            kind="revision",
            label=str(revision),
            detail=revision.get_kind_display(),
            object_id=str(revision.pk),
            is_focus=is_focus,
        )
    )
    seen = {node.key for node in graph.nodes}
    for kind in ("dataset_version", "training_run"):
        made_with: dict[str, Any] = revision.lineage.get(kind) or {}
        if not made_with:
            continue
        other = f"{kind}:{made_with.get('id', '')}"
        if other not in seen:
            graph.nodes.append(
                LineageNode(
                    key=other,
                    kind=kind,
                    label=str(made_with.get("name", "")),
                    object_id=str(made_with.get("id", "")),
                )
            )
        graph.edges.append((other, key))
