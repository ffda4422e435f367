from django.contrib import admin

from accounts.admin import ReadOnly
from usage.models import UsageEvent, UsageRecord


class Ledger(ReadOnly):
    """The ledger grows without end: its rows are not counted for a page."""

    show_full_result_count = False


@admin.register(UsageEvent)
class UsageEventAdmin(Ledger):
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
class UsageRecordAdmin(Ledger):
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
