from django.contrib import admin
from django.http import HttpRequest

from usage.models import UsageEvent, UsageRecord


class ReadOnly(admin.ModelAdmin):
    """The ledger is written by the platform alone."""

    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: object | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: object | None = None) -> bool:
        return False


@admin.register(UsageEvent)
class UsageEventAdmin(ReadOnly):
    list_display = (
        "at",
        "organization",
        "key_name",
        "model_name",
        "deployment_name",
        "endpoint",
        "input_tokens",
        "output_tokens",
        "status_code",
        "is_interrupted",
        "duration_milliseconds",
    )
    list_filter = ("is_interrupted", "is_streamed", "endpoint", "status_code", "organization")
    search_fields = ("request_id", "key_name", "model_name", "deployment_name")
    date_hierarchy = "at"
    list_select_related = ("organization",)


@admin.register(UsageRecord)
class UsageRecordAdmin(ReadOnly):
    list_display = (
        "hour",
        "organization",
        "item",
        "quantity",
        "model_name",
        "key_name",
        "accelerator_type_slug",
        "pool_name",
        "purpose",
        "subject_name",
        "sealed_at",
    )
    list_filter = (
        "item",
        "purpose",
        "pool_name",
        ("sealed_at", admin.EmptyFieldListFilter),
        "organization",
    )
    search_fields = ("model_name", "key_name", "subject_name", "accelerator_type_slug")
    date_hierarchy = "hour"
    list_select_related = ("organization",)
