"""Identifiers that sort by the time they were made."""

import os
import time
from uuid import UUID


def new_id() -> UUID:
    """A version 7 UUID (RFC 9562, section 5.7): 48 bits of Unix milliseconds, then random bits.

    Rows made together lie together in their index, which random UUIDs do not.
    """
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds & 0xFFFF_FFFF_FFFF) << 80 | random
    value = value & ~(0xF << 76) | (0x7 << 76)  # version
    value = value & ~(0x3 << 62) | (0x2 << 62)  # variant
    return UUID(int=value)


def new_id_text() -> str:
    """The same as text, for where ids are made by the ten thousand a second: randomness is fetched
    from the system for many of them together."""
    global _random, _used
    if _used >= len(_random):
        _random, _used = os.urandom(10 * 256), 0
    random = int.from_bytes(_random[_used : _used + 10], "big")
    _used += 10
    value = (time.time_ns() // 1_000_000 & 0xFFFF_FFFF_FFFF) << 80 | random
    digits = f"{value & ~_FIXED | _VERSION_AND_VARIANT:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _forget() -> None:
    global _random
    _random = b""


_random, _used = b"", 0
_FIXED = 0xF << 76 | 0x3 << 62
_VERSION_AND_VARIANT = 0x7 << 76 | 0x2 << 62
os.register_at_fork(after_in_child=_forget)  # a child must not use what its parent uses too
