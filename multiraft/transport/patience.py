"""The patience with a connection on which a frame was begun and does not come to its end.

Such a connection looks well: bytes may even flow on it. But nothing that is sent on it arrives, so it must end and be made anew.

Invariants: a frame has at least ``seconds``, and less than twice as long; time during which nothing was read because its
reader asked for that counts for nothing. Nothing is looked at while it costs anything: once in ``seconds``, by a timer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Patience:
    """``unfinished`` says which frame is half here, by a number that is never used again, or 0; ``lost`` is called once."""

    __slots__ = ("_held", "_lost", "_seconds", "_seen", "_timer", "_unfinished")

    def __init__(self, seconds: float, unfinished: Callable[[], int], lost: Callable[[], None]):
        self._seconds = seconds
        self._unfinished = unfinished
        self._lost = lost
        self._held = False
        self._seen = 0
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """Watch from now on, until ``end``."""
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._look)

    def hold(self, held: bool) -> None:
        """While held, it is not the other side that keeps us waiting."""
        self._held = held
        self._seen = 0

    def end(self) -> None:
        """Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        found = 0 if self._held else self._unfinished()
        if found and found == self._seen:
            self._timer = None
            self._lost()
            return
        self._seen = found
        self.begin()
