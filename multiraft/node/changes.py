"""Waiting for the next change of something, whatever it is: who waits looks again."""

from __future__ import annotations

import asyncio


class Changes:
    """Futures of all that wait for the next ``wake``."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: list[asyncio.Future[None]] = []

    def next(self) -> asyncio.Future[None]:
        """Done with the next ``wake``; may be cancelled."""
        waiting = self._loop.create_future()
        self._waiting.append(waiting)
        return waiting

    def wake(self) -> None:
        """Something changed."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(None)
