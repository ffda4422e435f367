"""Rows for tests."""

import io
from pathlib import Path

from accounts.models import ApiKey, Organization
from accounts.tests.make import NOW, make_key, make_organization
from models_registry.models import Revision
from models_registry.tests.make import make_revision
from openai_api import services
from openai_api.models import Batch, File, FineTuningJob
from openai_api.services import Wanted, WantedBatch
from training.tests.make import chat_lines


def make_file(
    organization: Organization | None = None,
    content: bytes | None = None,
    *,
    filename: str = "support.jsonl",
    purpose: str = "fine-tune",
) -> File:
    return services.create_file(
        organization=organization or make_organization(),
        filename=filename,
        purpose=purpose,
        content=io.BytesIO(chat_lines(8) if content is None else content),
        now=NOW,
    )


def make_base(tmp_path: Path, organization: Organization | None = None) -> Revision:
    return make_revision(tmp_path, organization or make_organization(), name="tiny")


def make_job(
    tmp_path: Path, organization: Organization | None = None, **wanted: object
) -> FineTuningJob:
    """A job whose files are still to be checked, on a meaningless base named tiny."""
    organization = organization or make_organization()
    if "model" not in wanted:
        make_base(tmp_path, organization)
    if "training_file" not in wanted:
        wanted["training_file"] = f"file-{make_file(organization).pk.hex}"
    values = {"model": "tiny", "suffix": "support", "seed": 7} | wanted
    return services.create_job(
        organization=organization,
        wanted=Wanted(**values),  # type: ignore[arg-type]
        now=NOW,
    )


def make_batch(organization: Organization, content: bytes = b'{"custom_id": "a"}\n') -> Batch:
    """A batch whose lines are still to be checked, by the organization's first key."""
    file = make_file(organization, content, filename="in.jsonl", purpose="batch")
    key = ApiKey.objects.of(organization).first()
    if key is None:
        make_key(organization)
        key = ApiKey.objects.of(organization).get()
    return services.create_batch(
        organization=organization,
        wanted=WantedBatch(endpoint="/v1/chat/completions", input_file=f"file-{file.pk.hex}"),
        key=key,
        now=NOW,
    )
