"""Computes sealed hours again and says where that gives another number than the ledger has."""

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from accounts.models import Organization
from usage import rollups, sealing


class Command(BaseCommand):
    help = "Compute sealed hours again; status 1 if the ledger has other numbers."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--organization", default="", help="A slug; all if left out.")
        parser.add_argument("--days", type=int, default=40, help="How far back.")

    def handle(self, *_args: Any, **options: Any) -> None:
        now, found = timezone.now(), 0
        rows = Organization.objects.all()
        if options["organization"]:
            rows = rows.filter(slug=options["organization"])
        for organization in rows:
            differences = rollups.list_differences(
                organization=organization,
                start=sealing.hour_of(now) - timedelta(days=options["days"]),
                end=now,
                now=now,
            )
            for each in differences:
                self.stdout.write(
                    f"{organization}: {each.key} is {each.kept}, computed again {each.computed}"
                )
            found += len(differences)
        if found:
            raise CommandError(f"{found} records differ")
        self.stdout.write("the ledger agrees with what it was computed from")
