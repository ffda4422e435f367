"""What rows of every app share: an id that sorts by time, and nothing else. No table of its own."""

from django.db import models

from common.ids import new_id


class Identified(models.Model):
    """Mixin: a time-ordered UUID as primary key."""

    id = models.UUIDField(primary_key=True, default=new_id, editable=False)

    class Meta:
        abstract = True
