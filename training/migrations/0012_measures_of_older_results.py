"""Results from before they said how each number was measured: their evaluations still know."""

from django.db import migrations

from common.errors import DomainError
from training.metrics import measures


def fill(apps, schema_editor):
    Evaluation = apps.get_model("training", "Evaluation")
    EvaluationResult = apps.get_model("models_registry", "EvaluationResult")
    asked = {}
    for result in EvaluationResult.objects.filter(measures={}).iterator(chunk_size=500):
        if result.evaluation_id not in asked:
            rows = Evaluation.objects.filter(pk=result.evaluation_id)
            asked[result.evaluation_id] = rows.values_list("metrics", flat=True).first() or []
        try:
            found = measures.find(asked[result.evaluation_id], result.metrics)
        except DomainError:  # asked for in words that are no longer known
            continue
        result.measures = {name: each.as_json() for name, each in found.items() if each.key != name}
        if result.measures:
            result.save(update_fields=["measures"])


class Migration(migrations.Migration):
    dependencies = [
        ("models_registry", "0006_measures_and_trials"),
        ("training", "0011_token_count"),
    ]

    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
