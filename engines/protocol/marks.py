"""Marks in text that comes piece by piece: what might be the beginning of one has to wait."""


def overlap(text: str, mark: str) -> int:
    """The length of the longest end of the text that begins the mark, without being all of it."""
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if text.endswith(mark[:length]):
            return length
    return 0
