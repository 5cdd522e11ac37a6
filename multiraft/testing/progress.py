"""How far a long command is, on stderr: a line that is rewritten on a terminal, a line now and then elsewhere.

What is written here is for people who wait; results go to stdout, and never through this.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

TERMINAL_S = 0.1
ELSEWHERE_S = 15.0
COLUMNS = 100


class Progress:
    """``update`` as often as there is news; ``say`` what should stay; ``end`` before anything else is printed."""

    def __init__(
        self, file: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._file = sys.stderr if file is None else file
        self._terminal = self._file.isatty()
        self._clock = clock
        self._due = clock() if self._terminal else clock() + ELSEWHERE_S
        self._shown = False

    def update(self, text: str) -> None:
        now = self._clock()
        if now < self._due:
            return
        if self._terminal:
            self._due = now + TERMINAL_S
            self._file.write(f"\r\x1b[K{text[:COLUMNS]}")
            self._shown = True
        else:
            self._due = now + ELSEWHERE_S
            self._file.write(f"{text}\n")
        self._file.flush()

    def say(self, text: str) -> None:
        self.end()
        self._file.write(f"{text}\n")
        self._file.flush()

    def end(self) -> None:
        if self._shown:
            self._file.write("\r\x1b[K")
            self._file.flush()
            self._shown = False
