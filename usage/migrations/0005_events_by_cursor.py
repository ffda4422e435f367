from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("usage", "0004_seals"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="usageevent",
            index=models.Index(fields=["organization", "id"], name="usage_event_cursor"),
        ),
    ]
