"""Log lines that nobody reads: they are dropped and counted, and hold up nothing."""

from __future__ import annotations

import io
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from multiraft.cli.logs import QUEUE_LINES_MAX, DroppingHandler

ROOT = Path(__file__).resolve().parents[3]

# Stderr is a pipe that is full before it begins, and stays so. A line of each kind for each put, a tenth of them long.
SERVES = """
import asyncio, logging, os, sys
import multiraft
from multiraft.cli.serve import set_up_logging

os.set_blocking(2, False)
try:
    while True:
        os.write(2, b"x")
except BlockingIOError:
    os.set_blocking(2, True)

async def main():
    handler = set_up_logging("debug", sys.argv[2])
    logger = logging.getLogger("multiraft.node")
    async with multiraft.open(sys.argv[1]) as db:
        for n in range(120):
            for line in range(100):
                logger.warning("line %d of put %d", line, n, extra={"node": 1})
            await db.put(b"%d" % n, b"v")
            assert await db.get(b"%d" % n) == b"v"
    os.write(1, b"served\\n")
    handler.close()
    os.write(1, b"closed\\n")
    os._exit(0)

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["text", "json"])
def test_p85_a_stderr_that_nobody_reads_holds_up_nothing(tmp_path: Path, form: str) -> None:
    reads, writes = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-c", SERVES, str(tmp_path), form],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=writes,
            timeout=40,
        )
    finally:
        os.close(reads)
        os.close(writes)
    assert (done.returncode, done.stdout) == (0, b"served\nclosed\n")


class Stalled(io.StringIO):
    """A sink that takes nothing until it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go_on = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        self.begun.set()
        assert self.go_on.wait(30)
        return super().write(text)


def test_p85_lines_beyond_the_queue_are_dropped_and_counted() -> None:
    sink = Stalled()
    handler = DroppingHandler(logging.StreamHandler(sink))
    try:
        handler.emit(logging.makeLogRecord({"msg": "first"}))
        assert sink.begun.wait(30)
        for number in range(QUEUE_LINES_MAX + 500):
            handler.emit(logging.makeLogRecord({"msg": f"line {number}"}))
    finally:
        sink.go_on.set()
    while f"line {QUEUE_LINES_MAX - 1}\n" not in sink.getvalue():
        pass
    handler.emit(logging.makeLogRecord({"msg": "last"}))
    handler.close()
    lines = sink.getvalue().splitlines()
    assert lines[0] == "first" and lines[1] == "line 0"
    assert lines[-2:] == ["500 log lines were dropped: whoever reads them is too slow", "last"]
    assert len(lines) == 1 + QUEUE_LINES_MAX + 2
