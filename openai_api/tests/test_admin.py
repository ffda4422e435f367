from pathlib import Path

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import User
from openai_api.tests.make import make_job

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("table", ["file", "finetuningjob"])
def test_files_and_jobs_have_a_list_and_a_page(client: Client, tmp_path: Path, table: str) -> None:
    client.force_login(User.objects.create_superuser("root", "root@example.com", "a-password"))
    job = make_job(tmp_path)
    row = job if table == "finetuningjob" else job.training_file
    listed = client.get(reverse(f"admin:openai_api_{table}_changelist"), {"q": "e"})
    assert listed.status_code == 200
    shown = client.get(reverse(f"admin:openai_api_{table}_change", args=[row.pk]))
    assert str(row) in shown.content.decode()
