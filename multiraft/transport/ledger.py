"""What all clients of a node hold of its memory together: one bound, and who goes where waiting does not help.

Two accounts, each with the same bound. *Calls*: those that wait for their answers, and what has arrived of the next. Past the
bound nobody is read until a quarter of it is free again, so that many clients make each other wait and end nobody. Where no
call is left to be answered, waiting frees nothing of what has arrived: whoever holds most of it is read then, alone, until its
next call is whole, and after that the next one. If all that lasts too long, whoever holds most goes. *Answers* that were
written and not read: holding back does not help there, and whoever left most unread goes at once.

Never done here: counting what one client may hold by itself, or touching a socket. Invariant: the accounts are the sums of what
was last said of each; whoever ended holds nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Holder(Protocol):
    """A connection, as far as this is concerned."""

    def unread_bytes(self) -> int:
        """What it was sent and has not read."""

    def shed(self, reason: str) -> None:
        """End it: it is the one that has to go."""


class Ledger:
    """The accounts of one gateway. ``filled`` and ``freed`` are called when the bound on calls is reached, and well left."""

    def __init__(
        self, bytes_max: int, filled: Callable[[], object], freed: Callable[[], object]
    ) -> None:
        self._bytes_max = bytes_max
        self._filled = filled
        self._freed = freed
        self._calls: dict[Holder, int] = {}
        self._answers: dict[Holder, int] = {}
        self._full_since: float | None = None
        self.full = False
        """Whether nobody may be read, but for the one that ``may_read`` names."""
        self.unanswered = 0
        """Calls that wait for their answers."""
        self._chosen: Holder | None = None
        self.calls_bytes = 0
        self.answers_bytes = 0

    def calls(self, holder: Holder, count: int) -> None:
        """A connection's calls take so many bytes now."""
        self.calls_bytes += count - self._calls.get(holder, 0)
        self._calls[holder] = count
        if not self.full and self.calls_bytes >= self._bytes_max:
            self.full = True
            self._filled()
        elif self.full and self.calls_bytes <= self._bytes_max * 3 // 4:
            self.full = False
            self._full_since = self._chosen = None
            self._freed()
        self._choose()

    def may_read(self, holder: Holder) -> bool:
        """May a connection be read?"""
        return not self.full or (holder is self._chosen and not self.unanswered)

    def took(self) -> None:
        """A call came whole."""
        self.unanswered += 1
        self._chosen = None

    def answers(self, holder: Holder, count: int) -> None:
        """A connection was sent something: so much of all that it was sent is unread."""
        self.answers_bytes += count - self._answers.get(holder, 0)
        self._answers[holder] = count
        if self.answers_bytes > self._bytes_max:
            self._look_again()
        while self.answers_bytes > self._bytes_max:
            most = max(self._answers, key=self._answers.__getitem__)
            most.shed(
                f"clients left {self.answers_bytes} bytes of answers unread, this one "
                f"{self._answers[most]}; {self._bytes_max} are the most for all of them"
            )
            self.forget(most)

    def forget(self, holder: Holder) -> None:
        """A connection has ended. Idempotent."""
        if self._chosen is holder:
            self._chosen = None
        if holder in self._calls:
            self.calls(holder, 0)
            self._calls.pop(holder, None)
        self.answers_bytes -= self._answers.pop(holder, 0)
        self._choose()

    def sweep(self, now: float, patience_s: float) -> None:
        """Now and then: if nobody could be read for so long, end the connection whose calls take most."""
        if not self.full:
            return
        if self._full_since is None:
            self._full_since = now
        elif now - self._full_since >= patience_s:
            self._full_since = now
            most = max(self._calls, key=self._calls.__getitem__)
            most.shed(
                f"for {patience_s} s calls of all clients have taken the {self._bytes_max} bytes that they may, those of "
                f"this one {self._calls[most]}"
            )

    def _choose(self) -> None:
        """Let one connection be read where all wait for each other."""
        if self.full and not self.unanswered and self._chosen is None:
            self._full_since = None
            self._chosen = max(self._calls, key=self._calls.__getitem__)
            self._freed()

    def _look_again(self) -> None:
        """What was unread when it was written may have been read since."""
        for holder in self._answers:
            self._answers[holder] = holder.unread_bytes()
        self.answers_bytes = sum(self._answers.values())
