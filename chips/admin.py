"""Hardware and the price book in the admin, arranged for those who run the place."""

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db import transaction
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from accounts import audit
from accounts.admin import Audited, ReadOnly, ReadOnlyInline, actor_of
from chips import services
from chips.models import (
    Accelerator,
    AcceleratorType,
    AllocatedSlot,
    Allocation,
    FreeAllowance,
    Node,
    Pool,
    PoolGrant,
    PriceEntry,
)
from common.errors import DomainError


@admin.register(AcceleratorType)
class AcceleratorTypeAdmin(Audited):
    list_display = [
        "slug",
        "vendor",
        "model",
        "vendor_country",
        "memory_bytes",
        "torch_device",
        "slots",
        "confidence",
    ]
    list_filter = ["vendor", "vendor_country", "torch_device", "confidence"]
    search_fields = ["slug", "vendor", "model", "name_match"]


class GrantInline(admin.TabularInline):
    model = PoolGrant
    extra = 0
    autocomplete_fields = ["organization"]
    readonly_fields = ["created_at"]


class NodeInline(ReadOnlyInline):
    model = Node
    fields = ["name", "status", "address", "cordoned_at", "last_heartbeat_at"]
    show_change_link = True


@admin.register(Pool)
class PoolAdmin(Audited):
    list_display = ["name", "region", "is_open", "node_count", "created_at"]
    list_filter = ["is_open", "region"]
    search_fields = ["name", "description"]
    readonly_fields = ["created_at"]
    inlines = [GrantInline, NodeInline]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Pool]:
        rows: QuerySet[Pool] = super().get_queryset(request)
        return rows.annotate(_nodes=Count("nodes"))

    @admin.display(description=_("nodes"), ordering="_nodes")
    def node_count(self, row: Any) -> int:
        return int(row._nodes)

    def save_model(
        self, request: HttpRequest, obj: Any, form: forms.ModelForm, change: bool
    ) -> None:
        if not change:
            obj.created_at = timezone.now()
        super().save_model(request, obj, form, change)

    def save_formset(
        self,
        request: HttpRequest,
        form: forms.ModelForm,
        formset: forms.BaseModelFormSet,
        change: bool,
    ) -> None:
        for each in formset.forms:
            if isinstance(each.instance, PoolGrant) and each.instance._state.adding:
                each.instance.created_at = timezone.now()
        super().save_formset(request, form, formset, change)


@admin.register(PoolGrant)
class PoolGrantAdmin(ReadOnly):
    list_display = ["pool", "organization", "created_at"]
    list_filter = ["pool"]
    list_select_related = ["pool", "organization"]
    search_fields = ["pool__name", "organization__slug"]
    date_hierarchy = "created_at"


class AcceleratorInline(ReadOnlyInline):
    model = Accelerator
    fields = ["index", "type", "device_id", "memory_bytes", "slots", "status", "last_seen_at"]
    show_change_link = True


@admin.register(Node)
class NodeAdmin(ReadOnly):
    """Agents write nodes; people cordon them and take away those that are lost for good."""

    list_display = ["name", "pool", "status", "status_reason", "cordoned_at", "last_heartbeat_at"]
    list_filter = ["status", "pool", ("cordoned_at", admin.EmptyFieldListFilter)]
    list_select_related = ["pool"]
    search_fields = ["name", "address", "cordon_reason"]
    date_hierarchy = "registered_at"
    inlines = [AcceleratorInline]
    actions = ["cordon", "uncordon"]

    def has_cordon_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("chips.change_node")

    @admin.action(description=_("Cordon: place nothing new there"), permissions=["cordon"])
    def cordon(self, request: HttpRequest, queryset: QuerySet[Node]) -> None:
        for row in queryset:
            services.cordon_node(node_id=row.pk, actor=actor_of(request), now=timezone.now())
        _tell(request, len(queryset))

    @admin.action(description=_("Uncordon: place there again"), permissions=["cordon"])
    def uncordon(self, request: HttpRequest, queryset: QuerySet[Node]) -> None:
        for row in queryset:
            services.uncordon_node(node_id=row.pk, actor=actor_of(request), now=timezone.now())
        _tell(request, len(queryset))


@admin.register(Accelerator)
class AcceleratorAdmin(ReadOnly):
    list_display = ["device_id", "node", "type", "status", "slots", "held", "last_seen_at"]
    list_filter = ["status", "node__pool", "type"]
    list_select_related = ["node", "type"]
    search_fields = ["device_id", "node__name", "type__slug"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Accelerator]:
        live = Q(allocated_slots__released_at__isnull=True)
        rows: QuerySet[Accelerator] = super().get_queryset(request)
        return rows.annotate(_held=Count("allocated_slots", filter=live))

    @admin.display(description=_("slots held"), ordering="_held")
    def held(self, row: Any) -> int:
        return int(row._held)


class SlotInline(ReadOnlyInline):
    model = AllocatedSlot
    fields = ["accelerator", "slot", "released_at"]


@admin.register(Allocation)
class AllocationAdmin(ReadOnly):
    list_display = [
        "holder_name",
        "subject_name",
        "organization",
        "purpose",
        "node_name",
        "accelerator_share",
        "held_at",
        "released_at",
    ]
    list_filter = [
        ("released_at", admin.EmptyFieldListFilter),
        "purpose",
        "pool_name",
        "accelerator_type_slug",
    ]
    list_select_related = ["organization"]
    search_fields = ["holder_id", "holder_name", "subject_name", "node_name", "organization__slug"]
    date_hierarchy = "held_at"
    show_full_result_count = False
    inlines = [SlotInline]


@admin.register(AllocatedSlot)
class AllocatedSlotAdmin(ReadOnly):
    list_display = ["accelerator", "slot", "allocation", "released_at"]
    list_filter = [("released_at", admin.EmptyFieldListFilter)]
    list_select_related = ["accelerator__node", "allocation"]
    search_fields = ["accelerator__device_id", "accelerator__node__name"]
    show_full_result_count = False


class PriceForm(forms.ModelForm):
    class Meta:
        model = PriceEntry
        exclude = ["valid_until"]  # noqa: DJ006 (all but the end, which the next entry sets)

    def clean(self) -> dict[str, Any]:
        """Says what `set_price` would say, by setting the price and taking it back."""
        values: dict[str, Any] = super().clean() or {}
        if self.errors:
            return values
        try:
            with transaction.atomic():
                services.set_price(**values, now=timezone.now())
                transaction.set_rollback(True)
        except DomainError as error:
            self.add_error(
                error.field if error.field in self.fields else None,
                f"{error.message} {error.remedy}".strip(),
            )
        return values


@admin.register(PriceEntry)
class PriceEntryAdmin(admin.ModelAdmin):
    """Prices are added, each ending the one before; none is changed or deleted."""

    form = PriceForm
    list_display = [
        "item",
        "unit_price",
        "currency",
        "accelerator_type",
        "pool",
        "model_name",
        "provider_name",
        "organization",
        "valid_from",
        "valid_until",
    ]
    list_filter = ["item", ("valid_until", admin.EmptyFieldListFilter), "pool"]
    list_select_related = ["accelerator_type", "pool", "organization"]
    search_fields = ["model_name", "organization__slug", "accelerator_type__slug", "note"]
    autocomplete_fields = ["accelerator_type", "pool", "organization"]
    date_hierarchy = "valid_from"

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(
        self, request: HttpRequest, obj: Any, form: forms.ModelForm, change: bool
    ) -> None:
        actor: audit.Actor = actor_of(request)
        entry = services.set_price(**form.cleaned_data, actor=actor, now=timezone.now())
        obj.pk = entry.pk


class AllowanceForm(forms.ModelForm):
    class Meta:
        model = FreeAllowance
        exclude = ["valid_until"]  # noqa: DJ006 (all but the end, which the next entry sets)

    def clean(self) -> dict[str, Any]:
        """Says what `set_allowance` would say."""
        values: dict[str, Any] = super().clean() or {}
        if self.errors:
            return values
        try:
            with transaction.atomic():
                services.set_allowance(**values, now=timezone.now())
                transaction.set_rollback(True)
        except DomainError as error:
            self.add_error(error.field, f"{error.message} {error.remedy}".strip())
        return values


@admin.register(FreeAllowance)
class FreeAllowanceAdmin(admin.ModelAdmin):
    """Allowances are added, each ending the one before; none is changed or deleted."""

    form = AllowanceForm
    list_display = ["item", "quantity", "model_name", "organization", "valid_from", "valid_until"]
    list_filter = ["item", ("valid_until", admin.EmptyFieldListFilter)]
    list_select_related = ["organization"]
    search_fields = ["model_name", "organization__slug", "note"]
    autocomplete_fields = ["organization"]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def save_model(
        self, request: HttpRequest, obj: Any, form: forms.ModelForm, change: bool
    ) -> None:
        entry = services.set_allowance(
            **form.cleaned_data, actor=actor_of(request), now=timezone.now()
        )
        obj.pk = entry.pk


def _tell(request: HttpRequest, done: int) -> None:
    text = ngettext("%(count)d node changed.", "%(count)d nodes changed.", done)
    messages.success(request, text % {"count": done})
