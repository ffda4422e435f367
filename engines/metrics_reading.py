"""Reading what engines write at /metrics, in Prometheus' text format."""

from collections.abc import Collection


def sum_gauges(text: str, names: Collection[str]) -> float:
    """The sum over all labels of all named metrics; 0 where there are none of them."""
    total = 0.0
    for line in text.splitlines():
        name = line.partition("{")[0].partition(" ")[0]
        if name in names:
            try:
                total += float(line.rsplit(" ", 1)[1])
            except (IndexError, ValueError):  # a timestamp or half a line: not a sample of ours
                continue
    return total
