"""Files take room, and the ledger counts it."""

from collections.abc import Iterator

from accounts.models import Organization
from openai_api.models import File
from usage.choices import Stored
from usage.holdings import Thing


def list_files(organization: Organization) -> Iterator[Thing]:
    """Those that still have their content."""
    rows = File.objects.of(organization).filter(blob__isnull=False, size_bytes__gt=0)
    for row in rows.order_by().values_list("pk", "filename", "size_bytes", "created_at"):
        yield Thing(Stored.FILE, *row)
