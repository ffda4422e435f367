from django.contrib import admin

from accounts.admin import ReadOnly, ReadOnlyInline
from openai_api.models import Batch, BatchLine, File, FineTuningJob, JobEvent


class EventInline(ReadOnlyInline):
    model = JobEvent
    fields = ["at", "level", "message"]


@admin.register(File)
class FileAdmin(ReadOnly):
    list_display = ["filename", "organization", "purpose", "size_bytes", "created_at", "deleted_at"]
    list_filter = ["purpose", "organization"]
    search_fields = ["id", "filename", "organization__slug"]
    date_hierarchy = "created_at"


@admin.register(FineTuningJob)
class FineTuningJobAdmin(ReadOnly):
    list_display = ["fine_tuned_model", "organization", "status", "method", "run", "created_at"]
    list_filter = ["status", "method", "organization"]
    list_select_related = ["organization", "run"]
    search_fields = ["id", "fine_tuned_model", "model_name", "organization__slug"]
    date_hierarchy = "created_at"
    inlines = [EventInline]


@admin.register(Batch)
class BatchAdmin(ReadOnly):
    list_display = [
        "id",
        "organization",
        "endpoint",
        "status",
        "lines_completed",
        "lines_failed",
        "lines_total",
        "created_at",
    ]
    list_filter = ["status", "endpoint", "organization"]
    list_select_related = ["organization"]
    search_fields = ["id", "organization__slug"]
    date_hierarchy = "created_at"


@admin.register(BatchLine)
class BatchLineAdmin(ReadOnly):
    """How far each line is, without what it asks or was answered."""

    list_display = ["id", "batch", "number", "model_name", "status_code", "attempts", "error_code"]
    list_filter = ["status_code"]
    search_fields = ["batch__id", "custom_id", "model_name"]
    exclude = ["answer"]
