"""Shapes of the ledger's answers."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from usage import statements
from usage.choices import Item


class Quantity(serializers.DecimalField):
    """A decimal as a string, so that no digit is lost on the way."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_digits=30, decimal_places=6, **options)


class UsageGroupBody(serializers.Serializer):
    group = serializers.CharField(help_text="A model's name, a key's id, an hour or an item.")
    name = serializers.CharField()
    quantities = serializers.DictField(
        child=Quantity(), help_text=f"By item: {', '.join(Item.values)}."
    )


class UsageBody(serializers.Serializer):
    start = serializers.DateTimeField()
    end = serializers.DateTimeField()
    group_by = serializers.CharField()
    results = UsageGroupBody(many=True)


class StatementLineBody(serializers.Serializer):
    item = serializers.CharField(source="what.item")
    model_name = serializers.CharField(source="what.model_name")
    accelerator_type = serializers.CharField(source="what.accelerator_type_slug")
    pool_name = serializers.CharField(source="what.pool_name")
    purpose = serializers.CharField(source="what.purpose")
    subject_name = serializers.CharField(source="what.subject_name")
    of_month = serializers.CharField(
        source="what.of_month", help_text="YYYY-MM: an adjustment of that earlier month."
    )
    quantity = Quantity()
    free_quantity = Quantity(help_text="What of it a monthly allowance makes free.")
    unit = serializers.CharField()
    unit_price = serializers.DecimalField(max_digits=18, decimal_places=8, allow_null=True)
    price_unit = serializers.CharField(help_text="What `unit_price` is for.")
    currency = serializers.CharField()
    amount = Quantity(allow_null=True, help_text="Null where the price book has no price.")


class KeyUseBody(serializers.Serializer):
    key_id = serializers.UUIDField(allow_null=True)
    key_name = serializers.CharField()
    is_internal = serializers.BooleanField(help_text="The platform's own, as for evaluations.")
    requests = serializers.IntegerField()
    input_tokens = serializers.IntegerField()
    cached_input_tokens = serializers.IntegerField()
    output_tokens = serializers.IntegerField()


class ShareBody(serializers.Serializer):
    group = serializers.CharField(help_text="A key's id, a model, a cost centre or a day.")
    name = serializers.CharField()
    is_internal = serializers.BooleanField(help_text="The platform's own, as for evaluations.")
    quantities = serializers.DictField(child=Quantity(), help_text="By item.")
    amounts = serializers.DictField(child=Quantity(), help_text="By currency.")


class StatementBody(serializers.Serializer):
    organization = serializers.CharField(source="organization.slug")
    start = serializers.DateTimeField()
    end = serializers.DateTimeField()
    currency = serializers.CharField()
    number = serializers.CharField(help_text="Empty until it is issued.")
    issued_at = serializers.DateTimeField(allow_null=True)
    total = Quantity()
    payable = Quantity(help_text="The total in whole coins.")
    totals = serializers.DictField(child=Quantity(), help_text="By currency.")
    is_final = serializers.BooleanField(help_text="Every hour of it is sealed.")
    lines = StatementLineBody(many=True)
    unpriced_items = serializers.SerializerMethodField()
    keys = KeyUseBody(many=True)
    shares = serializers.SerializerMethodField(help_text="As `by` asks; else none.")

    @extend_schema_field(ShareBody(many=True))
    def get_shares(self, statement: statements.Statement) -> list[Any]:
        return list(ShareBody(self.context.get("shares", []), many=True).data)

    @extend_schema_field(serializers.ListField(child=serializers.CharField()))
    def get_unpriced_items(self, statement: statements.Statement) -> list[str]:
        return sorted({line.what.item for line in statement.unpriced})
