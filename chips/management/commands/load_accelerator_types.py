import json
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from chips import services

SHEETS = Path(__file__).resolve().parent.parent.parent / "data" / "accelerators.json"


class Command(BaseCommand):
    help = "Take in the data sheets of accelerator types; may be repeated."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--file", type=Path, default=SHEETS, help="Default: those shipped.")

    def handle(self, *args: Any, file: Path, **options: Any) -> None:
        count = services.load_accelerator_types(json.loads(file.read_text(encoding="utf-8")))
        if options["verbosity"]:
            self.stdout.write(f"{count} accelerator types")
