from django.contrib import admin, messages
from django.db.models import QuerySet
from django.forms import ModelForm
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from accounts.admin import Audited, ReadOnly, ReadOnlyInline, actor_of
from common.errors import DomainError
from deployments import services
from deployments.models import (
    Attachment,
    Autoscaling,
    CustomEngine,
    Deployment,
    LoadTest,
    Provider,
    Replica,
    ReplicaEvent,
    Rollout,
    RolloutEvent,
    Route,
    RouteTarget,
    ScalingEvent,
    ShadowAnswer,
)


@admin.register(CustomEngine)
class CustomEngineAdmin(Audited):
    """Operators alone: what stands here is run on nodes."""

    list_display = ["name", "program", "health_path", "start_seconds", "created_at"]
    search_fields = ["name", "note"]
    readonly_fields = ["created_at"]

    @admin.display(description=_("program"))
    def program(self, row: CustomEngine) -> str:
        return str(row.command[0])

    def has_change_permission(self, request: HttpRequest, obj: CustomEngine | None = None) -> bool:
        allowed: bool = super().has_change_permission(request, obj)
        return allowed and (obj is None or not obj.is_used)

    def has_delete_permission(self, request: HttpRequest, obj: CustomEngine | None = None) -> bool:
        allowed: bool = super().has_delete_permission(request, obj)
        return allowed and (obj is None or not obj.is_used)

    def save_model(
        self, request: HttpRequest, obj: CustomEngine, form: ModelForm, change: bool
    ) -> None:
        if not change:
            obj.created_at = timezone.now()
        super().save_model(request, obj, form, change)


class ReplicaInline(ReadOnlyInline):
    model = Replica
    fields = ["status", "status_reason", "wanted", "node", "port", "pid", "ready_at", "ended_at"]
    show_change_link = True


class AttachmentInline(ReadOnlyInline):
    model = Attachment
    fields = ["deployment", "revision", "status", "failures", "message", "status_changed_at"]


class EventInline(ReadOnlyInline):
    model = ReplicaEvent
    fields = ["at", "kind", "message"]


class TargetInline(ReadOnlyInline):
    model = RouteTarget
    fields = ["deployment", "provider", "provider_model_name", "weight", "rank"]


@admin.register(Deployment)
class DeploymentAdmin(ReadOnly):
    list_display = [
        "name",
        "organization",
        "revision",
        "engine",
        "status",
        "desired_replicas",
        "failures",
        "created_at",
    ]
    list_filter = ["status", "engine", "organization"]
    list_select_related = ["organization", "revision__registered_model__organization"]
    search_fields = ["name", "organization__slug", "revision__registered_model__name", "message"]
    date_hierarchy = "created_at"
    actions = ["start_again", "scale_to_none", "delete_deployments"]
    inlines = [ReplicaInline]

    def has_operate_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("deployments.change_deployment")

    @admin.action(description=_("Start again after failures"), permissions=["operate"])
    def start_again(self, request: HttpRequest, rows: QuerySet[Deployment]) -> None:
        for row in rows:
            self._scale(request, row, row.desired_replicas)

    @admin.action(description=_("Scale to no replicas"), permissions=["operate"])
    def scale_to_none(self, request: HttpRequest, rows: QuerySet[Deployment]) -> None:
        for row in rows:
            self._scale(request, row, 0)

    @admin.action(description=_("Delete: drain and stop the replicas"), permissions=["operate"])
    def delete_deployments(self, request: HttpRequest, rows: QuerySet[Deployment]) -> None:
        live = list(rows.filter(deleted_at__isnull=True).select_related("organization"))
        for row in live:
            services.delete_deployment(
                organization=row.organization,
                deployment_id=row.pk,
                actor=actor_of(request),
                now=timezone.now(),
            )
        text = ngettext(
            "%(count)d deployment is being deleted.",
            "%(count)d deployments are being deleted.",
            len(live),
        )
        self.message_user(request, text % {"count": len(live)})

    def _scale(self, request: HttpRequest, row: Deployment, replicas: int) -> None:
        try:
            services.scale_deployment(
                organization=row.organization,
                deployment_id=row.pk,
                replicas=replicas,
                actor=actor_of(request),
                now=timezone.now(),
            )
        except DomainError as error:
            self.message_user(request, f"{row}: {error.message}", messages.ERROR)


@admin.register(Replica)
class ReplicaAdmin(ReadOnly):
    list_display = ["__str__", "status", "status_reason", "wanted", "node", "ready_at", "ended_at"]
    list_filter = ["status", "wanted", "node"]
    list_select_related = ["deployment", "node"]
    search_fields = ["deployment__name", "node__name", "message", "log_tail"]
    date_hierarchy = "created_at"
    inlines = [AttachmentInline, EventInline]


@admin.register(ReplicaEvent)
class ReplicaEventAdmin(ReadOnly):
    list_display = ["at", "replica", "kind", "message"]
    list_filter = ["kind"]
    list_select_related = ["replica__deployment"]
    search_fields = ["replica__deployment__name", "message"]
    date_hierarchy = "at"


@admin.register(Route)
class RouteAdmin(ReadOnly):
    list_display = ["name", "organization", "shadow_deployment", "shadow_percent", "created_at"]
    list_filter = ["organization"]
    list_select_related = ["organization", "shadow_deployment"]
    search_fields = ["name", "organization__slug"]
    inlines = [TargetInline]


@admin.register(Provider)
class ProviderAdmin(ReadOnly):
    """The key itself is shown to nobody."""

    list_display = ["name", "organization", "base_url", "is_enabled", "checked_at", "problem"]
    list_filter = ["is_enabled", "organization"]
    list_select_related = ["organization"]
    search_fields = ["name", "base_url", "organization__slug"]
    exclude = ["sealed_key"]


@admin.register(ShadowAnswer)
class ShadowAnswerAdmin(ReadOnly):
    """Who compared what, without a word of it: the texts are the organization's own."""

    list_display = ["at", "organization", "route_name", "primary_name", "candidate_name", "is_same"]
    list_filter = ["is_same", "organization"]
    list_select_related = ["organization"]
    search_fields = ["route_name", "candidate_name", "organization__slug"]
    exclude = ["request", "primary_text", "candidate_text"]
    date_hierarchy = "at"


@admin.register(Autoscaling)
class AutoscalingAdmin(ReadOnly):
    list_display = [
        "deployment",
        "enabled",
        "min_replicas",
        "max_replicas",
        "target_concurrency",
        "target_first_token_milliseconds",
        "idle_seconds",
    ]
    list_filter = ["enabled", "deployment__organization"]
    list_select_related = ["deployment"]
    search_fields = ["deployment__name", "deployment__organization__slug"]


@admin.register(ScalingEvent)
class ScalingEventAdmin(ReadOnly):
    list_display = ["at", "deployment", "from_replicas", "to_replicas", "reason", "message"]
    list_filter = ["reason"]
    list_select_related = ["deployment"]
    search_fields = ["deployment__name", "message"]
    date_hierarchy = "at"


@admin.register(LoadTest)
class LoadTestAdmin(ReadOnly):
    list_display = [
        "deployment_name",
        "organization",
        "revision_name",
        "engine",
        "status",
        "largest_clients",
        "created_at",
    ]
    list_filter = ["status", "engine", "organization"]
    search_fields = ["deployment_name", "revision_name", "organization__slug"]
    date_hierarchy = "created_at"


class RolloutEventInline(ReadOnlyInline):
    model = RolloutEvent
    fields = ["at", "kind", "message"]


@admin.register(Rollout)
class RolloutAdmin(ReadOnly):
    list_display = [
        "__str__",
        "status",
        "status_reason",
        "step",
        "weight",
        "created_at",
        "ended_at",
    ]
    list_filter = ["status", "status_reason"]
    list_select_related = ["deployment"]
    search_fields = ["deployment__name", "message", "requested_by"]
    date_hierarchy = "created_at"
    inlines = [RolloutEventInline]
