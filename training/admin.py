from typing import Any

from django.contrib import admin, messages
from django.db.models import Count, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from accounts.admin import ReadOnly, ReadOnlyInline, actor_of
from common.errors import DomainError
from training import services
from training.models import (
    Checkpoint,
    Dataset,
    DatasetFinding,
    DatasetSource,
    DatasetSplit,
    DatasetVersion,
    Evaluation,
    EvaluationAnswer,
    TokenCount,
    TrainingEvent,
    TrainingMetric,
    TrainingRun,
    TrainingSample,
)


class LinkedInline(ReadOnlyInline):
    show_change_link = True


class VersionInline(LinkedInline):
    model = DatasetVersion
    fields = ["number", "format", "created_at"]


class SplitInline(LinkedInline):
    model = DatasetSplit
    fields = ["name", "examples", "size_bytes", "token_count", "longest_tokens", "blob"]


class EventInline(LinkedInline):
    model = TrainingEvent
    fields = ["at", "kind", "message"]
    ordering = ["-at"]


class CheckpointInline(LinkedInline):
    model = Checkpoint
    fields = ["step", "size_bytes", "created_at", "pruned_at"]


@admin.register(Dataset)
class DatasetAdmin(admin.ModelAdmin):
    list_display = ["name", "organization", "versions_", "created_at"]
    list_filter = ["organization"]
    search_fields = ["name", "description", "organization__slug"]
    date_hierarchy = "created_at"
    readonly_fields = ["organization", "name", "created_at"]
    inlines = [VersionInline]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Dataset]:
        rows: QuerySet[Dataset] = super().get_queryset(request)
        return rows.annotate(version_count=Count("versions"))

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: object | None = None) -> bool:
        return False

    @admin.display(description=_("versions"), ordering="version_count")
    def versions_(self, row: Any) -> int:
        return int(row.version_count)


@admin.register(DatasetVersion)
class DatasetVersionAdmin(ReadOnly):
    list_display = ["__str__", "organization_", "examples_", "created_at"]
    list_filter = ["dataset__organization", "format"]
    list_select_related = ["dataset__organization"]
    search_fields = ["dataset__name", "dataset__organization__slug"]
    date_hierarchy = "created_at"
    inlines = [SplitInline]

    @admin.display(description=_("organization"), ordering="dataset__organization")
    def organization_(self, row: DatasetVersion) -> str:
        return str(row.dataset.organization)

    @admin.display(description=_("examples"))
    def examples_(self, row: DatasetVersion) -> object:
        return row.report.get("examples")


@admin.register(DatasetSplit)
class DatasetSplitAdmin(ReadOnly):
    list_display = ["__str__", "examples", "size_bytes", "token_count", "longest_tokens"]
    list_select_related = ["version__dataset"]
    search_fields = ["name", "version__dataset__name", "blob__sha256"]


@admin.register(DatasetSource)
class DatasetSourceAdmin(ReadOnly):
    list_display = ["__str__", "size_bytes", "blob"]
    list_select_related = ["version__dataset", "blob"]
    search_fields = ["name", "file_name", "version__dataset__name", "blob__sha256"]


@admin.register(DatasetFinding)
class DatasetFindingAdmin(ReadOnly):
    list_display = ["__str__", "version", "field", "other_split", "other_line", "score"]
    list_filter = ["kind"]
    list_select_related = ["version__dataset"]
    search_fields = ["version__dataset__name", "kind", "split"]
    show_full_result_count = False


@admin.register(TokenCount)
class TokenCountAdmin(ReadOnly):
    list_display = ["__str__", "version", "revision", "status", "created_at"]
    list_filter = ["status"]
    list_select_related = ["version__dataset", "revision__registered_model__organization"]
    search_fields = ["version__dataset__name", "revision__registered_model__name"]


@admin.register(TrainingRun)
class TrainingRunAdmin(ReadOnly):
    list_display = [
        "name",
        "organization",
        "status",
        "status_reason",
        "base_revision",
        "dataset_version",
        "node",
        "attempt",
        "progress_",
        "train_loss",
        "created_at",
    ]
    list_filter = ["status", "tuning", "organization", "node"]
    list_select_related = [
        "organization",
        "base_revision__registered_model__organization",
        "dataset_version__dataset",
        "node",
    ]
    search_fields = ["id", "name", "output_name", "organization__slug"]
    date_hierarchy = "created_at"
    inlines = [EventInline, CheckpointInline]
    actions = ["cancel"]
    fieldsets = [
        (None, {"fields": ["name", "organization", "status", "status_reason", "message"]}),
        (
            _("Wanted"),
            {
                "fields": [
                    "base_revision",
                    "dataset_version",
                    "train_split",
                    "eval_split",
                    "output_name",
                    "method",
                    "tuning",
                    "hyperparameters",
                    "accelerators_wanted",
                    "pool_name",
                    "cancel_requested_at",
                ]
            },
        ),
        (
            _("Observed"),
            {
                "fields": [
                    "node",
                    "allocation",
                    "attempt",
                    "failures",
                    "next_attempt_at",
                    "step",
                    "total_steps",
                    "train_loss",
                    "eval_loss",
                    "tokens_total",
                    "tokens_per_second",
                    "seconds_left",
                    "result_revision",
                    "created_at",
                    "started_at",
                    "ended_at",
                    "status_changed_at",
                    "leased_until",
                    "log_tail",
                ]
            },
        ),
    ]

    @admin.display(description=_("steps"))
    def progress_(self, row: TrainingRun) -> str:
        return f"{row.step}/{row.total_steps or '?'}"

    @admin.action(description=_("Cancel"), permissions=["cancel"])
    def cancel(self, request: HttpRequest, rows: QuerySet[TrainingRun]) -> None:
        done = 0
        for row in rows:
            try:
                services.cancel_training_run(
                    organization=row.organization,
                    run_id=row.pk,
                    actor=actor_of(request),
                    now=timezone.now(),
                )
                done += 1
            except DomainError as refusal:
                self.message_user(request, refusal.message, messages.WARNING)
        text = ngettext("%d run is being cancelled.", "%d runs are being cancelled.", done)
        self.message_user(request, text % done)

    def has_cancel_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("training.change_trainingrun")


@admin.register(TrainingEvent)
class TrainingEventAdmin(ReadOnly):
    list_display = ["at", "run", "kind", "message"]
    list_filter = ["kind"]
    list_select_related = ["run"]
    search_fields = ["run__name", "message"]
    date_hierarchy = "at"


@admin.register(TrainingMetric)
class TrainingMetricAdmin(ReadOnly):
    list_display = ["run", "step", "loss", "eval_loss", "tokens_per_second", "at"]
    list_select_related = ["run"]
    search_fields = ["run__name"]
    show_full_result_count = False


@admin.register(Checkpoint)
class CheckpointAdmin(ReadOnly):
    list_display = ["run", "step", "size_bytes", "created_at", "pruned_at"]
    list_filter = [("pruned_at", admin.EmptyFieldListFilter)]
    list_select_related = ["run"]
    search_fields = ["run__name"]
    date_hierarchy = "created_at"


@admin.register(Evaluation)
class EvaluationAdmin(ReadOnly):
    list_display = [
        "name",
        "organization",
        "status",
        "status_reason",
        "split",
        "progress_",
        "created_at",
    ]
    list_filter = ["status", "organization"]
    list_select_related = ["organization", "split__version__dataset"]
    search_fields = ["id", "name", "organization__slug"]
    date_hierarchy = "created_at"

    @admin.display(description=_("answers"))
    def progress_(self, row: Evaluation) -> str:
        return f"{row.answers_done}/{row.examples_total * len(row.model_names)}"


@admin.register(EvaluationAnswer)
class EvaluationAnswerAdmin(ReadOnly):
    list_display = ["evaluation", "line", "model_name", "is_exact", "answer", "error"]
    list_filter = ["is_exact", ("error", admin.EmptyFieldListFilter)]
    list_select_related = ["evaluation"]
    search_fields = ["evaluation__name", "model_name", "prompt"]
    show_full_result_count = False


@admin.register(TrainingSample)
class TrainingSampleAdmin(ReadOnly):
    list_display = ["__str__", "run"]
    list_select_related = ["run"]
    search_fields = ["run__name"]
