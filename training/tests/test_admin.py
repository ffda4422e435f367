from pathlib import Path

import pytest
from django.apps import apps
from django.test import Client
from django.urls import reverse

from accounts.models import User
from accounts.tests.make import NOW
from training.models import EvaluationAnswer, TrainingEvent, TrainingRun
from training.tests.make import make_run
from training.tests.test_api import make_evaluation

pytestmark = pytest.mark.django_db


@pytest.fixture
def staff(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("root", "root@example.com", "a-password"))
    return client


@pytest.mark.parametrize(
    "model", [m.__name__ for m in apps.get_app_config("training").get_models()]
)
def test_every_table_has_a_list_and_a_page(staff: Client, tmp_path: Path, model: str) -> None:
    run = make_run(tmp_path)
    make_evaluation()
    TrainingEvent.objects.create(run=run, at=NOW, kind="placed")
    assert EvaluationAnswer.objects.exists()
    rows = apps.get_model("training", model).objects.all()
    label = model.lower()
    assert staff.get(reverse(f"admin:training_{label}_changelist"), {"q": "e"}).status_code == 200
    for row in rows[:1]:
        url = reverse(f"admin:training_{label}_change", args=[row.pk])
        assert staff.get(url).status_code == 200


def test_runs_are_cancelled_from_their_list(staff: Client, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    url = reverse("admin:training_trainingrun_changelist")
    answer = staff.post(url, {"action": "cancel", "_selected_action": [str(run.pk)]}, follow=True)
    assert "1 run is being cancelled" in answer.content.decode()
    assert TrainingRun.objects.get().cancel_requested_at is not None
