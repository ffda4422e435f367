"""Shapes of REST's answers and requests about runs."""

import dataclasses
import types
import typing
from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from trainer.spec import BEST_METRICS, METHODS, SCHEDULERS, Hyperparameters
from training.choices import Tuning
from training.models import (
    Checkpoint,
    TrainingEvent,
    TrainingMetric,
    TrainingRun,
    TrainingSample,
)

JSON_TYPES: dict[Any, str] = {int: "integer", float: "number", str: "string", bool: "boolean"}


def hyperparameters_schema() -> dict[str, Any]:
    """The trainer's own list of hyperparameters, types and defaults, as JSON Schema."""
    hints = typing.get_type_hints(Hyperparameters)
    properties: dict[str, Any] = {}
    for item in dataclasses.fields(Hyperparameters):
        hint = hints[item.name]
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        kinds = [JSON_TYPES[option] for option in options if option in JSON_TYPES]
        kinds += ["null"] if types.NoneType in options else []
        properties[item.name] = {"type": kinds if len(kinds) > 1 else kinds[0]}
        if item.default is not None:
            properties[item.name]["default"] = item.default
    properties["scheduler"]["enum"] = list(SCHEDULERS)
    every = [name for names in BEST_METRICS.values() for name in names]
    properties["best_metric"]["enum"] = list(dict.fromkeys(every))
    return {"type": "object", "properties": properties, "additionalProperties": False}


@extend_schema_field(hyperparameters_schema())
class HyperparametersField(serializers.DictField):
    """Checked by the service against the trainer's own rules."""


class TrainingRunRequest(serializers.Serializer):
    name = serializers.CharField(max_length=96)
    base_revision = serializers.UUIDField()
    dataset_version = serializers.UUIDField()
    output_name = serializers.CharField(max_length=96)
    tuning = serializers.ChoiceField(Tuning.choices, default=Tuning.LORA)
    method = serializers.ChoiceField(METHODS, default="sft")
    hyperparameters = HyperparametersField(required=False, default=dict)
    init_revision = serializers.UUIDField(
        required=False,
        allow_null=True,
        default=None,
        help_text="An adapter of the same base to begin with.",
    )
    recipe = serializers.CharField(required=False, allow_blank=True, default="", max_length=96)
    suffix = serializers.CharField(required=False, allow_blank=True, default="", max_length=64)
    metadata = serializers.DictField(
        child=serializers.CharField(allow_blank=True, max_length=512), required=False, default=dict
    )
    accelerators = serializers.IntegerField(default=1)
    pool_name = serializers.CharField(required=False, allow_blank=True, default="", max_length=60)
    train_split = serializers.CharField(default="train", max_length=40)
    eval_split = serializers.CharField(required=False, allow_blank=True, default="", max_length=40)


class TrainingRunBody(serializers.ModelSerializer):
    base_revision_name = serializers.CharField(source="base_revision.__str__", read_only=True)
    dataset_version_name = serializers.CharField(source="dataset_version.__str__", read_only=True)
    result_revision_name = serializers.SerializerMethodField()
    node_name = serializers.SerializerMethodField()
    accelerators = serializers.IntegerField(source="accelerators_wanted", read_only=True)
    hyperparameters = HyperparametersField(read_only=True)
    metadata = serializers.DictField(child=serializers.CharField(), read_only=True)

    class Meta:
        model = TrainingRun
        fields = [
            "id",
            "name",
            "status",
            "status_reason",
            "message",
            "status_changed_at",
            "base_revision",
            "base_revision_name",
            "dataset_version",
            "dataset_version_name",
            "train_split",
            "eval_split",
            "output_name",
            "method",
            "tuning",
            "hyperparameters",
            "init_revision",
            "recipe",
            "suffix",
            "metadata",
            "accelerators",
            "pool_name",
            "node_name",
            "allocation",
            "attempt",
            "step",
            "total_steps",
            "train_loss",
            "eval_loss",
            "best_step",
            "best_value",
            "stopped_early",
            "result_step",
            "memory_estimate_bytes",
            "peak_memory_bytes",
            "tokens_total",
            "tokens_per_second",
            "seconds_left",
            "result_revision",
            "result_revision_name",
            "cancel_requested_at",
            "pause_requested_at",
            "created_at",
            "started_at",
            "ended_at",
        ]
        read_only_fields = fields

    def get_result_revision_name(self, run: TrainingRun) -> str | None:
        return str(run.result_revision) if run.result_revision else None

    def get_node_name(self, run: TrainingRun) -> str | None:
        """Of the node that holds it, or that it ran on last."""
        return run.node.name if run.node else None


class MetricBody(serializers.ModelSerializer):
    class Meta:
        model = TrainingMetric
        fields = [
            "step",
            "at",
            "loss",
            "eval_loss",
            "learning_rate",
            "grad_norm",
            "tokens_per_second",
            "memory_bytes",
            "tokens_total",
            "details",
            "eval_details",
        ]


class SampleAnswerBody(serializers.Serializer):
    prompt = serializers.CharField()
    answer = serializers.CharField()


class SampleBody(serializers.ModelSerializer):
    answers = SampleAnswerBody(many=True, read_only=True)

    class Meta:
        model = TrainingSample
        fields = ["step", "at", "answers"]


class TrainingEventBody(serializers.ModelSerializer):
    class Meta:
        model = TrainingEvent
        fields = ["id", "at", "kind", "level", "message", "data"]


class CheckpointBody(serializers.ModelSerializer):
    class Meta:
        model = Checkpoint
        fields = ["id", "step", "size_bytes", "created_at", "pruned_at"]


class LogBody(serializers.Serializer):
    """The end of the trainer's log, 8,000 bytes at most."""

    text = serializers.CharField(source="log_tail")


class RunIds(serializers.Serializer):
    run = serializers.ListField(child=serializers.UUIDField())


class ComparedRun(serializers.Serializer):
    id = serializers.UUIDField()
    name = serializers.CharField()


class ComparedRow(serializers.Serializer):
    group = serializers.CharField()
    name = serializers.CharField()
    differs = serializers.BooleanField()
    values = serializers.ListField(child=serializers.JSONField(allow_null=True))


class CurvesBody(serializers.Serializer):
    run = serializers.UUIDField(source="run.pk")
    loss = serializers.ListField(child=serializers.ListField(child=serializers.FloatField()))
    eval_loss = serializers.ListField(child=serializers.ListField(child=serializers.FloatField()))


class ComparisonBody(serializers.Serializer):
    runs = ComparedRun(many=True)
    rows = ComparedRow(many=True)
    by = serializers.CharField()
    curves = CurvesBody(many=True)
