"""How long a frame may be half here, on a loop whose clock is the test's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from multiraft.transport.patience import Patience


class Timers:
    """A loop of which only timers are asked."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def call_later(self, seconds: float, job: Callable[[], None]) -> Any:
        assert seconds == 5.0
        self.due.append(job)
        return self

    def cancel(self) -> None:
        self.due.clear()

    def go_on(self) -> None:
        """Five seconds pass."""
        due, self.due = self.due, []
        for job in due:
            job()


class Watched:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.timers = Timers()
        monkeypatch.setattr(asyncio, "get_running_loop", lambda: self.timers)
        self.unfinished = 0
        self.lost = 0
        self.patience = Patience(5.0, lambda: self.unfinished, self.lose)
        self.patience.begin()

    def lose(self) -> None:
        self.lost += 1


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def test_one_frame_that_is_half_here_at_two_looks_is_one_too_slow(watched: Watched) -> None:
    watched.unfinished = 7
    watched.timers.go_on()
    assert not watched.lost
    watched.timers.go_on()
    assert watched.lost == 1
    assert not watched.timers.due, "it is over"


def test_another_frame_at_each_look_is_a_link_that_is_busy(watched: Watched) -> None:
    for number in range(1, 50):
        watched.unfinished = number
        watched.timers.go_on()
    assert not watched.lost


def test_no_frame_at_all_is_a_link_that_is_quiet(watched: Watched) -> None:
    for _ in range(50):
        watched.timers.go_on()
    assert not watched.lost


def test_while_we_do_not_read_nobody_else_is_slow(watched: Watched) -> None:
    watched.unfinished = 7
    watched.timers.go_on()
    watched.patience.hold(True)
    for _ in range(10):
        watched.timers.go_on()
    watched.patience.hold(False)
    watched.timers.go_on()
    assert not watched.lost, "its time begins anew"
    watched.timers.go_on()
    assert watched.lost == 1


def test_a_connection_that_has_ended_is_not_looked_at(watched: Watched) -> None:
    watched.unfinished = 7
    watched.patience.end()
    watched.patience.end()
    assert not watched.timers.due
