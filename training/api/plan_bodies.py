"""Shapes of REST's answers about recipes and plans."""

from typing import Any

from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers

from trainer.spec import METHODS
from training.api.run_bodies import HyperparametersField
from training.choices import Tuning
from training.recipes import Recipe


class SettingBody(serializers.Serializer):
    name = serializers.CharField()
    value = serializers.JSONField()
    reason = serializers.CharField()
    source = serializers.CharField(  # type: ignore[assignment] # DRF has a `source` of its own
        help_text='Whose figure it is; "" is the platform\'s own.'
    )


class RecipeBody(serializers.Serializer):
    """Settings are those for `parameters` of the request, else for a base of a billion."""

    id = serializers.CharField(source="key")
    name = serializers.CharField()
    version = serializers.IntegerField()
    title = serializers.CharField()
    method = serializers.CharField()
    tuning = serializers.CharField()
    families = serializers.ListField(
        child=serializers.CharField(), help_text="Model types it is made for; empty: any."
    )
    parameters_from = serializers.IntegerField()
    parameters_until = serializers.IntegerField(allow_null=True)
    settings = serializers.SerializerMethodField()

    @extend_schema_field(SettingBody(many=True))
    def get_settings(self, recipe: Recipe) -> list[dict[str, Any]]:
        settings = recipe.settings_for(parameters=self.context.get("parameters"))
        return [
            {"name": name, "value": one.value, "reason": str(one.reason), "source": one.source}
            for name, one in settings.items()
        ]


class TrainingPlanRequest(serializers.Serializer):
    base_revision = serializers.UUIDField()
    dataset_version = serializers.UUIDField()
    train_split = serializers.CharField(default="train", max_length=40)
    method = serializers.ChoiceField(METHODS, default="sft")
    tuning = serializers.ChoiceField(Tuning.choices, default=Tuning.LORA)
    recipe = serializers.CharField(required=False, allow_blank=True, default="", max_length=96)
    hyperparameters = HyperparametersField(required=False, default=dict)
    accelerators = serializers.IntegerField(default=1)
    pool_name = serializers.CharField(required=False, allow_blank=True, default="", max_length=60)


class SpanBody(serializers.Serializer):
    low = serializers.FloatField()
    high = serializers.FloatField()


class MemoryBody(serializers.Serializer):
    weights_bytes = serializers.IntegerField()
    gradients_bytes = serializers.IntegerField()
    optimizer_bytes = serializers.IntegerField()
    activations_bytes = serializers.IntegerField()
    overhead_bytes = serializers.IntegerField()
    total_bytes = serializers.IntegerField()


class MoneyBody(serializers.Serializer):
    low = serializers.DecimalField(max_digits=18, decimal_places=6)
    high = serializers.DecimalField(max_digits=18, decimal_places=6)
    currency = serializers.CharField()


class RunOptionBody(serializers.Serializer):
    """What is not known is null."""

    pool_name = serializers.CharField()
    fits = serializers.BooleanField()
    may_wait = serializers.BooleanField()
    reasons = serializers.ListField(child=serializers.CharField())
    accelerator_type = serializers.CharField()
    accelerator_type_slug = serializers.CharField()
    node_name = serializers.CharField()
    accelerators = serializers.IntegerField()
    tokens_per_second = SpanBody(source="speed", allow_null=True)
    speed_from = serializers.ChoiceField(["measured", "rate", ""])
    seconds = SpanBody(allow_null=True)
    price_per_hour = serializers.DecimalField(max_digits=18, decimal_places=8, allow_null=True)
    price = MoneyBody(allow_null=True)
    currency = serializers.CharField()


class TrainingPlanBody(serializers.Serializer):
    recipe = serializers.CharField(source="asked.recipe_key")
    hyperparameters = HyperparametersField(source="asked.hyperparameters")
    examples = serializers.IntegerField()
    tokens = serializers.IntegerField(allow_null=True)
    steps = serializers.IntegerField(allow_null=True)
    memory = MemoryBody(allow_null=True)
    options = RunOptionBody(many=True)
