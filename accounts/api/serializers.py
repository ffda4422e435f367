"""Shapes of the REST answers and requests about organizations, members and keys."""

from rest_framework import serializers

from accounts.choices import Capability, Role, Scope
from accounts.keys import LONGEST_OVERLAP, OVERLAP
from accounts.models import ApiKey, AuditEvent, Membership, Organization
from accounts.networks import MOST_NETWORKS


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
            "allowed_networks",
            "created_by",
            "created_at",
            "expires_at",
            "revoked_at",
            "last_used_at",
            "rotated_at",
            "previous_prefix",
            "previous_expires_at",
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
    allowed_networks = serializers.ListField(
        child=serializers.CharField(max_length=50),
        required=False,
        max_length=MOST_NETWORKS,
        help_text="Addresses or networks it may be used from, such as 10.0.0.0/8; empty means any.",
    )
    expires_at = serializers.DateTimeField(required=False, allow_null=True)


class ApiKeyChange(ApiKeyRequest):
    """Only what is given is changed."""

    name = serializers.CharField(max_length=80, required=False)
    scopes = serializers.ListField(
        child=serializers.ChoiceField(Scope.choices), allow_empty=False, required=False
    )


class RotateRequest(serializers.Serializer):
    overlap_seconds = serializers.IntegerField(
        min_value=0,
        max_value=int(LONGEST_OVERLAP.total_seconds()),
        default=int(OVERLAP.total_seconds()),
        help_text="How long the present secret still works; 0 ends it, and an earlier one, at once.",
    )


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
