"""Sends the lines of a batch that have no answer yet, and keeps each answer as it comes."""

import json
import logging
import time
from collections import Counter, deque
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import BinaryIO

import httpx
from django.conf import settings
from django.db import transaction
from django.db.models import F

from accounts import batch_tokens
from accounts.batch_tokens import BatchTicket
from openai_api.batching import room
from openai_api.models import Batch, BatchLine
from openai_api.services.files import open_file

logger = logging.getLogger(__name__)

AT_ONCE = 16  # threads of a step
STEP_SECONDS = 45.0  # after which no more is sent in this step
LOOK_SECONDS = 1.0  # between two looks at how much room there is, and whether to stop
ANSWER_SECONDS = 900.0
ATTEMPTS = 4  # at a line whose engine breaks over it
LATER = {429, 503}  # it may be answered later, and is not at fault
BROKEN = {0, 500, 502, 504}  # 0: the gateway could not be reached
LONGEST_PAUSE = 30.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. `status` 0: nothing did."""

    line: BatchLine
    status: int
    body: str
    request_id: str
    retry_after: float


def send_lines(batch: Batch) -> bool:
    """Send for some time, then wait for what is under way; true if lines are left for later."""
    lines = deque(batch.lines.filter(status_code__isnull=True).order_by("number")[:5000])
    if not lines:
        return False
    work = _Work(batch)
    until = time.monotonic() + STEP_SECONDS
    with (
        open_file(batch.input_file) as file,
        httpx.Client(
            base_url=settings.FACTORY_GATEWAY_URL,
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=5.0),
            limits=httpx.Limits(max_connections=AT_ONCE),
        ) as client,
        ThreadPoolExecutor(AT_ONCE, "batch-line") as threads,
    ):
        while True:
            is_over = time.monotonic() > until or not lines or work.is_to_stop()
            if is_over and not work.pending:
                break
            if not is_over:
                work.submit(lines, file, client, threads)
            work.gather()
    return batch.lines.filter(status_code__isnull=True).exists()


class _Work:
    """What of one batch is under way in this step."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self.pending: dict[Future[Reply], str] = {}
        self._places: dict[str, tuple[float, int]] = {}
        self._not_before: dict[str, float] = {}
        self._looked_at = 0.0
        self._stop = False

    def is_to_stop(self) -> bool:
        """Whether somebody cancelled it, or its lease went to another worker."""
        if time.monotonic() - self._looked_at > LOOK_SECONDS:
            self._looked_at = time.monotonic()
            row = Batch.objects.filter(
                pk=self._batch.pk,
                lease_token=self._batch.lease_token,
                cancel_requested_at__isnull=True,
            )
            self._stop = not row.exists()
        return self._stop

    def submit(
        self,
        lines: deque[BatchLine],
        file: BinaryIO,
        client: httpx.Client,
        threads: ThreadPoolExecutor,
    ) -> None:
        """Send what there is room for, one line after the other, each model for itself."""
        for _ in range(len(lines)):
            if len(self.pending) >= AT_ONCE:
                return
            line = lines.popleft()
            under_way = Counter(self.pending.values())[line.model_name]
            if under_way >= self._room(line.model_name, under_way):
                lines.append(line)
                if len({each.model_name for each in lines}) == 1:
                    lines.rotate(1)  # in their order, as far as room allows
                    return
                continue
            file.seek(line.offset_bytes)
            body = json.loads(file.read(line.size_bytes).decode("utf-8-sig"))["body"]
            self.pending[threads.submit(self._ask, client, line, body)] = line.model_name

    def gather(self) -> None:
        """Wait a moment for answers and keep those that have come."""
        if not self.pending:
            time.sleep(0.2)
            return
        done, _ = wait(self.pending, timeout=0.5, return_when=FIRST_COMPLETED)
        if done:
            replies = [each.result() for each in done]
            for each in done:
                del self.pending[each]
            self._keep(replies)

    def _room(self, model_name: str, own: int) -> int:
        if self._not_before.get(model_name, 0.0) > time.monotonic():
            return 0
        at, places = self._places.get(model_name, (0.0, 0))
        if time.monotonic() - at > LOOK_SECONDS:
            places = room.free_places(self._batch.organization_id, model_name, own=own)
            self._places[model_name] = (time.monotonic(), places)
        return places

    def _ask(self, client: httpx.Client, line: BatchLine, body: object) -> Reply:
        """In a thread of its own; touches no database."""
        ticket = BatchTicket(self._batch.pk, line.number, self._batch.key.prefix)
        headers = {"Authorization": f"Bearer {batch_tokens.sign(ticket, now=time.time())}"}
        try:
            answer = client.post(self._batch.endpoint, json=body, headers=headers)
        except httpx.HTTPError as error:
            logger.warning("line %s of %s: %r", line.number, self._batch, error)
            return Reply(line, 0, "", "", 1.0)
        after = answer.headers.get("retry-after", "")
        return Reply(
            line,
            answer.status_code,
            answer.text,
            answer.headers.get("x-request-id", "")[:64],
            min(float(after), LONGEST_PAUSE) if after.isdecimal() else 1.0,
        )

    def _keep(self, replies: list[Reply]) -> None:
        """Answers into their rows; a line that may be answered later stays open."""
        answered, again = [], []
        for reply in replies:
            line = reply.line
            if reply.status in BROKEN:
                line.attempts += 1
            if reply.status in LATER or (reply.status in BROKEN and line.attempts < ATTEMPTS):
                self._not_before[line.model_name] = time.monotonic() + reply.retry_after
                again.append(line)
                continue
            line.status_code = reply.status
            line.answer = reply.body.replace("\0", "")
            line.request_id = reply.request_id
            line.error_code = "" if reply.status else "gateway_unreachable"
            answered.append(line)
        usages = [_usage(line) for line in answered]
        good = sum(line.status_code == 200 for line in answered)
        with transaction.atomic():
            BatchLine.objects.bulk_update(again, ["attempts"])
            fields = ["attempts", "status_code", "answer", "request_id", "error_code"]
            BatchLine.objects.bulk_update(answered, fields)
            Batch.objects.filter(pk=self._batch.pk).update(
                lines_completed=F("lines_completed") + good,
                lines_failed=F("lines_failed") + len(answered) - good,
                input_tokens=F("input_tokens") + sum(each[0] for each in usages),
                output_tokens=F("output_tokens") + sum(each[1] for each in usages),
            )


def _usage(line: BatchLine) -> tuple[int, int]:
    """Tokens in and out that the answer tells of."""
    if line.status_code != 200:
        return 0, 0
    try:
        usage = json.loads(line.answer)["usage"]
        return int(usage["prompt_tokens"]), int(usage.get("completion_tokens") or 0)
    except (ValueError, KeyError, TypeError, AttributeError):
        return 0, 0
