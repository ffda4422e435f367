"""Organizations and access in the admin. What is changed here is audited like all else."""

from collections.abc import Iterable
from typing import Any

from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.db.models import Count, Model, QuerySet
from django.forms import BaseModelFormSet, ModelForm
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from accounts import audit, limits, services
from accounts.models import (
    ApiKey,
    AuditEvent,
    Limit,
    LimitAlert,
    Membership,
    Organization,
    Quota,
    User,
)

SECRETS = ("password", "secret", "hash", "token")


def actor_of(request: HttpRequest) -> audit.Actor:
    """The person at the admin, for the audit log."""
    address = request.META.get("REMOTE_ADDR", "")
    return audit.Actor(kind="user", name=request.user.get_username(), address=address)


class Audited(admin.ModelAdmin):
    """Writes an audit event for each row that is added, changed or deleted here."""

    def save_model(self, request: HttpRequest, obj: Any, form: ModelForm, change: bool) -> None:
        super().save_model(request, obj, form, change)
        if form.changed_data or not change:
            changed = {name: form.cleaned_data.get(name) for name in form.changed_data}
            before = {name: form.initial.get(name) for name in form.changed_data} if change else {}
            record(request, "change" if change else "add", obj, before=before, after=changed)

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        record(request, "delete", obj)
        super().delete_model(request, obj)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        for obj in queryset:
            record(request, "delete", obj)
        super().delete_queryset(request, queryset)

    def save_formset(
        self, request: HttpRequest, form: ModelForm, formset: BaseModelFormSet, change: bool
    ) -> None:
        super().save_formset(request, form, formset, change)
        for obj in formset.new_objects:
            record(request, "add", obj)
        for obj, names in formset.changed_objects:
            record(request, "change", obj, after={name: getattr(obj, name) for name in names})
        for obj in formset.deleted_objects:
            record(request, "delete", obj)


class ReadOnly(admin.ModelAdmin):
    """Rows that only the platform writes."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


class ReadOnlyInline(admin.TabularInline):
    extra = 0
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def record(
    request: HttpRequest,
    verb: str,
    obj: Model,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    """One audit event for a row changed in the admin; secrets are left out."""
    owner = obj if isinstance(obj, Organization) else getattr(obj, "organization", None)
    if verb == "delete" and owner is obj:
        owner = None  # the event must not hold on to the row
    audit.record(
        organization=owner,
        actor=actor_of(request),
        action=f"{obj._meta.model_name}.{verb}"[:64],
        object_id=obj.pk,
        object_name=str(obj)[:200],
        before=_plain(before),
        after=_plain(after),
        now=timezone.now(),
    )


def _plain(values: dict[str, Any] | None) -> dict[str, str]:
    return {
        name: str(value)
        for name, value in (values or {}).items()
        if not any(word in name for word in SECRETS)
    }


class MembershipInline(admin.TabularInline):
    model = Membership
    extra = 0
    autocomplete_fields = ["user"]
    readonly_fields = ["created_at"]

    def get_formset(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        formset = super().get_formset(request, obj, **kwargs)
        formset.form.base_fields["user"].widget.can_add_related = False
        return formset


class QuotaInline(admin.TabularInline):
    model = Quota
    extra = 0


@admin.register(Organization)
class OrganizationAdmin(Audited):
    list_display = ["slug", "name", "members", "currency", "time_zone", "suspended_at"]
    list_filter = [("suspended_at", admin.EmptyFieldListFilter), "currency"]
    search_fields = ["slug", "name"]
    date_hierarchy = "created_at"
    readonly_fields = ["created_at", "suspended_at"]
    inlines = [MembershipInline, QuotaInline]
    actions = ["suspend", "resume"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Organization]:
        rows: QuerySet[Organization] = super().get_queryset(request)
        return rows.annotate(member_count=Count("memberships"))

    @admin.display(description=_("members"), ordering="member_count")
    def members(self, row: Any) -> int:
        return int(row.member_count)

    def save_model(self, request: HttpRequest, obj: Any, form: ModelForm, change: bool) -> None:
        if not change:
            obj.created_at = timezone.now()
        super().save_model(request, obj, form, change)

    def save_formset(
        self, request: HttpRequest, form: ModelForm, formset: BaseModelFormSet, change: bool
    ) -> None:
        for each in formset.forms:
            if isinstance(each.instance, Membership) and each.instance._state.adding:
                each.instance.created_at = timezone.now()
        super().save_formset(request, form, formset, change)

    @admin.action(description=_("Suspend: keys and sign-in stop working"), permissions=["change"])
    def suspend(self, request: HttpRequest, queryset: QuerySet[Organization]) -> None:
        now = timezone.now()
        self._mark(request, queryset.filter(suspended_at__isnull=True), "suspend", at=now)

    @admin.action(description=_("Resume suspended organizations"), permissions=["change"])
    def resume(self, request: HttpRequest, queryset: QuerySet[Organization]) -> None:
        self._mark(request, queryset.filter(suspended_at__isnull=False), "resume", at=None)

    def _mark(
        self, request: HttpRequest, rows: Iterable[Organization], verb: str, *, at: Any
    ) -> None:
        done = 0
        for row in rows:
            row.suspended_at = at
            row.save(update_fields=["suspended_at"])
            record(request, verb, row)
            done += 1
        _tell(request, done)


@admin.register(User)
class UserAdmin(Audited, DjangoUserAdmin):
    list_display = ["username", "email", "is_active", "is_staff", "last_login"]
    date_hierarchy = "date_joined"


@admin.register(Membership)
class MembershipAdmin(ReadOnly):
    list_display = ["user", "organization", "role", "created_at"]
    list_filter = ["role", "organization"]
    list_select_related = ["user", "organization"]
    search_fields = ["user__username", "user__email", "organization__slug"]
    date_hierarchy = "created_at"


@admin.register(ApiKey)
class ApiKeyAdmin(ReadOnly):
    """Keys are made by their organization; here they are found and revoked."""

    list_display = ["name", "prefix", "organization", "scopes", "last_used_at", "revoked_at"]
    list_filter = [("revoked_at", admin.EmptyFieldListFilter), "is_internal", "organization"]
    list_select_related = ["organization"]
    search_fields = ["name", "prefix", "organization__slug"]
    date_hierarchy = "created_at"
    exclude = ["secret_hash", "previous_secret_hash"]
    actions = ["revoke"]

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("accounts.change_apikey")

    @admin.action(description=_("Revoke the chosen keys"), permissions=["revoke"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        done = 0
        for row in queryset.filter(revoked_at__isnull=True).select_related("organization"):
            services.revoke_api_key(
                organization=row.organization,
                key_id=row.pk,
                actor=actor_of(request),
                now=timezone.now(),
            )
            done += 1
        _tell(request, done)


@admin.register(Quota)
class QuotaAdmin(Audited):
    list_display = ["organization", "pool_name", "max_accelerators"]
    list_filter = ["pool_name"]
    list_select_related = ["organization"]
    search_fields = ["organization__slug", "pool_name"]
    autocomplete_fields = ["organization"]


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnly):
    list_display = ["sequence", "at", "actor_name", "action", "object_name", "organization"]
    list_filter = ["actor_kind", "organization"]
    list_select_related = ["organization"]
    search_fields = ["action", "object_name", "object_id", "actor_name"]
    date_hierarchy = "at"
    show_full_result_count = False


def _tell(request: HttpRequest, done: int) -> None:
    text = ngettext("%(count)d row changed.", "%(count)d rows changed.", done)
    messages.success(request, text % {"count": done})


@admin.register(Limit)
class LimitAdmin(Audited):
    list_display = ["organization", "kind", "amount", "key", "model_name", "warn_percent"]
    list_filter = ["kind", "organization"]
    search_fields = ["organization__slug", "model_name", "key__name"]
    list_select_related = ["organization", "key"]
    autocomplete_fields = ["organization"]
    raw_id_fields = ["key"]
    readonly_fields = ["created_at", "updated_at"]

    def save_model(self, request: HttpRequest, obj: Any, form: ModelForm, change: bool) -> None:
        now = timezone.now()
        obj.created_at, obj.updated_at = obj.created_at or now, now
        super().save_model(request, obj, form, change)
        limits.tell()

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        super().delete_model(request, obj)
        limits.tell()

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        super().delete_queryset(request, queryset)
        limits.tell()


@admin.register(LimitAlert)
class LimitAlertAdmin(ReadOnly):
    list_display = ["at", "organization", "kind", "percent", "amount", "key_name", "model_name"]
    list_filter = ["kind", "organization"]
    date_hierarchy = "at"
