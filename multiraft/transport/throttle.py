"""A token bucket: bytes per second with a bound on what may be saved up."""

from __future__ import annotations

import asyncio


class Throttle:
    """Shared by all who take from it, first come first served. Waiting costs a timer and nothing else."""

    __slots__ = ("_burst_s", "_free_at", "_per_s")

    def __init__(self, bytes_per_s: int, burst_s: float = 0.1):
        self._per_s = bytes_per_s
        self._burst_s = burst_s
        self._free_at = 0.0  # when all that was taken so far is paid for

    async def take(self, count: int) -> None:
        """Wait until ``count`` more bytes may go. A count above the burst goes at once, and is paid for afterwards."""
        now = asyncio.get_running_loop().time()
        due = max(self._free_at, now - self._burst_s)
        self._free_at = due + count / self._per_s
        if due > now:
            await asyncio.sleep(due - now)
