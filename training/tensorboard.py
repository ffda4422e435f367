"""A run's metrics as a TensorBoard event file, made from its rows whenever it is asked for.

The rows outlive the node and its folders, and hold every step once however often it was trained
again; so the file is whole at any time, and the same for a run that is over.
"""

import struct
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import scalar, text

from training import selectors
from training.models import TrainingMetric, TrainingRun

# Tags by field; "train/" and "eval/" are what transformers' Trainer writes, so that runs of both
# lie over each other.
TAGS = {
    "loss": "train/loss",
    "eval_loss": "eval/loss",
    "learning_rate": "train/learning_rate",
    "grad_norm": "train/grad_norm",
    "tokens_per_second": "train/tokens_per_second",
    "memory_bytes": "train/memory_bytes",
    "tokens_total": "train/tokens_total",
}


def file_name(run: TrainingRun) -> str:
    """TensorBoard finds files by `tfevents` in the name."""
    return f"events.out.tfevents.{int(run.created_at.timestamp())}.{run.pk}"


def event_file(run: TrainingRun) -> Iterator[bytes]:
    """The file, record by record."""
    started = run.created_at.timestamp()
    yield _record(Event(wall_time=started, file_version="brain.Event:2"))
    for metric in selectors.list_metrics(run).iterator(chunk_size=1000):
        for event in _scalars(metric):
            yield _record(event)
    for sample in selectors.list_samples(run).iterator(chunk_size=100):
        for number, one in enumerate(sample.answers, start=1):
            words = f"**{one.get('prompt', '')}**\n\n{one.get('answer', '')}"
            yield _record(
                Event(
                    wall_time=sample.at.timestamp(),
                    step=sample.step,
                    summary=text(f"samples/{number}", words),
                )
            )


def archive(runs: Sequence[TrainingRun]) -> Iterator[bytes]:
    """A ZIP file with a folder for each run, named as the run is: unpacked, its folder is what
    `tensorboard --logdir` asks for, and runs lie over each other under their names."""
    out = _Pieces()
    names = Counter(run.name for run in runs)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed:  # type: ignore[call-overload]
        for run in runs:
            folder = run.name if names[run.name] == 1 else f"{run.name}-{run.pk}"
            member = zipfile.ZipInfo(
                f"{folder}/{file_name(run)}", run.created_at.utctimetuple()[:6]
            )
            member.compress_type = zipfile.ZIP_DEFLATED
            with packed.open(member, "w") as file:
                for record in event_file(run):
                    file.write(record)
                    yield from out.take()
    yield from out.take()


class _Pieces:
    """A file to be written to, whose bytes are taken away as they come."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def take(self) -> list[bytes]:
        taken, self._pieces = self._pieces, []
        return taken


def _scalars(metric: TrainingMetric) -> Iterator[Event]:
    values = {tag: getattr(metric, name) for name, tag in TAGS.items()}
    values |= {f"train/{name}": value for name, value in metric.details.items()}
    for tag, value in values.items():
        if value is not None:
            yield Event(
                wall_time=metric.at.timestamp(), step=metric.step, summary=scalar(tag, float(value))
            )


def _record(event: Event) -> bytes:
    """TFRecord: length, its checksum, the bytes, theirs; all little-endian."""
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    return b"".join(
        [
            length,
            struct.pack("<I", masked_crc32c(length)),
            data,
            struct.pack("<I", masked_crc32c(data)),
        ]
    )
