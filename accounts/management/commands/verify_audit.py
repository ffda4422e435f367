from typing import Any

from django.core.management.base import BaseCommand, CommandError

from accounts import audit
from accounts.models import AuditEvent


class Command(BaseCommand):
    help = "Check the hash chain of the audit log."

    def handle(self, *args: Any, **options: Any) -> None:
        broken = audit.first_broken()
        if broken is not None:
            raise CommandError(f"event {broken} does not fit the chain: it was altered or removed")
        self.stdout.write(f"{AuditEvent.objects.count()} events, chain whole")
