from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest

from accounts.admin import Audited, ReadOnly, ReadOnlyInline
from models_registry.models import (
    Alias,
    Artifact,
    Blob,
    EvaluationResult,
    RegisteredModel,
    Revision,
    RevisionImport,
    Trial,
)


class RevisionInline(ReadOnlyInline):
    model = Revision
    fields = ["number", "kind", "architecture", "parameter_count", "dtype", "size_bytes"]
    show_change_link = True


class AliasInline(ReadOnlyInline):
    model = Alias
    fields = ["name", "revision", "moved_at"]


class ArtifactInline(ReadOnlyInline):
    model = Artifact
    fields = ["path", "blob"]


class EvaluationResultInline(ReadOnlyInline):
    model = EvaluationResult
    fields = ["dataset_name", "split", "examples", "metrics", "created_at"]


@admin.register(RegisteredModel)
class RegisteredModelAdmin(Audited):
    list_display = ["name", "organization", "visibility", "created_at"]
    list_filter = ["visibility", "organization"]
    list_select_related = ["organization"]
    search_fields = ["name", "organization__slug", "description"]
    readonly_fields = ["organization", "name", "created_at"]
    inlines = [AliasInline, RevisionInline]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False  # models come from imports and runs

    def has_delete_permission(self, request: HttpRequest, obj: object | None = None) -> bool:
        return False


@admin.register(Revision)
class RevisionAdmin(ReadOnly):
    list_display = ["__str__", "kind", "architecture", "parameter_count", "dtype", "created_at"]
    list_filter = ["kind", "architecture", "source_kind"]
    search_fields = ["registered_model__name", "commit", "source"]
    date_hierarchy = "created_at"
    inlines = [ArtifactInline, EvaluationResultInline]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Revision]:
        rows: QuerySet[Revision] = super().get_queryset(request)
        return rows.select_related("registered_model__organization")


@admin.register(RevisionImport)
class RevisionImportAdmin(ReadOnly):
    list_display = ["name", "organization", "source", "status", "attempts", "created_at"]
    list_filter = ["status", "source_kind"]
    search_fields = ["name", "source", "organization__slug"]
    date_hierarchy = "created_at"


@admin.register(Trial)
class TrialAdmin(ReadOnly):
    list_display = ["asked_name", "organization", "revision", "status", "created_at"]
    list_filter = ["status"]
    search_fields = ["asked_name", "organization__slug"]
    date_hierarchy = "created_at"


@admin.register(Blob)
class BlobAdmin(ReadOnly):
    list_display = ["sha256", "size_bytes", "created_at"]
    search_fields = ["sha256"]
    show_full_result_count = False
