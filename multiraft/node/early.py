"""Calls that came before this node knew the shards: they wait, and are made once it does, in the order in which they came.

No election surfaces to a caller within its time, and neither does a node that is not told yet where the keys are. Nothing here
routes, encodes or reads: a call is a function that makes it, and is given the seconds that it has left.

Invariants: a call that waits has not happened; each is made once or ended once, but one that cannot be made yet (the state of a
shard begins a moment after it is known) is tried again; one whose caller gave up is never made, and is let go with the next
tick. Its deadline ends it as it ends a call that waits for a leader, so that callers handle one error.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from multiraft._ticket import Ticket, Waker
from multiraft.errors import DeadlineExceeded, MultiRaftError, Overloaded, Retryable

EARLY_MAX = 100_000
"""Calls that wait; a further one is refused."""
MADE_AT_ONCE = 256
"""Calls that are made in one go: however many have waited, the loop comes round."""

Make = Callable[[float], Ticket[Any]]


@dataclass(slots=True)
class EarlyCall:
    """What the caller holds, what makes the call, and when its time is up."""

    ticket: Ticket[Any]
    make: Make
    deadline_ns: int


class Early:
    """All calls of a node that wait for the shards. ``now_ns`` is the time as the deadlines have it."""

    def __init__(self, waker: Waker, now_ns: Callable[[], int], kick: Callable[[], object]) -> None:
        self._waker = waker
        self._now_ns = now_ns
        self._kick = kick
        self._waiting: deque[EarlyCall] = deque()
        self._again: list[EarlyCall] = []
        """Calls that could not be made yet: tried again with the next tick."""
        self._making = False

    def __len__(self) -> int:
        return len(self._waiting) + len(self._again)

    def hold(self, make: Make, deadline_ns: int) -> Ticket[Any]:
        """The ticket of a call that ``make`` makes later. Raises Overloaded."""
        if len(self._waiting) >= EARLY_MAX:
            raise Overloaded(f"{EARLY_MAX} calls wait until this node knows the shards")
        ticket: Ticket[Any] = self._waker.ticket()
        self._waiting.append(EarlyCall(ticket, make, deadline_ns))
        return ticket

    def learned(self) -> None:
        """The shards are known: make what waits, soon."""
        if self._waiting and not self._making:
            self._making = True
            self._waiting[0].ticket.get_loop().call_soon(self._make_some)

    def tick(self, now_ns: int) -> None:
        """End what is past its deadline, let go of what was given up, try again what could not be made."""
        if self._again:
            self._waiting.extendleft(reversed(self._again))
            self._again.clear()
            self.learned()
        if not self._waiting:
            return
        kept = deque(one for one in self._waiting if not self._ended(one, now_ns))
        if len(kept) < len(self._waiting):
            self._waiting = kept
            self._kick()

    def close(self, error: MultiRaftError) -> None:
        """End all of them: nothing of them happened."""
        for call in (*self._again, *self._waiting):
            self._waker.fail(call.ticket, error)
        self._again.clear()
        self._waiting.clear()
        self._kick()

    def _make_some(self) -> None:
        self._making = False
        for _ in range(MADE_AT_ONCE):
            if not self._waiting:  # or not any more: whoever has an answer may have closed us
                break
            call = self._waiting.popleft()
            if not self._ended(call, self._now_ns()):
                self._make(call)
        self._kick()
        self.learned()

    def _make(self, call: EarlyCall) -> None:
        outer = call.ticket
        try:
            inner = call.make((call.deadline_ns - self._now_ns()) / 1e9)
        except Retryable:
            self._again.append(call)
            return
        except Exception as error:  # the caller's to hear, whatever it is
            self._waker.fail(outer, error)
            return

        def answered(_: Ticket[Any]) -> None:
            if inner.cancelled():
                outer.cancel()
            elif (error := inner.exception()) is not None:
                self._waker.fail(outer, error)
            else:
                self._waker.settle(outer, inner.result())
            self._waker.drain(MADE_AT_ONCE)  # the node may have ended: then no turn does it
            self._kick()

        def given_up(_: Ticket[Any]) -> None:
            if outer.cancelled():
                inner.cancel()

        if inner.done():
            answered(inner)
        else:
            inner.add_done_callback(answered)
            outer.add_done_callback(given_up)

    def _ended(self, call: EarlyCall, now_ns: int) -> bool:
        if call.ticket.done():
            return True
        if call.deadline_ns > now_ns:
            return False
        # It did not happen, but its deadline is reported as every other: the caller handles one kind of timeout.
        self._waker.fail(
            call.ticket, DeadlineExceeded("the time was up before this node knew the shards")
        )
        return True
