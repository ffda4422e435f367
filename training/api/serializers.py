"""Shapes of REST's answers and requests about datasets, evaluations and gates."""

from rest_framework import serializers

from models_registry.models import AliasGate
from training.api.run_bodies import HyperparametersField
from training.choices import Tuning
from training.doctor.findings import KINDS
from training.models import (
    Dataset,
    DatasetFinding,
    DatasetSource,
    DatasetSplit,
    DatasetVersion,
    Evaluation,
    EvaluationAnswer,
)


class DatasetRequest(serializers.Serializer):
    name = serializers.CharField(max_length=96)
    description = serializers.CharField(required=False, allow_blank=True, default="")


class DatasetBody(serializers.ModelSerializer):
    version_count = serializers.IntegerField(read_only=True, default=0)
    changed_at = serializers.DateTimeField(read_only=True, allow_null=True, default=None)

    class Meta:
        model = Dataset
        fields = ["id", "name", "description", "version_count", "changed_at", "created_at"]


class SplitBody(serializers.ModelSerializer):
    sha256 = serializers.CharField(source="blob_id", read_only=True)

    class Meta:
        model = DatasetSplit
        fields = ["name", "examples", "size_bytes", "sha256", "token_count", "longest_tokens"]


class SourceBody(serializers.ModelSerializer):
    sha256 = serializers.CharField(source="blob_id", read_only=True)

    class Meta:
        model = DatasetSource
        fields = ["name", "file_name", "size_bytes", "sha256"]


class DatasetVersionBody(serializers.ModelSerializer):
    dataset_name = serializers.CharField(source="dataset.name", read_only=True)
    splits = SplitBody(many=True, read_only=True)

    class Meta:
        model = DatasetVersion
        fields = [
            "id",
            "dataset",
            "dataset_name",
            "number",
            "kind",
            "format",
            "status",
            "status_reason",
            "message",
            "lines_done",
            "splits",
            "created_at",
        ]
        read_only_fields = fields


class DatasetVersionDetail(DatasetVersionBody):
    report = serializers.JSONField(read_only=True)
    sources = SourceBody(many=True, read_only=True)

    class Meta(DatasetVersionBody.Meta):
        fields = [*DatasetVersionBody.Meta.fields, "mapping", "split_plan", "sources", "report"]
        read_only_fields = fields


class FindingBody(serializers.ModelSerializer):
    severity = serializers.SerializerMethodField()
    message = serializers.SerializerMethodField()
    remedy = serializers.SerializerMethodField()

    class Meta:
        model = DatasetFinding
        fields = [
            "kind",
            "severity",
            "message",
            "remedy",
            "split",
            "line",
            "field",
            "excerpt",
            "other_split",
            "other_line",
            "score",
        ]
        read_only_fields = fields

    def get_severity(self, row: DatasetFinding) -> str:
        return KINDS[row.kind].severity

    def get_message(self, row: DatasetFinding) -> str:
        return KINDS[row.kind].message

    def get_remedy(self, row: DatasetFinding) -> str:
        return KINDS[row.kind].remedy


class LineBody(serializers.Serializer):
    number = serializers.IntegerField()
    row = serializers.JSONField(help_text="The canonical line; texts past 20,000 characters cut.")
    is_cut = serializers.BooleanField()


class LinesBody(serializers.Serializer):
    results = LineBody(many=True)


class EstimateRequest(serializers.Serializer):
    base_revision = serializers.UUIDField(required=False, allow_null=True, default=None)
    split = serializers.CharField(default="train", max_length=40)
    tuning = serializers.ChoiceField(Tuning.choices, default=Tuning.LORA)
    hyperparameters = HyperparametersField(required=False, default=dict)
    accelerators = serializers.IntegerField(default=1, min_value=1, max_value=64)
    pool_name = serializers.CharField(required=False, allow_blank=True, default="", max_length=60)


class EstimateBody(serializers.Serializer):
    """What is not known is null, and `unknown` says why."""

    examples = serializers.IntegerField()
    steps = serializers.IntegerField(allow_null=True)
    tokens = serializers.IntegerField(allow_null=True)
    cut_examples = serializers.IntegerField(allow_null=True)
    cut_share = serializers.FloatField(allow_null=True)
    tokens_per_second = serializers.FloatField(allow_null=True)
    measured_by = serializers.ListField(child=serializers.CharField())
    seconds = serializers.FloatField(allow_null=True)
    price = serializers.DecimalField(max_digits=18, decimal_places=2, allow_null=True)
    currency = serializers.CharField()
    unknown = serializers.ListField(child=serializers.CharField())


class EvaluationRequest(serializers.Serializer):
    name = serializers.CharField(max_length=96)
    dataset_version = serializers.UUIDField()
    split = serializers.CharField(max_length=40)
    models = serializers.ListField(
        child=serializers.CharField(max_length=200),
        help_text="Public names as clients send them in `model`; the first is the baseline.",
    )
    limit = serializers.IntegerField(
        required=False, allow_null=True, default=None, max_value=2**31 - 1
    )
    max_tokens = serializers.IntegerField(default=128)
    metrics = serializers.ListField(
        child=serializers.DictField(),
        default=list,
        help_text='Measures beside exact match and fields, each {"kind": ..., options}: '
        "GET evaluation-metrics/ lists them.",
    )
    num_fewshot = serializers.IntegerField(
        required=False,
        allow_null=True,
        default=None,
        help_text="Of a benchmark task: examples before each question, if not as many as it says.",
    )
    as_chat = serializers.BooleanField(
        default=False, help_text="Of a benchmark task: ask in the model's chat template."
    )


class EvaluationBody(serializers.ModelSerializer):
    dataset_version = serializers.UUIDField(source="split.version_id", read_only=True)
    dataset_version_name = serializers.CharField(source="split.version.__str__", read_only=True)
    split = serializers.CharField(source="split.name", read_only=True)
    models = serializers.ListField(
        child=serializers.CharField(), source="model_names", read_only=True
    )
    revision_ids = serializers.DictField(child=serializers.CharField(), read_only=True)
    results = serializers.DictField(
        child=serializers.JSONField(),
        read_only=True,
        help_text="By model: examples, exact_match, valid_json, fields, metrics (all of them by "
        "name), errors, completion_tokens; of a benchmark task metrics, named "
        "lm.<task>.<metric>, and stderr.",
    )
    metrics = serializers.ListField(child=serializers.JSONField(), read_only=True)
    settings = serializers.DictField(
        child=serializers.JSONField(),
        read_only=True,
        help_text="Of a benchmark task: num_fewshot, as_chat where they were asked for.",
    )
    comparisons = serializers.DictField(
        child=serializers.JSONField(),
        read_only=True,
        help_text="Of each other model with the first, by metric: difference, low and high (paired "
        "bootstrap, 95 %), verdict (better, worse, unclear), wins, losses, ties, pairs.",
    )
    problems = serializers.DictField(child=serializers.CharField(), read_only=True)

    class Meta:
        model = Evaluation
        fields = [
            "id",
            "name",
            "status",
            "status_reason",
            "message",
            "status_changed_at",
            "dataset_version",
            "dataset_version_name",
            "split",
            "models",
            "revision_ids",
            "limit",
            "max_tokens",
            "metrics",
            "settings",
            "examples_total",
            "answers_done",
            "judgements_total",
            "judgements_done",
            "results",
            "comparisons",
            "problems",
            "cancel_requested_at",
            "created_at",
            "ended_at",
        ]
        read_only_fields = fields


class AnswerBody(serializers.ModelSerializer):
    class Meta:
        model = EvaluationAnswer
        fields = [
            "line",
            "model_name",
            "revision",
            "prompt",
            "expected",
            "answer",
            "is_exact",
            "fields",
            "scores",
            "notes",
            "error",
            "prompt_tokens",
            "completion_tokens",
        ]


class MetricKindBody(serializers.Serializer):
    kind = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]
    about = serializers.CharField()
    options = serializers.JSONField(help_text="JSON Schema of what may stand beside `kind`.")


RULE_HELP = (
    "dataset_version (id), split, conditions ([{metric, at_least?, at_most?, worse_by_at_most?}]: "
    "the last is held against the revision that has the place now, by the whole of the paired "
    "interval), min_examples (default: the whole split), max_age_days."
)


class GateRequest(serializers.Serializer):
    rule = serializers.DictField(help_text=RULE_HELP)


class GateBody(serializers.ModelSerializer):
    rule = serializers.DictField(child=serializers.JSONField(), read_only=True)

    class Meta:
        model = AliasGate
        fields = ["alias", "rule", "created_at", "changed_at"]
