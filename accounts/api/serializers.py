"""Shapes of the REST answers and requests about organizations, members and keys."""

from rest_framework import serializers

from accounts.choices import Capability, Role, Scope
from accounts.models import ApiKey, AuditEvent, Membership, Organization


class OrganizationBody(serializers.ModelSerializer):
    """The caller's organization and what the caller may do in it."""

    capabilities = serializers.SerializerMethodField()

    class Meta:
        model = Organization
        fields = ["id", "slug", "name", "time_zone", "currency", "created_at", "capabilities"]

    def get_capabilities(self, row: Organization) -> list[str]:
        granted = self.context["granted"]
        return [each for each in Capability.values if each in granted]


class ApiKeyBody(serializers.ModelSerializer):
    """A key without its secret, which is kept nowhere."""

    scopes = serializers.ListField(child=serializers.ChoiceField(Scope.choices), read_only=True)
    created_by: serializers.SlugRelatedField = serializers.SlugRelatedField(
        "username", read_only=True, allow_null=True
    )

    class Meta:
        model = ApiKey
        fields = [
            "id",
            "name",
            "prefix",
            "scopes",
            "allowed_models",
            "created_by",
            "created_at",
            "expires_at",
            "revoked_at",
            "last_used_at",
        ]


class NewApiKeyBody(ApiKeyBody):
    """A key just made, with its secret: shown here and never again."""

    secret = serializers.CharField(read_only=True)

    class Meta(ApiKeyBody.Meta):
        fields = [*ApiKeyBody.Meta.fields, "secret"]


class ApiKeyRequest(serializers.Serializer):
    name = serializers.CharField(max_length=80)
    scopes = serializers.ListField(child=serializers.ChoiceField(Scope.choices), allow_empty=False)
    allowed_models = serializers.ListField(
        child=serializers.CharField(max_length=120),
        required=False,
        max_length=200,
        help_text="Public model names that the key may call; empty means all.",
    )
    expires_at = serializers.DateTimeField(required=False, allow_null=True)


class MemberBody(serializers.ModelSerializer):
    username = serializers.CharField(source="user.username", read_only=True)
    email = serializers.EmailField(source="user.email", read_only=True)
    name = serializers.CharField(source="user.get_full_name", read_only=True)

    class Meta:
        model = Membership
        fields = ["id", "username", "email", "name", "role", "created_at"]


class MemberRequest(serializers.Serializer):
    username = serializers.CharField(max_length=150)
    role = serializers.ChoiceField(Role.choices)


class MemberChange(serializers.Serializer):
    role = serializers.ChoiceField(Role.choices)


class AuditEventBody(serializers.ModelSerializer):
    class Meta:
        model = AuditEvent
        fields = [
            "sequence",
            "at",
            "actor_kind",
            "actor_name",
            "action",
            "object_id",
            "object_name",
            "before",
            "after",
            "address",
            "hash",
        ]
