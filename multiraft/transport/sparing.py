"""Log lines that somebody outside can provoke as often as they like: one a second, and how many were left out before it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

EVERY_S = 1.0


class Sparing:
    """One kind of line of one logger. For the loop's thread."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._next = 0.0
        self.left_out = 0

    def log(self, level: int, message: str, *args: object, **given: Any) -> None:
        """Log it, unless another was within the second."""
        now = asyncio.get_running_loop().time()
        if now < self._next:
            self.left_out += 1
            return
        self._next = now + EVERY_S
        if self.left_out:
            message += " (and %d more such lines, left out)"
            args += (self.left_out,)
            self.left_out = 0
        self._logger.log(level, message, *args, **given)
