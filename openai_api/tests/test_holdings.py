from datetime import timedelta

import pytest

from accounts.tests.make import NOW, make_organization
from openai_api import services
from openai_api.tests.make import make_file
from usage import holdings
from usage.choices import Stored
from usage.models import StorageHolding

pytestmark = pytest.mark.django_db


def test_a_file_takes_room_until_it_is_deleted() -> None:
    retail = make_organization()
    file = make_file(retail)
    make_file(make_organization("bank"))
    holdings.observe(organization=retail, now=NOW + timedelta(hours=1))
    (row,) = StorageHolding.objects.all()
    assert (row.kind, row.subject_id, row.subject_name) == (Stored.FILE, file.pk, "support.jsonl")
    assert (row.size_bytes, row.held_at, row.released_at) == (file.size_bytes, NOW, None)
    services.delete_file(organization=retail, file_id=file.pk, now=NOW + timedelta(hours=2))
    holdings.observe(organization=retail, now=NOW + timedelta(hours=2))
    row.refresh_from_db()
    assert row.released_at == NOW + timedelta(hours=2)
    assert StorageHolding.objects.count() == 1
