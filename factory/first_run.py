"""What a new database needs before anyone can work: tables, data sheets, an operator."""

import secrets
from pathlib import Path

from django.conf import settings
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

from accounts.models import User

OPERATOR = "operator"


def bring_up_to_date() -> None:
    """Apply what migrations are missing and load the accelerator data sheets."""
    executor = MigrationExecutor(connection)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        call_command("migrate", verbosity=0, interactive=False)
    call_command("load_accelerator_types", verbosity=0)


def ensure_operator() -> tuple[str, str]:
    """The operator's name and password, made on first use and kept in a private file."""
    path = Path(settings.FACTORY_DATA) / "operator-password"
    password = path.read_text().strip() if path.exists() else ""
    if not password:  # also after a kill between the file and what is in it
        password = secrets.token_urlsafe(12)
        path.touch(mode=0o600)
        path.write_text(password)
    if not User.objects.filter(username=OPERATOR).exists():
        User.objects.create_superuser(OPERATOR, "operator@localhost.localdomain", password)
    return OPERATOR, password
