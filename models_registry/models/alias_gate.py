from django.db import models

from common.models import Identified
from models_registry.models.registered_model import RegisteredModel


class AliasGate(Identified):
    """What a revision must have shown before an alias may be moved to it.

    The dataset's split is known by id and by name alone: datasets live a floor above.
    """

    registered_model = models.ForeignKey(
        RegisteredModel, on_delete=models.CASCADE, related_name="gates"
    )
    alias = models.SlugField(max_length=40)
    rule = models.JSONField()  # models_registry/gates.py reads it
    created_at = models.DateTimeField()
    changed_at = models.DateTimeField()

    class Meta:
        ordering = ["registered_model", "alias"]
        constraints = [
            models.UniqueConstraint(fields=["registered_model", "alias"], name="alias_gate_once"),
        ]

    def __str__(self) -> str:
        return f"gate of {self.registered_model}@{self.alias}"
