from datetime import datetime
from decimal import Decimal
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from accounts.audit import Actor
from accounts.models import Organization
from chips import services
from chips.choices import PriceItem
from chips.models import AcceleratorType, Pool
from common.errors import DomainError


class Command(BaseCommand):
    help = "Set a price: per accelerator-hour, or per million tokens. May be repeated."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("item", choices=PriceItem.values)
        parser.add_argument("unit_price", type=Decimal)
        parser.add_argument("--currency", default="USD")
        parser.add_argument("--accelerator-type", metavar="SLUG")
        parser.add_argument("--pool", metavar="NAME")
        parser.add_argument("--model", default="", metavar="NAME")
        parser.add_argument("--organization", metavar="SLUG")
        parser.add_argument("--from", dest="start", metavar="ISO-TIME", help="Default: now.")
        parser.add_argument("--note", default="")

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        try:
            entry = services.set_price(
                item=options["item"],
                unit_price=options["unit_price"],
                currency=options["currency"],
                accelerator_type=_row(AcceleratorType, slug=options["accelerator_type"]),
                pool=_row(Pool, name=options["pool"]),
                model_name=options["model"],
                organization=_row(Organization, slug=options["organization"]),
                valid_from=_time(options["start"]) or now,
                note=options["note"],
                actor=Actor(kind="command", name="set_price"),
                now=now,
            )
        except DomainError as error:
            raise CommandError(f"{error.message} {error.remedy}".strip()) from error
        self.stdout.write(f"{entry} from {entry.valid_from.isoformat()}")


def _row(model: type[Any], **lookup: str | None) -> Any:
    ((field, value),) = lookup.items()
    if value is None:
        return None
    found = model.objects.filter(**lookup).first()
    if found is None:
        raise CommandError(f"there is no {model._meta.verbose_name} with {field} {value}")
    return found


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    found = parse_datetime(text)
    if found is None or found.tzinfo is None:
        raise CommandError(f"{text} is no time with its zone, such as 2026-01-01T00:00:00+00:00")
    return found
