"""Background loops that outlive what nobody foresaw."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 1.0


async def keep_up(loop: Callable[[], Awaitable[None]], *, pause: float = PAUSE_SECONDS) -> None:
    """Run this loop until it returns or is cancelled. One that fails is logged with its traceback
    and begun again after `pause` seconds: without keys, signals or the meter a gateway would go on
    answering, and nobody would see that it had become blind."""
    while True:
        try:
            await loop()
        except Exception:
            logger.exception("%s failed; it begins again", getattr(loop, "__qualname__", loop))
            await asyncio.sleep(pause)
        else:
            return
