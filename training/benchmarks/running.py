"""Benchmarks from inside the platform: one child process a model, its progress and its result."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from django.conf import settings

from accounts import services as accounts
from accounts.choices import Scope
from common import leases
from common.errors import DomainError
from common.texts import storable
from models_registry import storage
from models_registry.models import Revision
from training import asking, scratch, token_counts
from training.choices import EvaluationStatus
from training.models import Evaluation, EvaluationAnswer

E = EvaluationStatus
AT_ONCE = 2  # of a worker process, which has threads for other slow work
MOST_WAIT_SECONDS = {"route_seconds": 60.0, "model_seconds": 1800.0}
LOOK_SECONDS = 1.0
LONGEST_TOKENS = 32_768  # of a prompt; what a served model takes is for its engine to refuse
ERROR_BYTES = 2000
KEY_MARGIN = timedelta(minutes=15)

_free = threading.BoundedSemaphore(AT_ONCE)


class BenchmarkFailed(DomainError):
    code = "benchmark_failed"


class Cancelled(Exception):
    """Somebody asked for no more of it."""


@contextmanager
def turn() -> Iterator[bool]:
    """True while the block may run a benchmark in this process; else a sweep comes back to it."""
    mine = _free.acquire(blocking=False)
    try:
        yield mine
    finally:
        if mine:
            _free.release()


def run_model(
    evaluation: Evaluation, model_name: str, revision: Revision | None, *, now: datetime
) -> dict[str, Any]:
    """What the program found of one model: `metrics`, `stderr`, `samples`, `completion_tokens`.

    Progress is written into the row on the way. Begun again after a worker was lost, it asks only
    what it has not been answered, if the folder is still there. Raises DomainError, Cancelled.
    """
    seconds = settings.FACTORY_BENCHMARK_SECONDS
    folder = scratch.folder(evaluation) / scratch.file_name(model_name)
    folder.mkdir(parents=True, exist_ok=True)
    key = accounts.issue_api_key(
        organization=evaluation.organization,
        name=f"benchmark {evaluation.name}"[:80],
        scopes=[Scope.INFERENCE],
        allowed_models=[model_name],
        expires_at=now + timedelta(seconds=seconds) + KEY_MARGIN,
        is_internal=True,
        now=now,
    )
    try:
        with _tokenizer(evaluation, revision, folder) as tokenizer:
            spec = _spec(evaluation, model_name, folder, tokenizer) | {"secret": key.secret}
            path = _run(evaluation, spec, seconds=seconds)
        return dict(json.loads(path.read_text(encoding="utf-8")))
    finally:
        accounts.revoke_api_key(organization=evaluation.organization, key_id=key.row.pk, now=now)


def find_revision(
    evaluation: Evaluation, model_name: str, *, now: datetime
) -> tuple[Revision | None, asking.Wait | None]:
    """Whose answers the model's name stands for now, as the gateway says; or why it cannot answer."""
    key = accounts.issue_api_key(
        organization=evaluation.organization,
        name=f"benchmark {evaluation.name}"[:80],
        scopes=[Scope.INFERENCE],
        allowed_models=[model_name],
        expires_at=now + KEY_MARGIN,
        is_internal=True,
        now=now,
    )
    try:
        found = asking.greet(model_name, base_url=settings.FACTORY_GATEWAY_URL, secret=key.secret)
    finally:
        accounts.revoke_api_key(organization=evaluation.organization, key_id=key.row.pk, now=now)
    if isinstance(found, asking.Wait):
        return None, found
    rows = Revision.objects.of(evaluation.organization)
    return (rows.filter(pk=found).first() if found else None), None


def keep_samples(
    evaluation: Evaluation, model_name: str, revision: Revision | None, found: Mapping[str, Any]
) -> None:
    """A row a document, so that models are compared document by document."""
    EvaluationAnswer.objects.bulk_create(
        (
            EvaluationAnswer(
                evaluation=evaluation,
                model_name=model_name,
                revision=revision,
                line=each["line"],
                prompt=storable(each["prompt"]),
                expected=storable(each["expected"]),
                answer=storable(each["answer"]),
                is_exact=_is_right(each["scores"]),
                scores=each["scores"],
            )
            for each in found["samples"]
        ),
        ignore_conflicts=True,
        batch_size=1000,
    )


def _is_right(scores: Mapping[str, float]) -> bool:
    parts = {name.split(".")[2]: value for name, value in scores.items()}
    return parts.get("acc", parts.get("exact_match", 0.0)) == 1.0


def _spec(
    evaluation: Evaluation, model_name: str, folder: Path, tokenizer: Path | None
) -> dict[str, Any]:
    version = evaluation.split.version
    blobs = dict(version.splits.values_list("name", "blob_id"))
    return {
        "task": version.report["task"],
        "data": {name: str(storage.blob_path(blob)) for name, blob in blobs.items()},
        "folder": str(folder),
        "base_url": settings.FACTORY_GATEWAY_URL,
        "model": model_name,
        "tokenizer": str(tokenizer) if tokenizer else "",
        "as_chat": bool(evaluation.settings.get("as_chat")),
        "num_fewshot": evaluation.settings.get("num_fewshot"),
        "limit": evaluation.limit,
        "max_length": LONGEST_TOKENS,
        **MOST_WAIT_SECONDS,
    }


@contextmanager
def _tokenizer(
    evaluation: Evaluation, revision: Revision | None, folder: Path
) -> Iterator[Path | None]:
    """What likelihoods are asked with: the tokens of a context must be told from an answer's."""
    if evaluation.split.version.report["task"]["output_type"] == "generate_until":
        yield None
        return
    if revision is None:
        raise BenchmarkFailed(
            "The tokenizer of the model is not known here.",
            remedy="Benchmarks of likelihoods need a model of this platform's registry.",
        )
    needs_template = bool(evaluation.settings.get("as_chat"))
    try:
        with token_counts.tokenizer_folder(revision, needs_template=needs_template) as found:
            yield found
    except token_counts.CannotCount as error:
        raise BenchmarkFailed(f"Tokens cannot be told apart: {error}.") from error


def _run(evaluation: Evaluation, spec: Mapping[str, Any], *, seconds: float) -> Path:
    until = time.monotonic() + seconds
    folder = Path(str(spec["folder"]))
    with (folder / "log.txt").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "training.benchmarks.program"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=settings.BASE_DIR,
            env=_environment(folder),
            start_new_session=True,
        )
    words: queue.Queue[dict[str, Any] | None] = queue.Queue()
    reader = threading.Thread(target=_read, args=(process, words), daemon=True)
    reader.start()
    try:
        assert process.stdin is not None  # noqa: S101 - asked for above
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(spec).encode() + b"\n")
            process.stdin.flush()  # and left open: the program ends when this process does
        return _heed(evaluation, words, folder, until=until)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        reader.join()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


def _environment(folder: Path) -> dict[str, str]:
    """Nothing of the platform's, and nothing that would look for data sets elsewhere."""
    return {
        "PATH": os.defpath,
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_EVALUATE_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "RAYON_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _read(process: "subprocess.Popen[bytes]", words: "queue.Queue[dict[str, Any] | None]") -> None:
    assert process.stdout is not None  # noqa: S101
    for line in process.stdout:
        try:
            words.put(json.loads(line))
        except ValueError:  # it was ended in the middle of a word
            break
    words.put(None)


def _heed(
    evaluation: Evaluation,
    words: "queue.Queue[dict[str, Any] | None]",
    folder: Path,
    *,
    until: float,
) -> Path:
    rows = Evaluation.objects.filter(pk=evaluation.pk)
    before = evaluation.answers_done
    while True:
        if time.monotonic() > until:
            raise BenchmarkFailed(
                "It took longer than one benchmark of a model may.",
                remedy="Ask fewer documents with `limit`.",
            )
        state = rows.values("cancel_requested_at", "lease_token").first()
        if state is None or state["cancel_requested_at"] is not None:
            raise Cancelled
        if state["lease_token"] != evaluation.lease_token:
            raise leases.LeaseLost("another worker runs it")
        try:
            word = words.get(timeout=LOOK_SECONDS)
        except queue.Empty:
            continue
        if word is None:
            raise BenchmarkFailed(f"lm-eval came to no end: {_tail(folder)}")
        if "result" in word:
            return Path(word["result"])
        if "error" in word:
            error = BenchmarkFailed(storable(word["error"], limit=2000))
            error.code = word["code"]
            raise error
        if "waits" in word:
            _tell_wait(rows, evaluation, word["waits"])
        elif word["total"]:
            share = evaluation.examples_total * word["done"] // word["total"]
            rows.update(answers_done=before + min(share, evaluation.examples_total))


def _tell_wait(rows: Any, evaluation: Evaluation, wait: Mapping[str, Any]) -> None:
    reason = {404: "model_not_found"}.get(wait.get("status", 0), "model_not_ready")
    rows.update(
        status_reason=reason if wait else "",
        message=storable(str(wait.get("message", ""))),
    )


def _tail(folder: Path) -> str:
    raw = (folder / "log.txt").read_bytes()[-ERROR_BYTES:]
    lines = raw.decode(errors="replace").strip().splitlines()
    return storable(lines[-1] if lines else "it said nothing", limit=300)
