"""Files of users' machines: saved so that the log can be forgotten, written for others, taken over from others.

A save runs in its machine's own turn, so it holds exactly what was applied when it began. A received snapshot needs no code of the
user to be taken over: it becomes the durable state first, and the machine is brought up from there, now or at the next start. So a
crash leaves the one state or the other, and a machine that cannot take it stops alone.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from multiraft.errors import Overloaded
from multiraft.interfaces import Jobs, SnapshotRecord
from multiraft.machine.hosted import Done, Hosted, Life
from multiraft.machine.running import on_disk, on_loop, save_machine
from multiraft.machine.snapshot import Kind, SnapshotInfo, check_snapshot, require_match
from multiraft.machine.states import At, State, decode_note, write_state
from multiraft.machine.user import UserMachines

logger = logging.getLogger("multiraft.machine")


class UserFiles:
    """What of machines goes to files and comes from them. ``files`` is the worker for what needs no machine."""

    def __init__(self, machines: UserMachines, files: Jobs) -> None:
        self._machines = machines
        self._files = files

    # -- the own state ------------------------------------------------------------------------------------------------------

    def due(self, hosted: Hosted, log_bytes_max: int) -> bool:
        """Has a machine applied so much since its last save that its log is worth forgetting?"""
        saved = hosted.state.info.index if hosted.state is not None else 0
        size = hosted.state.size if hosted.state is not None else 0
        return (
            hosted.life is Life.RUNNING
            and not hosted.saving
            and hosted.at.index > saved
            and hosted.at.index >= hosted.at.told_index
            and hosted.logged_bytes >= max(log_bytes_max, size)
        )

    def save(
        self,
        group: int,
        covered: Callable[[Callable[[], None]], None],
        done: Callable[[At | None], None],
    ) -> None:
        """Make what a machine has applied durable; then ``done(where)``, None where that came to nothing (``alarm`` says why).

        The machine stands still from when ``covered(go on)`` is called until what it is given is: all that it has applied
        by then, and nothing else, is in the file. Where it fails or is replaced meanwhile, there is nothing to be said of the save.
        """
        hosted = self._machines[group]
        hosted.saving = True
        generation, before = hosted.generation, hosted.state

        def saved(written: tuple[At, State] | None, error: BaseException | None) -> None:
            if generation != hosted.generation:
                if written is not None and written[1].path != _path(hosted.state):
                    self._remove(written[1].path)
                done(None)
                return
            hosted.saving = False
            if written is None:
                self._not_saved(hosted, error)
                done(None)
                return
            at, hosted.state = written
            hosted.alarm = ""
            if before is not None and before.path != hosted.state.path:
                self._remove(before.path)
            done(at)

        def write() -> None:
            hosted.logged_bytes = 0
            path = self._machines.states.path(group, hosted.at.index)
            self._write(hosted, path, False, saved)

        def start() -> None:
            nonlocal generation, before
            generation, before = hosted.generation, hosted.state
            hosted.saving = True
            covered(self._machines.hold(hosted, write, lambda: saved(None, None)))

        self._machines.enqueue(hosted, start, saved)

    @staticmethod
    def _not_saved(hosted: Hosted, error: BaseException | None) -> None:
        """What it holds is as good as before; it is tried again when as much was logged once more."""
        hosted.logged_bytes = 0
        if hosted.life is not Life.STOPPED:
            group, name = hosted.group, hosted.name
            hosted.alarm = f"its state could not be saved: {error}"
            logger.error("group %d (%s): %s", group, name, hosted.alarm, extra={"group": group})

    def _write(self, hosted: Hosted, path: Path, whole: bool, done: Done) -> None:
        """Begin the job that writes a file; then ``done((At, State), error)``. ``whole``: with all of the state in it."""
        machine, group, kind, at = hosted.machine, hosted.group, hosted.kind, hosted.at
        disk = self._machines.states.disk
        kept = on_disk(self._machines.factory(kind)) and not whole
        if (
            at.told_index > at.index
        ):  # its own disk is ahead of what was handed out to it since the start
            done(None, Overloaded(f"the machine of {hosted.name!r} is not replayed yet"))
            return

        def lost() -> None:
            done(None, hosted.refusal)

        # A machine on the loop is tiny: its chunks are taken there, and written where that may block.
        def taken(chunks: list[bytes] | None, error: BaseException | None) -> None:
            if chunks is None:
                done(None, error)
                return
            self._files.submit(
                lambda: (at, write_state(disk, path, Kind.BYTES, group, kind, at, chunks)), done
            )

        if on_loop(self._machines.factory(kind)):
            self._machines.run(hosted, lambda: list(machine.snapshot()), taken, lost)
        else:
            job = partial(save_machine, disk, machine, kept, path, group, kind, at)
            self._machines.run(hosted, lambda: (at, job()), done, lost)

    # -- for others, and from them ----------------------------------------------------------------------------------------------

    def snapshot(self, group: int, path: str | Path, done: Done) -> None:
        """Write all of a machine to a file, as of when its turn comes; then ``done(SnapshotInfo, error)``."""
        hosted = self._machines[group]

        def written(state: tuple[At, State] | None, error: BaseException | None) -> None:
            done(None if state is None else state[1].info, error)

        def start() -> None:
            self._write(hosted, Path(path), True, written)

        self._machines.enqueue(hosted, start, written)

    def install(self, group: int, path: str | Path, record: SnapshotRecord, done: Done) -> None:
        """Make a received snapshot the state of a machine; then ``done(installed, error)``.

        False: it is not newer than what is applied here, and was ignored (pitfalls 53, 60). An error: nothing has changed.
        """
        hosted = self._machines[group]
        if record.base.index <= hosted.at.index:
            done(False, None)
            return
        states, kind = self._machines.states, hosted.kind

        def take() -> tuple[At, State]:
            info = check_snapshot(states.disk, Path(path))
            require_match(info, group, record)
            state = states.take(Path(path), group, kind, info)
            return at_of(info), state

        def taken(found: tuple[At, State] | None, error: BaseException | None) -> None:
            if found is None:
                done(None, error)
                return
            at, state = found
            if at.index <= hosted.at.index:  # it came by itself meanwhile
                self._remove(state.path)
                done(False, None)
                return
            before = hosted.state
            self._machines.replaced(hosted, at, state)
            if before is not None and before.path != state.path:
                self._remove(before.path)
            done(True, None)

        self._files.submit(take, taken)

    def _remove(self, path: Path) -> None:
        def done(_: Any, error: BaseException | None) -> None:
            if error is not None:
                logger.warning("%s could not be removed: %s", path.name, error)

        self._files.submit(lambda: self._machines.states.disk.remove(path), done)


def _path(state: State | None) -> Path | None:
    return None if state is None else state.path


def at_of(info: SnapshotInfo) -> At:
    """Where in its group's log a file stands. Raises PeerProtocolError for a file of no user's machine."""
    return At(info.index, info.term, info.membership, decode_note(info)[1])
