"""Why an adapter is not merged: told in one line that a program reads."""

from __future__ import annotations


class NotMergeable(Exception):
    """The files do not go together, or ask for what is not understood here."""

    def __init__(self, message: str, *, remedy: str) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy
