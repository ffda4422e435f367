"""Lines of a split by their numbers, found without reading what lies before them."""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson

from common.texts import storable
from models_registry import storage
from training.formats.problems import is_unicode
from training.models import DatasetSplit

MOST = 100
TEXT_CHARACTERS = 20_000  # of one text that are shown


@dataclass(frozen=True)
class Line:
    """A canonical line; texts that are too long to show are cut, and `is_cut` says so."""

    number: int
    row: dict[str, Any]
    is_cut: bool = False


@dataclass
class _Cutting:
    is_cut: bool = False


def read_lines(split: DatasetSplit, first: int, count: int) -> list[Line]:
    """`count` lines from number `first` on (from 1), 100 at most, fewer at the end."""
    first, count = max(1, first), min(count, MOST)
    number, offset = 1, 0
    starts = [entry[0] for entry in split.line_index]
    place = bisect_right(starts, first) - 1
    if place >= 0:
        number, offset = split.line_index[place]
    found: list[Line] = []
    with storage.open_blob(split.blob_id) as file:
        file.seek(offset)
        for raw in islice(file, first - number, first - number + count):
            if raw.strip():
                cutting = _Cutting()
                row = _shown(orjson.loads(raw), cutting)
                found.append(Line(first, row, cutting.is_cut))
            first += 1
    return found


def _shown(value: Any, cutting: _Cutting) -> Any:
    if isinstance(value, str):
        if len(value) <= TEXT_CHARACTERS and is_unicode(value):
            return value
        cutting.is_cut = cutting.is_cut or len(value) > TEXT_CHARACTERS
        return storable(value, limit=TEXT_CHARACTERS)
    if isinstance(value, list):
        return [_shown(one, cutting) for one in value]
    if isinstance(value, dict):
        return {key: _shown(one, cutting) for key, one in value.items()}
    return value
