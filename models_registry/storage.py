"""Content-addressed storage: each file once, named by the SHA-256 of its bytes.

One seam, `FACTORY_STORAGE`; behind it a folder. Writes go to a temporary file on the same disk and
are renamed into place, so a reader sees a whole blob or none.
"""

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from common.errors import DomainError
from models_registry.models import Blob

CHUNK_BYTES = 4 * 2**20
GIT_SHA1_UP_TO_BYTES = 10 * 2**20  # larger files go by their SHA-256 in the hub protocol (LFS)


class BlobDamaged(DomainError):
    """Stored bytes no longer have the hash they are named by."""

    code = "blob_damaged"
    status_code = 500


class BlobMissing(DomainError):
    code = "blob_missing"
    status_code = 500


def put_file(path: Path, *, now: datetime) -> Blob:
    """Store a file's content; the same content again returns the same row."""
    with path.open("rb") as file:
        return put_chunks(_chunks(file), now=now)


def put_chunks(chunks: Iterable[bytes], *, now: datetime) -> Blob:
    """Store what the chunks add up to, in constant memory."""
    root = _root()
    digest = hashlib.sha256()
    with _temporary(root) as (path, file):
        size = 0
        for chunk in chunks:
            digest.update(chunk)
            file.write(chunk)
            size += len(chunk)
        file.flush()
        os.fsync(file.fileno())
        sha256 = digest.hexdigest()
        target = blob_path(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.chmod(0o444)
        path.replace(target)  # also where there is one: it may be damaged
    row, _ = Blob.objects.get_or_create(
        sha256=sha256,
        defaults={"git_sha1": _git_sha1(target, size), "size_bytes": size, "created_at": now},
    )
    return row


def blob_path(sha256: str) -> Path:
    """Where the blob lies in the storage folder."""
    return _root() / "blobs" / sha256[:2] / sha256[2:4] / sha256


def open_blob(sha256: str) -> BinaryIO:
    """The blob's bytes, for reading. Raises BlobMissing."""
    try:
        return blob_path(sha256).open("rb")
    except FileNotFoundError as error:
        raise BlobMissing(f"Blob {sha256[:12]} is not in the storage.") from error


def copy_blob(sha256: str, to: Path) -> Path:
    """Copy a blob to a path, whole or not at all, its hash checked on the way. Raises
    BlobMissing, BlobDamaged."""
    to.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with open_blob(sha256) as source, _temporary(to.parent, folder="") as (path, file):
        for chunk in _chunks(source):
            digest.update(chunk)
            file.write(chunk)
        if digest.hexdigest() != sha256:
            raise BlobDamaged(
                f"Blob {sha256[:12]} does not have its hash any more.",
                remedy="Restore it from a backup, or import the model again.",
            )
        file.flush()
        os.fsync(file.fileno())
        path.replace(to)
    return to


def _root() -> Path:
    where = settings.FACTORY_STORAGE
    if "://" in where:
        raise ImproperlyConfigured(
            f"FACTORY_STORAGE={where}: only a folder is supported so far, give a path"
        )
    return Path(where)


def _chunks(file: BinaryIO) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


@contextmanager
def _temporary(root: Path, folder: str = "incoming") -> Iterator[tuple[Path, BinaryIO]]:
    """A new file in `root`/`folder`, removed afterwards unless it was renamed away."""
    parent = root / folder
    parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".incoming-", dir=parent)
    path = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield path, file
    finally:
        path.unlink(missing_ok=True)


def _git_sha1(path: Path, size: int) -> str:
    """The content's object id in git (sha1 over "blob <size>\\0" and the bytes); "" if large."""
    if size > GIT_SHA1_UP_TO_BYTES:
        return ""
    digest = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        for chunk in _chunks(file):
            digest.update(chunk)
    return digest.hexdigest()


def free_bytes() -> int:
    """Room left on the storage's disk."""
    root = _root()
    root.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(root).free
