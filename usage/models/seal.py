from django.db import models

from accounts.models import Organization


class Seal(models.Model):
    """Up to when an organization's hours are sealed, those without any use too. Only moves on."""

    organization = models.OneToOneField(
        Organization, primary_key=True, on_delete=models.PROTECT, related_name="+"
    )
    sealed_until = models.DateTimeField(help_text="The start of the first hour that is open.")

    def __str__(self) -> str:
        return f"{self.organization} until {self.sealed_until:%Y-%m-%d %H}h"
