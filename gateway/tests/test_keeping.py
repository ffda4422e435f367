import asyncio
import logging

import pytest

from gateway.keeping import keep_up


def test_a_loop_that_fails_is_told_of_and_begun_again(caplog):
    begun: list[int] = []

    async def loop() -> None:
        begun.append(len(begun))
        if len(begun) < 3:
            raise RuntimeError("nobody foresaw this")

    with caplog.at_level(logging.ERROR):
        asyncio.run(keep_up(loop, pause=0))
    assert begun == [0, 1, 2]
    assert caplog.text.count("RuntimeError: nobody foresaw this") == 2
    assert "loop failed; it begins again" in caplog.text


def test_a_loop_that_is_cancelled_stays_ended():
    begun: list[int] = []

    async def loop() -> None:
        begun.append(1)
        await asyncio.sleep(3600)

    async def cancel() -> None:
        task = asyncio.ensure_future(keep_up(loop, pause=0))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    assert begun == [1]
