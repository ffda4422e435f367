"""Fetching a model's files from where they are published, through each hub's own client.

Only file kinds that the registry takes are fetched (`facts.is_wanted`). Both clients resume: what
an interrupted call left in the folder is not fetched again. Imported by control workers alone.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings

from common.errors import InvalidInput
from common.texts import storable
from models_registry import facts, storage
from models_registry.choices import SourceKind

REPORT_SECONDS = 1.0
FETCH_WORKERS = 4

Report = Callable[[int, int | None], None]  # bytes so far, bytes in all if known


class SourceUnavailable(InvalidInput):
    """The hub does not have it, does not let us have it, or does not answer."""

    code = "source_unavailable"


class NoRoom(InvalidInput):
    """The storage has not enough room for the files."""

    code = "no_room"


def fetch(
    *,
    source_kind: str,
    source: str,
    source_revision: str,
    use_token: bool,
    into: Path,
    report: Report,
) -> tuple[Path, str]:
    """The folder that holds the files, and the revision they are of.

    `report` is called about once a second. Raises SourceUnavailable, NoRoom.
    """
    if source_kind == SourceKind.FOLDER:
        return Path(source), ""
    into.mkdir(parents=True, exist_ok=True)
    if source_kind == SourceKind.HUGGING_FACE:
        token = settings.HUGGING_FACE_TOKEN if use_token else ""
        return into, _from_hugging_face(source, source_revision, token, into, report)
    token = settings.MODELSCOPE_TOKEN if use_token else ""
    return into, _from_modelscope(source, source_revision, token, into, report)


def _from_hugging_face(
    repository: str, revision: str, secret: str, into: Path, report: Report
) -> str:
    from httpx2 import HTTPError  # of the client's own transport: nobody there, too slow
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    endpoint = settings.HUGGING_FACE_ENDPOINT
    token: str | bool = secret or False
    try:
        info = HfApi(endpoint=endpoint, token=token).model_info(
            repository, revision=revision or None, files_metadata=True
        )
        files = [f for f in info.siblings or [] if facts.is_wanted(f.rfilename)]
        total = sum(f.size or 0 for f in files) or None
        _check_room(total)
        with _watching(into, total, report):
            snapshot_download(
                repository,
                revision=info.sha,
                local_dir=into,
                allow_patterns=[f.rfilename for f in files],
                max_workers=FETCH_WORKERS,
                endpoint=endpoint,
                token=token,
            )
    except (HfHubHTTPError, HFValidationError, HTTPError, OSError) as error:
        raise _unavailable("Hugging Face Hub", repository, error) from error
    return info.sha or ""


def _from_modelscope(
    repository: str, revision: str, secret: str, into: Path, report: Report
) -> str:
    from modelscope_hub import HubApi, HubError

    try:
        api = HubApi(endpoint=settings.MODELSCOPE_ENDPOINT, token=secret or None)
        files = api.list_repo_files(repository, "model", revision=revision or None)
        wanted = [f for f in files if f.type != "tree" and facts.is_wanted(f.path)]
        if not wanted:
            raise SourceUnavailable(f"{repository} holds no files that can be taken.")
        total = sum(f.size or 0 for f in wanted) or None
        _check_room(total)
        with _watching(into, total, report):
            api.download_repo(
                repository,
                "model",
                revision=revision or None,
                local_dir=into,
                allow_patterns=[f.path for f in wanted],
                max_workers=FETCH_WORKERS,
            )
    except (HubError, OSError) as error:
        raise _unavailable("ModelScope", repository, error) from error
    return revision


def _check_room(total: int | None) -> None:
    """Refuse what would fill the disk: files are fetched first and copied into the storage then."""
    free = storage.free_bytes()
    if total is not None and 2 * total > free:
        raise NoRoom(
            f"The files have {total:,} bytes; {free:,} are free, and twice as many are needed.",
            field="source",
            remedy="Ask an operator for more storage.",
        )


def _unavailable(hub: str, repository: str, error: Exception) -> SourceUnavailable:
    lines = str(error).splitlines() or [type(error).__name__]
    return SourceUnavailable(
        f"{hub} did not give {repository}: {storable(lines[0], limit=300)}",
        field="source",
        remedy="Check the name and the revision, the token, and whether this machine may reach it.",
    )


@contextmanager
def _watching(folder: Path, total: int | None, report: Report) -> Iterator[None]:
    """Report the folder's growth while the body runs, and once more when it is done."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(REPORT_SECONDS):
            report(_size(folder), total)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    report(_size(folder), total)


def _size(folder: Path) -> int:
    size = 0
    for path in folder.rglob("*"):
        try:
            if path.is_file():
                size += path.stat().st_size
        except FileNotFoundError:  # renamed while we looked
            continue
    return size
