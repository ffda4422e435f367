"""Shapes of the registry's REST answers and requests."""

from rest_framework import serializers

from models_registry.choices import SourceKind, Visibility
from models_registry.models import (
    Alias,
    Artifact,
    EvaluationResult,
    RegisteredModel,
    Revision,
    RevisionImport,
)


class AliasBody(serializers.ModelSerializer):
    parity = serializers.CharField(
        source="revision.parity_status",
        read_only=True,
        help_text="passed, or unchecked; empty for what was not trained here.",
    )

    class Meta:
        model = Alias
        fields = ["name", "revision", "parity", "moved_at"]


class RegisteredModelBody(serializers.ModelSerializer):
    organization: serializers.SlugRelatedField = serializers.SlugRelatedField(
        "slug", read_only=True
    )
    aliases = AliasBody(many=True, read_only=True)
    revision_count = serializers.IntegerField(read_only=True)
    changed_at = serializers.DateTimeField(read_only=True, allow_null=True)

    class Meta:
        model = RegisteredModel
        fields = [
            "id",
            "organization",
            "name",
            "description",
            "visibility",
            "aliases",
            "revision_count",
            "changed_at",
            "created_at",
        ]


class ArtifactBody(serializers.ModelSerializer):
    sha256 = serializers.CharField(source="blob_id", read_only=True)
    size_bytes = serializers.IntegerField(source="blob.size_bytes", read_only=True)

    class Meta:
        model = Artifact
        fields = ["path", "sha256", "size_bytes"]


class EvaluationResultBody(serializers.ModelSerializer):
    class Meta:
        model = EvaluationResult
        fields = ["evaluation_id", "dataset_name", "split", "examples", "metrics", "created_at"]


class RevisionBody(serializers.ModelSerializer):
    name = serializers.CharField(source="__str__", read_only=True)
    model_id = serializers.UUIDField(source="registered_model_id", read_only=True)

    class Meta:
        model = Revision
        fields = [
            "id",
            "name",
            "model_id",
            "number",
            "commit",
            "kind",
            "parent",
            "source_kind",
            "source",
            "architecture",
            "model_type",
            "parameter_count",
            "dtype",
            "quantization",
            "context_length_tokens",
            "licence",
            "size_bytes",
            "created_at",
        ]


class RevisionDetail(RevisionBody):
    files = ArtifactBody(source="artifacts", many=True, read_only=True)
    evaluation_results = EvaluationResultBody(many=True, read_only=True)
    facts = serializers.JSONField(read_only=True)
    lineage = serializers.JSONField(read_only=True)
    parity = serializers.JSONField(
        read_only=True,
        help_text="Of a trained revision: passed (null: not known), reason, checks, and hashes.",
    )

    class Meta(RevisionBody.Meta):
        fields = [
            *RevisionBody.Meta.fields,
            "facts",
            "lineage",
            "parity",
            "files",
            "evaluation_results",
        ]


class LineageNodeBody(serializers.Serializer):
    key = serializers.CharField()
    kind = serializers.CharField()
    label = serializers.CharField()  # type: ignore[assignment]
    detail = serializers.CharField()
    object_id = serializers.CharField()
    is_focus = serializers.BooleanField()


class LineageBody(serializers.Serializer):
    nodes = LineageNodeBody(many=True)
    edges = serializers.ListField(child=serializers.ListField(child=serializers.CharField()))


class ImportBody(serializers.ModelSerializer):
    class Meta:
        model = RevisionImport
        fields = [
            "id",
            "name",
            "visibility",
            "source_kind",
            "source",
            "source_revision",
            "status",
            "status_reason",
            "message",
            "done_bytes",
            "total_bytes",
            "revision",
            "created_at",
        ]


class ImportRequest(serializers.Serializer):
    name = serializers.CharField(max_length=96)
    source_kind = serializers.ChoiceField(
        [SourceKind.FOLDER, SourceKind.HUGGING_FACE, SourceKind.MODELSCOPE]
    )
    source = serializers.CharField(  # type: ignore[assignment]
        max_length=300, help_text="A hub id (owner/name) or a folder."
    )
    source_revision = serializers.CharField(max_length=100, default="", allow_blank=True)
    visibility = serializers.ChoiceField(Visibility.choices, default=Visibility.PRIVATE)
    licence = serializers.CharField(max_length=80, default="", allow_blank=True)


class AliasRequest(serializers.Serializer):
    revision = serializers.UUIDField()
    override_reason = serializers.CharField(
        max_length=500,
        default="",
        allow_blank=True,
        help_text="Of operators: why the alias moves although its gate is not passed.",
    )
