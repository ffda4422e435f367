"""Rows and files for tests."""

import io
import json
from pathlib import Path

from accounts.models import Organization
from accounts.tests.make import NOW, make_organization
from models_registry.models import Revision
from models_registry.tests.make import make_revision
from training import services
from training.models import DatasetVersion, TrainingRun


def chat_lines(count: int = 4, *, start: int = 0) -> bytes:
    """Good lines: a message and the JSON that it should be read as."""
    rows = (
        {
            "messages": [
                {"role": "system", "content": "Answer with JSON."},
                {"role": "user", "content": f"Where is order {number}?"},
                {
                    "role": "assistant",
                    "content": json.dumps({"intent": "tracking", "order": str(number)}),
                },
            ]
        }
        for number in range(start, start + count)
    )
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def make_version(
    organization: Organization | None = None,
    *,
    name: str = "tickets",
    files: dict[str, bytes] | None = None,
    tokenizer_revision: Revision | None = None,
) -> DatasetVersion:
    """A version of a new dataset, with the splits train and heldout unless told otherwise."""
    organization = organization or make_organization()
    dataset = services.create_dataset(organization=organization, name=name, now=NOW)
    given = files or {"train": chat_lines(8), "heldout": chat_lines(4, start=100)}
    return services.upload_version(
        organization=organization,
        dataset_id=dataset.pk,
        files={split: io.BytesIO(data) for split, data in given.items()},
        tokenizer_revision=tokenizer_revision,
        now=NOW,
    )


def write_tokenizer(folder: Path) -> None:
    """A tokenizer of single words and ChatML's template, as a model folder has them."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {"[UNK]": 0, "<|im_start|>": 1, "<|im_end|>": 2}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    template = (
        "{% for message in messages %}<|im_start|>{{ message.role }} {{ message.content }}"
        "<|im_end|>{% endfor %}"
    )
    config = {"eos_token": "<|im_end|>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def make_run(
    tmp_path: Path, organization: Organization | None = None, **options: object
) -> TrainingRun:
    """A pending run of a meaningless base on a small dataset; give `name` for a second one."""
    organization = organization or make_organization()
    name = str(options.pop("name", "tune"))
    base = make_revision(tmp_path, organization, name=f"base-{name}")
    version = make_version(organization, name=f"data-{name}")
    return services.create_training_run(
        **{  # type: ignore[arg-type]
            "organization": organization,
            "name": name,
            "base_revision_id": base.pk,
            "dataset_version_id": version.pk,
            "output_name": f"{name}-result",
            "tuning": "full",
            "now": NOW,
        }
        | options
    )
