"""Answers from before scores were kept: the same facts, in the one place that is read now."""

from django.db import migrations

FILL = """
UPDATE training_evaluationanswer answer
SET scores = jsonb_build_object('exact_match', answer.is_exact::int) || coalesce(
    (SELECT jsonb_object_agg('field.' || each.key, (each.value = 'true')::int)
     FROM jsonb_each_text(answer.fields) each), '{}'::jsonb)
WHERE answer.scores = '{}'::jsonb
"""


class Migration(migrations.Migration):
    dependencies = [
        ("training", "0005_evaluation_metrics"),
    ]

    operations = [
        migrations.RunSQL(FILL, migrations.RunSQL.noop),
    ]
