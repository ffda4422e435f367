import json
from typing import Any

from django.core.management.base import BaseCommand
from django.utils import timezone

from factory import demo_tenants


class Command(BaseCommand):
    help = "Make the demo's organizations, people, keys and prices; print the keys as JSON."

    def handle(self, *args: Any, **options: Any) -> None:
        tenants = demo_tenants.ensure_tenants(now=timezone.now())
        self.stdout.write(json.dumps(tenants.keys))
