from typing import Any

from django.contrib import admin
from django.forms import ModelForm
from django.http import HttpRequest
from django.utils import timezone

from accounts.admin import ReadOnly, actor_of
from usage import cost_centres
from usage.models import (
    CostCentre,
    IssuedStatement,
    RejectedEvent,
    Seal,
    StorageHolding,
    UsageEvent,
    UsageRecord,
)


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
    list_filter = (
        "is_interrupted",
        "is_streamed",
        "is_batch",
        "endpoint",
        "status_code",
        "organization",
    )
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
        "cost_centre",
        "of_hour",
        "sealed_at",
    )
    list_filter = (
        "item",
        "purpose",
        "pool_name",
        ("sealed_at", admin.EmptyFieldListFilter),
        ("of_hour", admin.EmptyFieldListFilter),
        "organization",
    )
    search_fields = ("model_name", "key_name", "subject_name", "cost_centre")
    date_hierarchy = "hour"
    list_select_related = ("organization",)


@admin.register(StorageHolding)
class StorageHoldingAdmin(Ledger):
    list_display = (
        "organization",
        "kind",
        "subject_name",
        "size_bytes",
        "held_at",
        "released_at",
    )
    list_filter = ("kind", ("released_at", admin.EmptyFieldListFilter), "organization")
    search_fields = ("subject_name", "subject_id")
    list_select_related = ("organization",)


@admin.register(Seal)
class SealAdmin(ReadOnly):
    list_display = ("organization", "sealed_until")
    list_select_related = ("organization",)


@admin.register(RejectedEvent)
class RejectedEventAdmin(ReadOnly):
    list_display = ("rejected_at", "entry_id", "position", "reason")
    search_fields = ("entry_id", "reason", "content")


@admin.register(IssuedStatement)
class IssuedStatementAdmin(ReadOnly):
    list_display = ("__str__", "organization", "month", "total", "currency", "issued_at")
    list_filter = ("month", "organization")
    search_fields = ("month", "organization__slug", "digest")
    list_select_related = ("organization",)


@admin.register(CostCentre)
class CostCentreAdmin(admin.ModelAdmin):
    """Rows are added, each ending the one before it from the present hour on."""

    list_display = (
        "organization",
        "code",
        "key_id",
        "deployment_name",
        "valid_from",
        "valid_until",
    )
    list_filter = (("valid_until", admin.EmptyFieldListFilter), "organization")
    search_fields = ("code", "key_id", "deployment_name")
    list_select_related = ("organization",)
    autocomplete_fields = ("organization",)
    fields = ("organization", "code", "key_id", "deployment_name")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(self, request: HttpRequest, obj: Any, form: ModelForm, change: bool) -> None:
        entry = cost_centres.set_cost_centre(
            organization=obj.organization,
            code=obj.code,
            key_id=obj.key_id,
            deployment_name=obj.deployment_name,
            actor=actor_of(request),
            now=timezone.now(),
        )
        obj.pk = entry.pk if entry else None
