import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("deployments", "0003_variants_of_replicas")]

    operations = [
        migrations.AlterField(
            model_name="replica",
            name="variant",
            field=models.ForeignKey(
                on_delete=django.db.models.deletion.PROTECT,
                related_name="replicas",
                to="deployments.variant",
            ),
        ),
    ]
