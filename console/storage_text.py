"""Small text files of a revision, read for showing."""

from models_registry import storage
from models_registry.models import Revision

LARGEST_CARD_BYTES = 200_000


def read_card(revision: Revision) -> str:
    """The model card (README.md) without its YAML header; empty if there is none to read."""
    artifact = revision.artifacts.select_related("blob").filter(path="README.md").first()
    if artifact is None or artifact.blob.size_bytes > LARGEST_CARD_BYTES:
        return ""
    try:
        with storage.open_blob(artifact.blob.sha256) as file:
            text = file.read().decode("utf-8", "replace")
    except storage.BlobMissing:
        return ""
    if text.startswith("---\n"):
        _header, found, body = text[4:].partition("\n---")
        text = body.lstrip("-") if found else text
    return text
