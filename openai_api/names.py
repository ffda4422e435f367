"""Ids as OpenAI writes them, and the names of fine-tuned models."""

import re
import secrets
import string
from uuid import UUID

FILE, JOB, EVENT, CHECKPOINT, ORGANIZATION = "file", "ftjob", "ftevent", "ftckpt", "org"
BATCH = "batch"
LONGEST_SUFFIX = 64
LONGEST = 170  # with the end that a checkpoint's name has; wherever models are named, it fits
LONGEST_STEP = 20
TOKEN_CHARACTERS = string.ascii_letters + string.digits
CHECKPOINT_NAME = re.compile(r"(?P<model>ft:.+):ckpt-step-(?P<step>\d{1,9})")


def public_id(prefix: str, pk: UUID) -> str:
    """`file-` and 32 hex digits, say."""
    return f"{prefix}-{pk.hex}"


def read_id(prefix: str, text: str) -> UUID | None:
    """The row's id; None for what is none of ours."""
    start, _, digits = text.partition("-")
    if start != prefix or not re.fullmatch(r"[0-9a-f]{32}", digits):
        return None
    return UUID(digits)


def batch_id(pk: UUID) -> str:
    """OpenAI writes these with an underscore."""
    return f"{BATCH}_{pk.hex}"


def read_batch_id(text: str) -> UUID | None:
    """The row's id; None for what is none of ours."""
    start, _, digits = text.partition("_")
    return read_id(BATCH, f"{BATCH}-{digits}") if start == BATCH else None


def fine_tuned_name(*, base: str, organization: str, suffix: str) -> str:
    """`ft:<base>:<organization>:<suffix>:<id>` with an id that no other has; the suffix may be
    empty, long bases are cut."""
    token = "".join(secrets.choice(TOKEN_CHARACTERS) for _ in range(8))
    end = f":{organization}:{tidy(suffix)}:{token}"
    room = LONGEST - LONGEST_STEP - len("ft:") - len(end)
    return f"ft:{base[: max(room, 8)]}{end}"


def tidy(suffix: str) -> str:
    """With hyphens for what names of models do not have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", suffix[:LONGEST_SUFFIX]).strip("-._")


def checkpoint_name(model: str, step: int) -> str:
    return f"{model}:ckpt-step-{step}"


def read_checkpoint_name(name: str) -> tuple[str, int] | None:
    """The model and the step of a checkpoint's name; None if it is no checkpoint's."""
    found = CHECKPOINT_NAME.fullmatch(name)
    return (found["model"], int(found["step"])) if found else None


def registry_name(fine_tuned_model: str) -> str:
    """The registered model that a job's result becomes a revision of: hubs know no colons, and
    names of at most 96 characters."""
    _, base, _, suffix, token = fine_tuned_model.split(":")
    start = f"{base}-{suffix}" if suffix else base
    return f"{start[:80].rstrip('-._')}-{token}"
