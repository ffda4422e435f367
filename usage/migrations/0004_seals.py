"""What was sealed so far: until now the last sealed record of an organization told."""

from datetime import timedelta

from django.db import migrations
from django.db.models import Max


def seal(apps, schema_editor):
    records = apps.get_model("usage", "UsageRecord").objects.filter(sealed_at__isnull=False)
    seals = apps.get_model("usage", "Seal")
    for row in records.order_by().values("organization").annotate(last=Max("hour")):
        seals.objects.get_or_create(
            organization_id=row["organization"],
            defaults={"sealed_until": row["last"] + timedelta(hours=1)},
        )


class Migration(migrations.Migration):
    dependencies = [
        ("usage", "0003_ledger"),
    ]

    operations = [migrations.RunPython(seal, migrations.RunPython.noop)]
