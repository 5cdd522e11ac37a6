"""The example of docs/machines.md as it stands there: three processes, kill -9 of the one that leads, and on it counts."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "counter.py"
COUNTED = re.compile(r"(\d+) \(node (\w+) leads\)")
LINE_S = 60

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(180)]


def free_addresses(count: int) -> list[str]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Terminal:
    """One node of the example, as somebody would start it in a terminal, and what it said."""

    def __init__(self, folder: Path, number: int, addresses: list[str]) -> None:
        self.number = number
        self.totals: list[int] = []
        self.unknown = 0
        self.leader = 0
        self.lines: SimpleQueue[str | None] = SimpleQueue()
        self.process = subprocess.Popen(
            [sys.executable, str(EXAMPLE), str(number), *addresses],
            cwd=folder,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        self.thread = Thread(target=self._follow, daemon=True)
        self.thread.start()

    def _follow(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def listen(self, counted: int) -> int:
        """Wait until it was answered so many times more; the last answer."""
        while counted:
            line = self.lines.get(timeout=LINE_S)
            assert line is not None, f"node {self.number} ended"
            counted -= self._heard(line)
        return self.totals[-1]

    def listen_beyond(self, total: int) -> None:
        """Wait for an answer that can only have been given after ``total`` was."""
        while self.listen(1) <= total:
            pass

    def _heard(self, line: str) -> bool:
        match = COUNTED.match(line)
        if match is None:
            assert line.startswith("perhaps: "), line
            self.unknown += 1
            return False
        self.totals.append(int(match.group(1)))
        self.leader = int(match.group(2)) if match.group(2).isdigit() else 0
        return True

    def kill(self) -> None:
        """kill -9; then everything that it had still said."""
        self.process.kill()
        self.process.wait(LINE_S)
        while (line := self.lines.get(timeout=LINE_S)) is not None:
            if COUNTED.match(line):
                self._heard(line)
        self.thread.join(LINE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    """Every process that the test started, to be ended whatever becomes of it."""
    started: list[Terminal] = []
    yield started
    for terminal in started:
        if terminal.process.poll() is None:
            terminal.kill()


def test_it_counts_on_through_kill_9_of_its_leader(
    tmp_path: Path, terminals: list[Terminal]
) -> None:
    addresses = free_addresses(3)
    now: dict[int, Terminal] = {}

    def start(number: int) -> None:
        now[number] = Terminal(tmp_path, number, addresses)
        terminals.append(now[number])

    for number in (1, 2, 3):
        start(number)
    for _ in range(2):
        for terminal in now.values():
            terminal.listen(5)
        leader = next(iter(now.values())).leader
        assert leader in now
        now.pop(leader).kill()
        before = max(total for terminal in terminals for total in terminal.totals)
        for terminal in now.values():
            terminal.listen_beyond(before + 5)
            assert terminal.leader in now
        start(leader)
        assert now[leader].listen(3) > before, "it is back, and has not forgotten"
    for terminal in now.values():
        terminal.listen(3)
    for terminal in terminals:
        if terminal.process.poll() is None:
            terminal.kill()

    # Each answer is the counter as it stood: two equal ones, or fewer than were answered, and one was lost.
    answered = [total for terminal in terminals for total in terminal.totals]
    assert len(set(answered)) == len(answered)
    assert all(terminal.totals == sorted(terminal.totals) for terminal in terminals)
    # One at a time from each process, so what was counted and not answered was "perhaps", or under way in one that was killed.
    unknown = sum(terminal.unknown for terminal in terminals) + len(terminals)
    assert len(answered) <= max(answered) <= len(answered) + unknown


def test_the_example_has_thirty_lines() -> None:
    code = EXAMPLE.read_text("utf-8").split('"""', 2)[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 30
