from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils import timezone

from accounts.audit import Actor
from accounts.models import Organization
from common.errors import DomainError
from models_registry import reconcile, services
from models_registry.choices import SourceKind, Visibility
from models_registry.models import RevisionImport


class Command(BaseCommand):
    help = "Import a model: a local folder, a Hugging Face Hub id or a ModelScope id."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("source", help="a folder, or an id such as Qwen/Qwen3-0.6B")
        parser.add_argument(
            "--from",
            dest="source_kind",
            default=SourceKind.FOLDER,
            choices=[SourceKind.FOLDER, SourceKind.HUGGING_FACE, SourceKind.MODELSCOPE],
        )
        parser.add_argument("--organization", required=True, help="slug of the owner")
        parser.add_argument("--name", help="registered name; default: the source's last part")
        parser.add_argument("--revision", default="", help="branch, tag or commit at the hub")
        parser.add_argument("--licence", default="")
        parser.add_argument("--shared", action="store_true", help="let every organization read it")

    def handle(self, *args: Any, **options: Any) -> None:
        organization = Organization.objects.filter(slug=options["organization"]).first()
        if organization is None:
            raise CommandError(f"There is no organization {options['organization']}.")
        try:
            wanted = services.request_import(
                organization=organization,
                name=options["name"] or options["source"].rstrip("/").split("/")[-1],
                source_kind=options["source_kind"],
                source=options["source"],
                source_revision=options["revision"],
                visibility=Visibility.SHARED if options["shared"] else Visibility.PRIVATE,
                licence=options["licence"],
                may_read_any_folder=True,
                may_use_hub_token=True,
                actor=Actor("command", "import_model"),
                now=timezone.now(),
            )
        except DomainError as error:
            raise CommandError(f"{error.message} {error.remedy}".strip()) from error
        reconcile.run_import(wanted.pk, now=timezone.now())
        wanted = RevisionImport.objects.select_related("revision").get(pk=wanted.pk)
        if wanted.revision is None:
            raise CommandError(wanted.message or "A control worker carries it out.")
        self.stdout.write(f"{wanted.revision}: {wanted.revision.parameter_count:,} parameters")
