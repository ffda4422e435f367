from django.contrib import admin

from accounts.admin import ReadOnly, ReadOnlyInline
from openai_api.models import File, FineTuningJob, JobEvent


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
