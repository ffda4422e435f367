"""How likely served models find the expected answers: asked after all answers are there.

The tokens and those among them that count come from the trainer's own reading of the lines
(`python -m trainer.marked`); the log-probabilities from the serving path, which tells them of a
prompt. `EvaluationAnswer.likelihood` keeps what was found: nats, tokens and bytes, or an error.
"""

import json
import math
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from django.conf import settings
from django.db import connection
from django.db.models import QuerySet

from accounts import services as accounts
from accounts.choices import Scope
from common.errors import DomainError
from common.texts import storable
from models_registry import storage
from models_registry.models import Artifact, Revision
from training import asking, scratch
from training.asking import Question, Reply, Wait
from training.metrics import reading
from training.metrics.likelihood import BITS, LOSS, PERPLEXITY, Perplexity
from training.metrics.paired import Scores
from training.models import Evaluation, EvaluationAnswer

ROUND = 32  # lines between two writes
KEY_LIFE = timedelta(minutes=15)
SECONDS = 1800.0  # for the program that marks tokens
NO_TOKENIZER = "It is no model of this platform's registry, so its tokens are not known."
KEPT = (".json", ".jinja", ".txt", ".model")  # of a model's files, those that tokenizers read
LARGEST_BYTES = 64 * 2**20

Marked = dict[int, list[dict[str, Any]]]  # by line, its examples


class CannotMark(DomainError):
    """The lines cannot be read as the model's tokens."""

    code = "no_tokens"


def is_asked(evaluation: Evaluation) -> bool:
    return any(isinstance(each, Perplexity) for each in reading.read(evaluation.metrics))


def count_open(evaluation: Evaluation) -> int:
    """Answers of which it is still to be told how likely they are."""
    return _open(evaluation).count() if is_asked(evaluation) else 0


def measure_for_a_while(
    evaluation: Evaluation, *, seconds: float, now: datetime
) -> dict[str, Wait]:
    """Until time is up or all is told; by model, why it cannot answer. Raises CannotMark."""
    waits: dict[str, Wait] = {}
    if not count_open(evaluation):
        return waits
    _open(evaluation).filter(revision__isnull=True).update(likelihood={"error": NO_TOKENIZER})
    until = time.monotonic() + seconds
    key = accounts.issue_api_key(
        organization=evaluation.organization,
        name=f"evaluation {evaluation.name}"[:80],
        scopes=[Scope.INFERENCE],
        allowed_models=evaluation.model_names,
        expires_at=now + KEY_LIFE,
        is_internal=True,
        now=now,
    )
    try:
        for model_name in evaluation.model_names:
            open_rows = _open(evaluation).filter(model_name=model_name)
            marked: dict[Any, Marked] = {}
            while time.monotonic() < until:
                rows = list(open_rows.select_related("revision").order_by("line")[:ROUND])
                if not rows:
                    break
                outcome = asking.ask(
                    list(_questions(evaluation, rows, marked)),
                    base_url=settings.FACTORY_GATEWAY_URL,
                    secret=key.secret,
                    max_tokens=0,
                    seconds=until - time.monotonic(),
                )
                _store(rows, marked, outcome.replies)
                if outcome.waits:
                    waits |= outcome.waits
                    break
    finally:
        accounts.revoke_api_key(organization=evaluation.organization, key_id=key.row.pk, now=now)
    return waits


def figures(evaluation: Evaluation) -> dict[str, dict[str, float]]:
    """By model over all lines so far: every token counts alike, as in training."""
    found = {}
    for name, (nats, tokens, size) in _totals(evaluation).items():
        loss = nats / tokens
        found[name] = {LOSS: loss, PERPLEXITY: math.exp(min(loss, 700.0))}
        if size:
            found[name][BITS] = nats / math.log(2) / size
    return found


def weigh(evaluation: Evaluation, rows: dict[str, dict[str, Scores]]) -> None:
    """Put the scores of lines in proportion to their tokens (and bytes), in place: then the mean of
    lines is the figure of all, and so is the mean of a sample of lines."""
    totals = _totals(evaluation)
    if not totals:
        return
    kept = EvaluationAnswer.objects.filter(evaluation=evaluation, likelihood__has_key="nats")
    counts = {name: kept.filter(model_name=name).count() for name in totals}
    for name, line, told in kept.values_list("model_name", "line", "likelihood").iterator():
        _, tokens, size = totals[name]
        if LOSS in rows and name in rows[LOSS]:
            rows[LOSS][name][line] = told["nats"] * counts[name] / tokens
        if size and BITS in rows and name in rows[BITS]:
            rows[BITS][name][line] = told["nats"] / math.log(2) * counts[name] / size


def problems(evaluation: Evaluation) -> dict[str, str]:
    """By model, why some lines have none."""
    rows = EvaluationAnswer.objects.filter(evaluation=evaluation, likelihood__has_key="error")
    found: dict[str, str] = {}
    for name, told in rows.order_by("line").values_list("model_name", "likelihood")[:1000]:
        found.setdefault(f"{PERPLEXITY}: {name}", str(told["error"]))
    return found


def _open(evaluation: Evaluation) -> QuerySet[EvaluationAnswer]:
    return EvaluationAnswer.objects.filter(evaluation=evaluation, likelihood={})


def _totals(evaluation: Evaluation) -> dict[str, tuple[float, int, int]]:
    """By model: nats, tokens and bytes together."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT model_name, sum((likelihood->>'nats')::float8),"
            " sum((likelihood->>'tokens')::bigint), sum((likelihood->>'bytes')::bigint)"
            " FROM training_evaluationanswer WHERE evaluation_id = %s AND likelihood ? 'nats'"
            " GROUP BY 1",
            [evaluation.pk],
        )
        return {
            name: (float(nats), int(tokens), int(size))
            for name, nats, tokens, size in cursor.fetchall()
            if tokens
        }


def _questions(
    evaluation: Evaluation, rows: list[EvaluationAnswer], marked: dict[Any, Marked]
) -> Iterator[Question]:
    for row in rows:
        if row.revision is None:  # such as one that was deleted meanwhile
            continue
        if row.revision_id not in marked:
            marked[row.revision_id] = _marked(evaluation, row.revision)
        for place, example in enumerate(marked[row.revision_id].get(row.line, ())):
            yield Question(
                row.model_name,
                row.line,
                (),
                "",
                key=f"{row.pk}/{place}",
                tokens=tuple(example["tokens"]),
            )


def _store(rows: list[EvaluationAnswer], marked: dict[Any, Marked], replies: list[Reply]) -> None:
    by_row: defaultdict[str, dict[int, Reply]] = defaultdict(dict)
    for reply in replies:
        pk, _, place = reply.question.key.partition("/")
        by_row[pk][int(place)] = reply
    for row in rows:
        examples = marked.get(row.revision_id, {}).get(row.line, [])
        told = by_row.get(str(row.pk), {})
        if examples and len(told) < len(examples):
            continue  # the rest was not asked any more
        row.likelihood = _sum(examples, told)
        if row.likelihood.get("tokens"):
            row.scores[LOSS] = row.likelihood["nats"] / row.likelihood["tokens"]
        if row.likelihood.get("bytes"):
            row.scores[BITS] = row.likelihood["nats"] / math.log(2) / row.likelihood["bytes"]
        row.save(update_fields=["likelihood", "scores"])


def _sum(examples: list[dict[str, Any]], told: Mapping[int, Reply]) -> dict[str, Any]:
    if not examples:
        return {"error": "The line has no answer to measure."}
    nats, tokens, size = 0.0, 0, 0
    for place, example in enumerate(examples):
        reply = told[place]
        if reply.error:
            return {"error": storable(reply.error, limit=1000)}
        values = [reply.logprobs[at] for at in example["counted"] if at < len(reply.logprobs)]
        numbers = [value for value in values if value is not None]
        if len(numbers) != len(example["counted"]):
            return {"error": "The model's engine tells no log-probabilities of prompts."}
        nats -= float(np.sum(numbers))
        tokens, size = tokens + len(numbers), size + example["bytes"]
    return {"nats": nats, "tokens": tokens, "bytes": size}


def _marked(evaluation: Evaluation, revision: Revision) -> Marked:
    """Kept on this node for the evaluation's later slices. Raises CannotMark."""
    folder = scratch.folder(evaluation)
    path = folder / f"{revision.pk}.jsonl"
    if not path.exists():
        _mark(evaluation, revision, folder / str(revision.pk), path)
    found: Marked = defaultdict(list)
    with path.open(encoding="utf-8") as file:
        for text in file:
            example = json.loads(text)
            found[example["line"]].append(example)
    return found


def _mark(evaluation: Evaluation, revision: Revision, folder: Path, path: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    small = Artifact.objects.filter(blob__size_bytes__lte=LARGEST_BYTES)
    for owner in filter(None, (revision.parent, revision)):
        for artifact in small.filter(revision=owner):
            if artifact.path.endswith(KEPT) and "/" not in artifact.path:
                (folder / artifact.path).unlink(missing_ok=True)
                storage.copy_blob(artifact.blob_id, folder / artifact.path)
    part = path.with_suffix(".part")
    lines = storage.blob_path(evaluation.split.blob_id)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "trainer.marked", str(folder), str(lines), str(part)],
            capture_output=True,
            cwd=settings.BASE_DIR,
            env={"PATH": os.defpath, "LANG": "C.UTF-8", "HF_HUB_OFFLINE": "1", "HOME": str(folder)},
            timeout=SECONDS,
            check=False,
        )
        said = json.loads(done.stdout)
    except (ValueError, subprocess.TimeoutExpired):
        said = {"error": "the program that reads the lines came to no end"}
    if "error" in said:
        raise CannotMark(storable(f"{revision}: {said['error']}", limit=1000))
    part.replace(path)
