"""The search for a linearization of one part: Wing and Gong's, with Lowe's memory of what was tried, and a moving window.

Operations are taken one by one. Next may come whatever began before the first end of those not yet taken (the *frontier*).
So all that ended before the frontier is taken, and what else is taken is open at it: a configuration is the frontier, one
bit for each slot of open operations, the state, and, apart from all that, the set of operations of unknown outcome that were
used: the window moves on without them. The same configuration is not tried twice, nor one that differs from another only
in that it has used more of the unknown (whatever can follow it can follow the other).

Most steps need no choice, because they are proved to be safe: if there is a linearization from here, there is one that
begins like this.

**Operations that change nothing** (reads, a cas that was refused) are taken as soon as they fit. Moved to here from where
a linearization has them, they change no state, nothing that must come before them is left, and what they pass began before
they ended or is after them anyway.

**Values that never come back.** A value given once must have been seen by all who need it when it is overwritten.

**Blocks.** Where a value is given once, its giver and all that need it stand together, with no other gift among them; by a
cas they join to longer blocks. So a block may come next only if its operations all began before the first end of any other
that is no refused cas. If refused cas are no exception, block C *does* come next, when nobody needs the state that it
replaces: move it to here out of any linearization. What it passes sees the same states as before, since nobody outside
needs its values, and what followed it there begins with a gift. So its first operation is taken; its others have to follow.
Only who avoids a value sees a difference: where C stood, now stands for longer the last value of the block B before it. It
does no harm to whoever may come at once: he can be taken inside of C. Of those who cannot, none came before the first gift
(the frontier waits for one). So C is not taken like this while somebody avoids the value of a block that may come before C.

**Unknown operations only on demand.** One that was used and never seen can be left out (but for those who avoid a value),
so one is tried only when an open operation needs its value, or avoids the state.

With values given once this decides without any choice; else it is a search that can take for ever, and a limit ends it.
It never recurses, and takes the same path whenever it is run again.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from dataclasses import dataclass
from typing import Any

from multiraft.testing.blocks import Block, blocks_of
from multiraft.testing.problem import FAILED, NO_END, Problem

CLOCK_EVERY = 1024
"""Steps between two looks at the clock."""


@dataclass(slots=True)
class Frame:
    """A choice: where the search stood, and what is left to try."""

    taken: int
    frontier: int
    mask: int
    used: int
    state: Any
    options: list[tuple[int, Any]]


class Search:
    """One search; ``run`` says whether there is a linearization, None where a limit was reached."""

    def __init__(self, problem: Problem, steps_max: int, deadline: float | None = None):
        known = problem.known
        self.problem = problem
        self.steps = 0
        self.choices = 0
        self._steps_max = steps_max
        self._deadline = deadline
        self._next = [*range(1, known + 1), 0]
        self._before = [known, *range(known)]
        """The known operations that are not taken, in a ring in the order of their beginnings; ``known`` is its head."""
        self._done = bytearray(known + 1)
        self._frontier = 0
        self._mask = 0
        self._used = 0
        self._state = problem.initial
        self._waiting = list(problem.waiting)
        self._avoiders = list(problem.avoiders)
        self._trail: list[int] = []
        self._frames: list[Frame] = []
        self._seen: dict[tuple[int, int, Any], list[int]] = {}
        """Configuration but for the unknown operations -> the sets of these that were used there."""
        self._blocks, self._block_of = blocks_of(problem)
        self._members: list[list[int]] = []
        """Class -> its unknown operations."""
        self._spent: list[int] = []
        self._unknown_by_value: dict[int, list[int]] = {}
        self._unknown_classes: list[int] = []
        self._unknown_needs: set[int] = set()
        self._avoiding = any(problem.avoiders)
        self._prepare_unknown()
        self.best: list[int] = []
        """The longest order found: that with the latest frontier, then of most operations."""
        self.best_frontier = -1
        self._best_shared = 0

    # -- preparation ----------------------------------------------------------------------------------------------------

    def _prepare_unknown(self) -> None:
        problem = self.problem
        if problem.known == len(problem.call):
            return
        self._members = [[] for _ in range(max(problem.classes) + 1)]
        self._spent = [0] * len(self._members)
        for number in range(problem.known, len(problem.call)):
            which = problem.classes[number]
            self._unknown_needs.add(problem.needs[number])
            if not self._members[which]:
                self._unknown_classes.append(which)
                if problem.step is None:
                    self._unknown_by_value.setdefault(problem.gives[number], []).append(which)
            self._members[which].append(number)

    # -- the search -----------------------------------------------------------------------------------------------------

    def run(self) -> bool | None:
        """True: there is a linearization. False: there is none. None: a limit was reached before either was known."""
        cells = self.problem.step is None
        while True:
            movers, stuck = self._sweep_cells() if cells else self._sweep_steps()
            if self._frontier == self.problem.known:
                self._note_best()
                return True
            self.steps += 1
            if self.steps > self._steps_max or self._late():
                self._note_best()
                return None
            if self.choices and not self._is_new():
                options = []
            elif cells and self._take_block(movers):
                continue
            elif cells:
                options = self._cell_options(movers, stuck)
            else:
                options = self._step_options(movers, stuck)
            if options:
                if len(options) > 1:
                    self._choose(options)
                self._enter(*options.pop())
                continue
            self._note_best()
            if not self._retreat():
                return False

    def _choose(self, options: list[tuple[int, Any]]) -> None:
        """Remember where the search stands, to come back for the other options; the first is the last of the list now."""
        self.choices += 1
        options.reverse()
        self._frames.append(
            Frame(len(self._trail), self._frontier, self._mask, self._used, self._state, options)
        )

    def _late(self) -> bool:
        if self._deadline is None or self.steps % CLOCK_EVERY:
            return False
        return time.process_time() > self._deadline

    def _is_new(self) -> bool:
        """Is this configuration here for the first time? It is worth nothing, too, if it was with fewer unknown ones used."""
        before = self._seen.setdefault((self._frontier, self._mask, self._state), [])
        if any(one & self._used == one for one in before):
            return False
        before.append(self._used)
        return True

    def _sweep_cells(self) -> tuple[list[int], list[int]]:
        """Take all that fits and changes nothing. The open operations that do, and those that do not fit."""
        problem, after, state = self.problem, self._next, self._state
        needs, avoids, pure, begun = problem.needs, problem.avoids, problem.pure, problem.begun
        movers, stuck = [], []
        number = after[problem.known]
        limit = begun[self._frontier] if self._frontier < problem.known else 0
        while number < limit:
            following = after[number]
            if not pure[number]:
                movers.append(number)
            elif (needs[number] < 0 or needs[number] == state) and avoids[number] != state:
                self._take(number)
                if self._frontier == problem.known:
                    break
                limit = begun[self._frontier]
            else:
                stuck.append(number)
            number = following
        return movers, stuck

    def _sweep_steps(self) -> tuple[list[int], list[int]]:
        problem, after, state, step = self.problem, self._next, self._state, self.problem.step
        pure, begun = problem.pure, problem.begun
        movers, stuck = [], []
        number = after[problem.known]
        limit = begun[self._frontier] if self._frontier < problem.known else 0
        while number < limit and step is not None:
            following = after[number]
            if not pure[number]:
                movers.append(number)
            elif step(state, number) is not FAILED:
                self._take(number)
                if self._frontier == problem.known:
                    break
                limit = begun[self._frontier]
            else:
                stuck.append(number)
            number = following
        return movers, stuck

    def _enter(self, number: int, state: Any) -> None:
        self._take(number)
        self._state = state

    def _take(self, number: int) -> None:
        """Make an operation the next of the order; the state is the caller's."""
        problem = self.problem
        self._trail.append(number)
        if number >= problem.known:
            self._used |= 1 << (number - problem.known)
            self._spent[problem.classes[number]] += 1
            return
        before, after = self._before[number], self._next[number]
        self._next[before] = after
        self._before[after] = before
        done = self._done
        done[number] = 1
        need, avoid = problem.needs[number], problem.avoids[number]
        if need >= 0:
            self._waiting[need] -= 1
        if avoid >= 0:
            self._avoiders[avoid] -= 1
        by_end, at = problem.by_end, self._frontier
        if by_end[at] != number:
            self._mask |= problem.slot[number]
            return
        at += 1
        while at < problem.known and done[by_end[at]]:
            self._mask ^= problem.slot[by_end[at]]
            at += 1
        self._frontier = at

    def _retreat(self) -> bool:
        """Go back to the last choice and try what is next there; False where nothing is left."""
        problem = self.problem
        while self._frames and not self._frames[-1].options:
            self._frames.pop()
        if not self._frames:
            return False
        frame = self._frames[-1]
        trail = self._trail
        while len(trail) > frame.taken:
            number = trail.pop()
            if number >= problem.known:
                self._spent[problem.classes[number]] -= 1
                continue
            before, after = self._before[number], self._next[number]
            self._next[before] = self._before[after] = number
            self._done[number] = 0
            if problem.needs[number] >= 0:
                self._waiting[problem.needs[number]] += 1
            if problem.avoids[number] >= 0:
                self._avoiders[problem.avoids[number]] += 1
        self._best_shared = min(self._best_shared, frame.taken)
        self._frontier, self._mask, self._used = frame.frontier, frame.mask, frame.used
        self._state = frame.state
        self._enter(*frame.options.pop())
        return True

    def _note_best(self) -> None:
        """Keep this order if it is the longest; only what differs from the last one kept is copied."""
        if (self._frontier, len(self._trail)) <= (self.best_frontier, len(self.best)):
            return
        self.best_frontier = self._frontier
        del self.best[self._best_shared :]
        self.best += self._trail[self._best_shared :]
        self._best_shared = len(self.best)

    # -- what may come next ---------------------------------------------------------------------------------------------

    def _take_block(self, movers: list[int]) -> bool:
        """Take a block whole, if one is safe."""
        state = self._state
        if self._waiting[state] or state in self._unknown_needs:
            return False
        for number in movers:
            block = self._blocks.get(number)
            if block is None or block.last_call >= self._first_end_beside(number):
                continue
            if self._avoiding and self._avoided_before(block):
                continue
            self._enter(number, self.problem.gives[number])
            return True
        return False

    def _first_end_beside(self, head: int, gifts_only: bool = False) -> int:
        """The first end of an operation, or of a gift, that is neither taken nor in the block."""
        by_end, done, block_of = self.problem.by_end, self._done, self._block_of
        for at in range(self._frontier, self.problem.known):
            number = by_end[at]
            if not done[number] and block_of[number] != head:
                if not gifts_only or self.problem.avoids[number] < 0:
                    return self.problem.ends[number]
        return NO_END

    def _avoided_before(self, block: Block) -> bool:
        """Does somebody who is left avoid a value that may be the state where a block may stand?"""
        problem, avoiders, gives = self.problem, self._avoiders, self.problem.gives
        number = self._next[problem.known]
        while number < problem.known and problem.call[number] < block.first_end:
            head = self._block_of[number]
            other = self._blocks.get(number)
            if other is not None:
                if (
                    other is not block
                    and avoiders[other.value]
                    and other.last_call < block.first_end
                ):
                    return True
            elif head < 0 and gives[number] >= 0 and avoiders[gives[number]]:
                return True
            number = self._next[number]
        return any(
            problem.call[number] < block.first_end and avoiders[gives[number]]
            for number in range(problem.known, len(problem.call))
        )

    def _cell_options(self, movers: list[int], stuck: list[int]) -> list[tuple[int, Any]]:
        """What may be taken next, the most urgent first, of each class one."""
        problem, state = self.problem, self._state
        needs, gives, classes = problem.needs, problem.gives, problem.classes
        waiting = self._waiting[state] if problem.unique[state] else 0
        options, offered = [], set()
        for number in sorted(movers, key=problem.ends.__getitem__):
            need = needs[number]
            if classes[number] in offered or (need >= 0 and need != state):
                continue
            if gives[number] != state and waiting - (need == state) > 0:
                continue
            block = self._blocks.get(number)
            if block is not None and block.last_call >= self._first_end_beside(number, True):
                continue
            offered.add(classes[number])
            options.append((number, gives[number]))
        if self._members:
            for which in self._demanded(movers, stuck):
                unknown = self._unused(which)
                if unknown is None or which in offered or needs[unknown] not in (-1, state):
                    continue
                if gives[unknown] == state or not waiting:
                    options.append((unknown, gives[unknown]))
        return options

    def _unused(self, which: int) -> int | None:
        """The first unknown operation of a class that has begun and is not used."""
        members, spent = self._members[which], self._spent[which]
        if spent == len(members):
            return None
        end = self.problem.ends[self.problem.by_end[self._frontier]]
        return members[spent] if self.problem.call[members[spent]] < end else None

    def _demanded(self, movers: list[int], stuck: list[int]) -> list[int]:
        """Classes of unknown operations whose value is needed, at once or by another such; all, if the state is avoided."""
        problem = self.problem
        if any(problem.avoids[number] == self._state for number in stuck):
            return self._unknown_classes
        values = dict.fromkeys(
            problem.needs[number] for number in (*stuck, *movers) if problem.needs[number] >= 0
        )
        found: list[int] = []
        work = list(values)
        while work:
            for which in self._unknown_by_value.get(work.pop(), ()):
                found.append(which)
                need = problem.needs[self._members[which][0]]
                if need >= 0 and need not in values:
                    values[need] = None
                    work.append(need)
        return sorted(found)

    def _step_options(self, movers: list[int], stuck: list[int]) -> list[tuple[int, Any]]:
        problem, state, step = self.problem, self._state, self.problem.step
        options: list[tuple[int, Any]] = []
        offered = set()
        numbers = sorted(movers, key=problem.ends.__getitem__)
        numbers += [n for which in self._unknown_classes if (n := self._unused(which)) is not None]
        for number in numbers:
            if step is None or problem.classes[number] in offered:
                continue
            after = step(state, number)
            if after is FAILED or self._leaves_behind(number, after):
                continue
            offered.add(problem.classes[number])
            options.append((number, after))
        return options

    def _leaves_behind(self, number: int, after: Any) -> bool:
        """Of rising states: does somebody else need one that would be passed?"""
        risen = self.problem.risen or ()
        own = self.problem.needs[number] if number < self.problem.known else -1
        passed = range(bisect_left(risen, self._state), bisect_left(risen, after))
        return any(self._waiting[at] - (own == at) > 0 for at in passed)
