"""Shapes of the REST answers and requests about hardware and prices."""

from rest_framework import serializers

from accounts.models import Organization
from chips.choices import PriceItem
from chips.models import (
    Accelerator,
    AcceleratorType,
    Allocation,
    FreeAllowance,
    Node,
    Pool,
    PoolGrant,
    PriceEntry,
)


class AcceleratorTypeBody(serializers.ModelSerializer):
    """A data sheet; null means not published."""

    engines = serializers.ListField(child=serializers.CharField(), read_only=True)

    class Meta:
        model = AcceleratorType
        fields = [
            "slug",
            "vendor",
            "model",
            "vendor_country",
            "memory_bytes",
            "bandwidth_bytes_per_second",
            "bf16_flops",
            "torch_device",
            "engines",
            "slots",
            "source",
            "confidence",
        ]


class PoolUseBody(serializers.Serializer):
    """How full a pool is, in accelerators; half of a shared one counts 0.5."""

    nodes = serializers.IntegerField()
    nodes_ready = serializers.IntegerField()
    accelerators = serializers.IntegerField()
    accelerators_healthy = serializers.IntegerField()
    accelerators_held = serializers.DecimalField(max_digits=12, decimal_places=4)


class PoolBody(serializers.ModelSerializer):
    use = serializers.SerializerMethodField()

    class Meta:
        model = Pool
        fields = ["id", "name", "description", "region", "is_open", "created_at", "use"]

    def get_use(self, row: Pool) -> PoolUseBody:  # the annotation is for the schema
        return PoolUseBody(self.context["use"][row.name]).data  # type: ignore[return-value]


class PoolRequest(serializers.Serializer):
    name = serializers.SlugField(max_length=60)
    description = serializers.CharField(required=False, allow_blank=True, max_length=2000)
    region = serializers.CharField(required=False, allow_blank=True, max_length=60)
    is_open = serializers.BooleanField(required=False)


class PoolChange(serializers.Serializer):
    description = serializers.CharField(required=False, allow_blank=True, max_length=2000)
    region = serializers.CharField(required=False, allow_blank=True, max_length=60)
    is_open = serializers.BooleanField(required=False)


class PoolGrantBody(serializers.ModelSerializer):
    pool: serializers.SlugRelatedField = serializers.SlugRelatedField("name", read_only=True)
    organization: serializers.SlugRelatedField = serializers.SlugRelatedField(
        "slug", read_only=True
    )

    class Meta:
        model = PoolGrant
        fields = ["pool", "organization", "created_at"]


class AcceleratorBody(serializers.ModelSerializer):
    node: serializers.SlugRelatedField = serializers.SlugRelatedField("name", read_only=True)
    pool = serializers.CharField(source="node.pool.name", read_only=True)
    type: serializers.SlugRelatedField = serializers.SlugRelatedField("slug", read_only=True)
    cores = serializers.ListField(child=serializers.IntegerField(), read_only=True)
    slots_held = serializers.IntegerField(read_only=True)

    class Meta:
        model = Accelerator
        fields = [
            "id",
            "node",
            "pool",
            "type",
            "index",
            "device_id",
            "cores",
            "memory_bytes",
            "slots",
            "slots_held",
            "status",
            "message",
            "last_seen_at",
        ]


class NodeBody(serializers.ModelSerializer):
    pool: serializers.SlugRelatedField = serializers.SlugRelatedField("name", read_only=True)
    facts = serializers.DictField(read_only=True)
    accelerator_count = serializers.IntegerField(read_only=True)

    class Meta:
        model = Node
        fields = [
            "id",
            "name",
            "pool",
            "address",
            "status",
            "status_reason",
            "message",
            "status_changed_at",
            "facts",
            "cordoned_at",
            "cordon_reason",
            "accelerator_count",
            "registered_at",
            "agent_started_at",
            "last_heartbeat_at",
        ]


class CordonRequest(serializers.Serializer):
    reason = serializers.CharField(required=False, allow_blank=True, max_length=200)


class AllocationBody(serializers.ModelSerializer):
    organization: serializers.SlugRelatedField = serializers.SlugRelatedField(
        "slug", read_only=True
    )

    class Meta:
        model = Allocation
        fields = [
            "id",
            "organization",
            "purpose",
            "holder_id",
            "holder_name",
            "subject_name",
            "node_name",
            "pool_name",
            "accelerator_type_slug",
            "accelerator_share",
            "held_at",
            "released_at",
            "release_reason",
        ]


class AllowanceBody(serializers.ModelSerializer):
    organization: serializers.SlugRelatedField = serializers.SlugRelatedField(
        "slug", read_only=True, allow_null=True
    )

    class Meta:
        model = FreeAllowance
        fields = [
            "id",
            "item",
            "quantity",
            "model_name",
            "organization",
            "valid_from",
            "valid_until",
            "note",
        ]


class AllowanceRequest(serializers.Serializer):
    """So much is free each month, in the unit of the item's price, from `valid_from` on (now, if left
    out)."""

    item = serializers.ChoiceField(PriceItem.choices)
    quantity = serializers.DecimalField(max_digits=24, decimal_places=6, min_value=0)
    organization: serializers.SlugRelatedField = serializers.SlugRelatedField(
        "slug", queryset=Organization.objects.all(), required=False
    )
    model_name = serializers.CharField(required=False, allow_blank=True, max_length=200)
    valid_from = serializers.DateTimeField(required=False)
    note = serializers.CharField(required=False, allow_blank=True, max_length=200)


class PriceBody(serializers.ModelSerializer):
    accelerator_type: serializers.SlugRelatedField = serializers.SlugRelatedField(
        "slug", read_only=True, allow_null=True
    )
    pool: serializers.SlugRelatedField = serializers.SlugRelatedField(
        "name", read_only=True, allow_null=True
    )
    organization: serializers.SlugRelatedField = serializers.SlugRelatedField(
        "slug", read_only=True, allow_null=True
    )

    class Meta:
        model = PriceEntry
        fields = [
            "id",
            "item",
            "unit_price",
            "currency",
            "accelerator_type",
            "pool",
            "model_name",
            "organization",
            "valid_from",
            "valid_until",
            "note",
        ]


class PriceRequest(serializers.Serializer):
    """A price from `valid_from` on (now, if left out), for what it names; the rest is any."""

    item = serializers.ChoiceField(PriceItem.choices)
    unit_price = serializers.DecimalField(max_digits=18, decimal_places=8, min_value=0)
    currency = serializers.RegexField(r"^[A-Z]{3}$", default="USD")
    accelerator_type: serializers.SlugRelatedField = serializers.SlugRelatedField(
        "slug", queryset=AcceleratorType.objects.all(), required=False
    )
    pool: serializers.SlugRelatedField = serializers.SlugRelatedField(
        "name", queryset=Pool.objects.all(), required=False
    )
    organization: serializers.SlugRelatedField = serializers.SlugRelatedField(
        "slug", queryset=Organization.objects.all(), required=False
    )
    model_name = serializers.CharField(required=False, allow_blank=True, max_length=200)
    valid_from = serializers.DateTimeField(required=False)
    note = serializers.CharField(required=False, allow_blank=True, max_length=200)
