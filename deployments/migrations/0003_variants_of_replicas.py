"""Give every replica the variant that says what it runs."""

import hashlib
import json

from django.db import migrations


def fill(apps, schema_editor):
    Replica = apps.get_model("deployments", "Replica")
    Variant = apps.get_model("deployments", "Variant")
    rows = Replica.objects.filter(variant__isnull=True).select_related("deployment")
    for replica in rows.order_by("created_at").iterator(chunk_size=500):
        deployment = replica.deployment
        content = {
            "revision_id": str(replica.revision_id),
            "engine": deployment.engine,
            "slots_per_replica": deployment.slots_per_replica,
            "accelerators_per_replica": deployment.accelerators_per_replica,
            "pool_name": deployment.pool_name,
            "settings": deployment.settings,
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        variants = Variant.objects.filter(deployment=deployment)
        variant = variants.filter(digest=digest).first() or Variant.objects.create(
            deployment=deployment,
            number=variants.count() + 1,
            digest=digest,
            created_at=replica.created_at,
            **content,
        )
        Replica.objects.filter(pk=replica.pk).update(variant=variant)


class Migration(migrations.Migration):
    dependencies = [("deployments", "0002_variant")]
    operations = [migrations.RunPython(fill, migrations.RunPython.noop)]
