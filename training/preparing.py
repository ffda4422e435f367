"""Preparing datasets from inside the platform: small ones at once, large ones in a process of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from django.conf import settings

from common.errors import DomainError
from common.texts import Text
from models_registry import storage
from training import prepare
from training.models import DatasetSplit
from training.prepare import Prepared
from training.splits import SplitPlan

SECONDS = 3600.0
ERROR_BYTES = 2000


class CheckFailed(DomainError):
    """The checking program did not come to an end; nothing is known of the lines."""

    code = "check_failed"


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder beside the platform's data, where there is room, gone afterwards."""
    parent = Path(settings.FACTORY_DATA) / "preparing"
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="dataset-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def references(splits: Mapping[str, DatasetSplit]) -> dict[str, Path]:
    """Where the lines of sets that evaluations ask lie, by the split's id."""
    return {name: storage.blob_path(split.blob_id) for name, split in splits.items()}


def in_process(
    files: Mapping[str, Path],
    into: Path,
    *,
    format: str,
    mapping: Mapping[str, str],
    plan: SplitPlan | None,
    file_names: Mapping[str, str],
    references: Mapping[str, Path],
    progress: Callable[[int], None],
) -> Prepared:
    """Run `python -m training.prepare`, without the platform's environment. Raises CheckFailed."""
    given = {
        "files": {name: str(path) for name, path in files.items()},
        "into": str(into),
        "format": format,
        "mapping": dict(mapping),
        "plan": plan.to_json() if plan else None,
        "file_names": dict(file_names),
        "references": {name: str(path) for name, path in references.items()},
    }
    with tempfile.TemporaryFile() as spec, tempfile.TemporaryFile() as errors:
        spec.write(json.dumps(given).encode())
        spec.seek(0)
        with subprocess.Popen(
            [sys.executable, "-m", "training.prepare"],
            stdin=spec,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=settings.BASE_DIR,
            env={
                "PATH": os.defpath,
                "LANG": "C.UTF-8",
                "TMPDIR": str(into),
                "RAYON_NUM_THREADS": "1",  # its processes are one a core already
                "OPENBLAS_NUM_THREADS": "1",
            },
            start_new_session=True,
        ) as process:
            alarm = threading.Timer(SECONDS, _end, (process,))
            alarm.start()
            try:
                assert process.stdout is not None  # noqa: S101 - asked for above
                prepared = prepare.said(process.stdout, progress)
            except BaseException:
                _end(process)
                raise
            finally:
                alarm.cancel()
        if prepared is None:
            errors.seek(max(0, errors.seek(0, 2) - ERROR_BYTES))
            tail = errors.read().decode(errors="replace").strip().splitlines()
            said = tail[-1] if tail else f"status {process.returncode}"
            raise CheckFailed(
                Text("The check came to no end: %(said)s", said=said[:300]),
                remedy=Text("Upload the files again; in smaller parts if they are very large."),
            )
    return prepared


def _end(process: "subprocess.Popen[bytes]") -> None:
    """The program and the processes that share its work."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
