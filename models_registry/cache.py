"""A node's copy of revisions: each blob once, each revision a folder of links to them."""

from pathlib import Path

from models_registry import storage
from models_registry.models import Artifact, Revision

COMPLETE = ".complete"


def materialize(revision: Revision, *, root: Path) -> Path:
    """The folder `root`/revisions/<commit> with all of the revision's files.

    Blobs are fetched into `root`/blobs, checked against their SHA-256, and shared by every
    revision that has them. What is there already is not fetched again, so an interrupted call
    goes on where it stopped. Safe to run twice at once. Raises BlobMissing, BlobDamaged.
    """
    folder = root / "revisions" / revision.commit
    if (folder / COMPLETE).exists():
        return folder
    for artifact in Artifact.objects.filter(revision=revision).select_related("blob"):
        blob = root / "blobs" / artifact.blob.sha256
        if not blob.exists() or blob.stat().st_size != artifact.blob.size_bytes:
            storage.copy_blob(artifact.blob.sha256, blob)
            blob.chmod(0o444)
        _link(folder / artifact.path, blob)
    (folder / COMPLETE).touch()
    return folder


def _link(path: Path, blob: Path) -> None:
    """A relative link, so that the whole root may be moved."""
    path.parent.mkdir(parents=True, exist_ok=True)
    target = Path(*[".."] * len(path.parent.relative_to(blob.parent.parent).parts)) / "blobs"
    try:
        path.symlink_to(target / blob.name)
    except FileExistsError:
        if not path.exists() or path.resolve() != blob.resolve():
            path.unlink(missing_ok=True)
            path.symlink_to(target / blob.name)
