"""Shapes of deployments' REST answers and requests."""

from typing import Any
from uuid import UUID

from rest_framework import serializers

from deployments import selectors
from deployments.models import Deployment, Replica, ReplicaEvent
from deployments.services import MAX_REPLICAS


class DeploymentBody(serializers.ModelSerializer):
    revision_name = serializers.CharField(source="revision.__str__", read_only=True)
    host_name = serializers.CharField(source="host.name", read_only=True, allow_null=True)
    ready_replicas = serializers.SerializerMethodField(
        help_text="Of an adapter: the replicas that have it loaded, its host's or its own."
    )
    rollout = serializers.SerializerMethodField(help_text="The one under way, or null.")

    class Meta:
        model = Deployment
        fields = [
            "id",
            "name",
            "revision",
            "revision_name",
            "engine",
            "host",
            "host_name",
            "desired_replicas",
            "ready_replicas",
            "slots_per_replica",
            "accelerators_per_replica",
            "pool_name",
            "settings",
            "rollout_plan",
            "rollout",
            "generation",
            "observed_generation",
            "status",
            "status_reason",
            "message",
            "failures",
            "next_start_at",
            "created_at",
            "delete_requested_at",
            "deleted_at",
        ]

    def get_rollout(self, deployment: Deployment) -> UUID | None:
        if hasattr(deployment, "open_rollout"):
            return deployment.open_rollout  # type: ignore[no-any-return]
        rollout = selectors.get_open_rollout(deployment)
        return rollout.pk if rollout is not None else None

    def get_ready_replicas(self, deployment: Deployment) -> int:
        counted = getattr(deployment, "ready_replicas", None)
        return counted if counted is not None else selectors.count_serving(deployment)


class DeploymentRequest(serializers.Serializer):
    name = serializers.CharField(max_length=96, help_text="The public model name.")
    revision = serializers.UUIDField()
    engine = serializers.CharField(max_length=40, default="transformers")
    replicas = serializers.IntegerField(min_value=0, max_value=MAX_REPLICAS, default=1)
    slots_per_replica = serializers.IntegerField(
        min_value=1, default=1, help_text="Slots of one shareable accelerator."
    )
    accelerators_per_replica = serializers.IntegerField(
        min_value=0, default=0, help_text="Whole accelerators; 0 means slots of one."
    )
    pool_name = serializers.CharField(
        max_length=60, default="", allow_blank=True, help_text="Empty: any pool that fits."
    )
    settings = serializers.DictField(
        default=dict,
        help_text="max_context_tokens, max_concurrency, max_waiting, max_adapters, dtype, "
        "drain_seconds, startup_limit_seconds, tool_parser, reasoning_parser, engine_arguments.",
    )
    host = serializers.UUIDField(
        default=None,
        allow_null=True,
        help_text="Of an adapter: the deployment of its base whose replicas shall serve it. Without "
        "one, the best that there is; without any, replicas of its own.",
    )
    own_replicas = serializers.BooleanField(
        default=False, help_text="Of an adapter: replicas of its own in any case."
    )


class ScaleRequest(serializers.Serializer):
    replicas = serializers.IntegerField(min_value=0, max_value=MAX_REPLICAS)


class ReplicaBody(serializers.ModelSerializer):
    name = serializers.CharField(source="__str__", read_only=True)
    node_name = serializers.SerializerMethodField()
    accelerators = serializers.SerializerMethodField()

    class Meta:
        model = Replica
        fields = [
            "id",
            "name",
            "revision",
            "generation",
            "wanted",
            "status",
            "status_reason",
            "message",
            "node_name",
            "accelerators",
            "log_tail",
            "created_at",
            "placed_at",
            "ready_at",
            "drain_deadline_at",
            "ended_at",
        ]

    def get_node_name(self, replica: Replica) -> str:
        """The allocation keeps the name of a node that was removed."""
        if replica.allocation is not None:
            return replica.allocation.node_name
        return replica.node.name if replica.node is not None else ""

    def get_accelerators(self, replica: Replica) -> list[str]:
        """The driver's ids of the devices that it holds, or held."""
        if replica.allocation is None:
            return []
        rows = {slot.accelerator for slot in replica.allocation.slots.all()}
        return [row.device_id for row in sorted(rows, key=lambda row: row.index)]


class ReplicaEventBody(serializers.ModelSerializer):
    replica_name = serializers.CharField(source="replica.__str__", read_only=True)

    class Meta:
        model = ReplicaEvent
        fields = ["id", "at", "replica", "replica_name", "kind", "message"]


def wanted(values: dict[str, Any]) -> dict[str, Any]:
    """A validated DeploymentRequest as keywords of `services.create_deployment`."""
    return {"revision_id": values["revision"], "host_id": values["host"]} | {
        name: value for name, value in values.items() if name not in ("revision", "host")
    }
