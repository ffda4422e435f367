from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("training", "0008_qlora"),
    ]

    operations = [
        migrations.AddField(
            model_name="trainingrun",
            name="best_step",
            field=models.PositiveIntegerField(
                blank=True, help_text="Of the evaluation that was the best so far.", null=True
            ),
        ),
        migrations.AddField(
            model_name="trainingrun",
            name="best_value",
            field=models.FloatField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="trainingrun",
            name="result_step",
            field=models.PositiveIntegerField(
                blank=True, help_text="Whose weights the result has.", null=True
            ),
        ),
        migrations.AddField(
            model_name="trainingrun",
            name="stopped_early",
            field=models.BooleanField(default=False),
        ),
        migrations.AddField(
            model_name="trainingrun",
            name="memory_estimate_bytes",
            field=models.BigIntegerField(
                blank=True, help_text="Of one trainer process, before it began.", null=True
            ),
        ),
        migrations.AddField(
            model_name="trainingrun",
            name="peak_memory_bytes",
            field=models.BigIntegerField(
                blank=True, help_text="The most that its first process has taken.", null=True
            ),
        ),
        migrations.AddField(
            model_name="trainingmetric",
            name="eval_details",
            field=models.JSONField(default=dict),
        ),
    ]
