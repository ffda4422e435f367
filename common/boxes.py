"""Secrets that the platform has to say again to others, sealed while they lie in the database.

Fernet (AES-128-CBC with HMAC-SHA256, from the library `cryptography`) under a key derived from
SECRET_KEY; what was sealed under one of SECRET_KEY_FALLBACKS is still opened.
"""

import base64
import hashlib
from functools import lru_cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet
from django.conf import settings


class CannotOpen(Exception):
    """Sealed under a SECRET_KEY that this process does not know."""


def seal(secret: str) -> bytes:
    return _boxes(settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS).encrypt(secret.encode())


def open_sealed(sealed: bytes | memoryview) -> str:
    """Raises CannotOpen."""
    try:
        boxes = _boxes(settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
        return boxes.decrypt(bytes(sealed)).decode()
    except InvalidToken as error:
        raise CannotOpen("sealed under another SECRET_KEY") from error


@lru_cache(maxsize=8)
def _boxes(*keys: str) -> MultiFernet:
    derived = (hashlib.sha256(f"boxes:{key}".encode()).digest() for key in keys)
    return MultiFernet([Fernet(base64.urlsafe_b64encode(each)) for each in derived])
