from django.db import models


class RejectedEvent(models.Model):
    """What came in the stream and cannot be counted, kept for a person to look at."""

    id = models.BigAutoField(primary_key=True)
    entry_id = models.CharField(max_length=40, help_text="The entry of the stream it came in.")
    position = models.PositiveIntegerField(help_text="Which event of the entry it was.")
    reason = models.CharField(max_length=300)
    content = models.TextField()
    rejected_at = models.DateTimeField()

    class Meta:
        ordering = ["-id"]
        constraints = [
            models.UniqueConstraint(fields=["entry_id", "position"], name="rejected_event_once"),
        ]

    def __str__(self) -> str:
        return f"{self.entry_id}/{self.position}"
