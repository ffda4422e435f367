"""Token counts of a split with a registered model's own tokenizer and chat template."""

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from django.conf import settings

from models_registry import storage
from models_registry.models import Artifact, Revision

METHOD = "rendered with the model's chat template, tokenized with its tokenizer.json"
SPECIAL = ("bos_token", "eos_token", "pad_token", "unk_token")
LARGEST_TEMPLATE_BYTES = 2**20
SECONDS = 300.0  # at least; large files have as long as the slowest tokenizer seen needs, thrice
BYTES_PER_SECOND = 500_000


class CannotCount(Exception):
    """This model cannot count tokens; the message says why. The dataset is none the worse."""


@contextmanager
def tokenizer_folder(revision: Revision, *, needs_template: bool = True) -> Iterator[Path]:
    """A scratch folder with what the counting program needs. Raises CannotCount."""
    blobs = {
        artifact.path: artifact.blob_id
        for artifact in Artifact.objects.filter(revision=revision.parent or revision)
    } | {artifact.path: artifact.blob_id for artifact in Artifact.objects.filter(revision=revision)}
    if "tokenizer.json" not in blobs:
        raise CannotCount(f"{revision} has no tokenizer.json")
    template, context = _template(blobs)
    if needs_template and not template:
        raise CannotCount(f"{revision} has no chat template")
    with tempfile.TemporaryDirectory(prefix="tokens-") as name:
        folder = Path(name)
        storage.copy_blob(blobs["tokenizer.json"], folder / "tokenizer.json")
        given = {"template": template, "context": context}
        (folder / "template.json").write_text(json.dumps(given), encoding="utf-8")
        yield folder


def count(folder: Path, sha256: str) -> dict[str, Any]:
    """What `training.count_tokens` prints for the lines of a stored blob. Raises CannotCount."""
    with storage.open_blob(sha256) as file:
        seconds = max(SECONDS, os.fstat(file.fileno()).st_size / BYTES_PER_SECOND)
        with subprocess.Popen(
            [sys.executable, "-m", "training.count_tokens", str(folder)],
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=settings.BASE_DIR,
            env={"PATH": os.defpath, "LANG": "C.UTF-8", "RAYON_NUM_THREADS": "2"},
            start_new_session=True,
        ) as process:
            try:
                out, _ = process.communicate(timeout=seconds)
            except BaseException as error:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # it may have processes of its own
                if isinstance(error, subprocess.TimeoutExpired):
                    raise CannotCount(f"counting took longer than {seconds:.0f} seconds") from None
                raise
    try:
        answer = json.loads(out)
    except ValueError:
        raise CannotCount(
            f"the tokenizer or the chat template failed (status {process.returncode})"
        ) from None
    if "error" in answer:
        raise CannotCount(answer["error"])
    return dict(answer)


def _template(blobs: dict[str, str]) -> tuple[str, dict[str, Any]]:
    """The chat template and the special tokens that it may name. Raises CannotCount."""
    config: dict[str, Any] = {}
    if "tokenizer_config.json" in blobs:
        config = _read_json(blobs["tokenizer_config.json"])
    context: dict[str, Any] = {}
    for name in SPECIAL:
        value = config.get(name)
        token = value.get("content") if isinstance(value, dict) else value
        if isinstance(token, str):
            context[name] = token
    if "chat_template.jinja" in blobs:
        return _read_text(blobs["chat_template.jinja"]), context
    template = config.get("chat_template") or ""
    if isinstance(template, list):  # several, by name
        named = [each for each in template if isinstance(each, dict)]
        template = next((t.get("template") for t in named if t.get("name") == "default"), "")
    return template if isinstance(template, str) else "", context


def _read_text(sha256: str) -> str:
    with storage.open_blob(sha256) as file:
        raw = file.read(LARGEST_TEMPLATE_BYTES + 1)
    try:
        if len(raw) <= LARGEST_TEMPLATE_BYTES:
            return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise CannotCount("the chat template is not UTF-8") from None
    raise CannotCount(f"the chat template has more than {LARGEST_TEMPLATE_BYTES:,} bytes")


def _read_json(sha256: str) -> dict[str, Any]:
    """Known to be JSON of a bounded size since it was published (`facts.read_facts`)."""
    with storage.open_blob(sha256) as file:
        value = json.load(file)
    return value if isinstance(value, dict) else {}
