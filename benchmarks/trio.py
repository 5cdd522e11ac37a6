"""Three member processes on loopback, each with its own directory, and the orders that they are given together."""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Members:
    """The processes. ``ask`` gives each an order at the same time and waits for all answers."""

    def __init__(self, folder: Path, shards: int, count: int = 3, **settings: Any) -> None:
        nodes = {str(node): f"127.0.0.1:{port}" for node, port in enumerate(free_ports(count), 1)}
        self.settings = settings | {"shards": shards}
        self._processes = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "benchmarks.member",
                    json.dumps(
                        self.settings
                        | {
                            "node_id": int(node),
                            "data_dir": str(folder / f"n{node}"),
                            "listen": address,
                            "nodes": nodes,
                        }
                    ),
                ],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for node, address in nodes.items()
        ]
        self.pids = [process.pid for process in self._processes]

    def ask(self, *, first_only: bool = False, **order: Any) -> list[dict[str, Any]]:
        """One order to all members (or to the first alone); their answers. ``seed`` is made to differ."""
        asked = self._processes[:1] if first_only else self._processes
        for at, process in enumerate(asked):
            assert process.stdin is not None
            process.stdin.write(json.dumps(order | {"seed": at + 1}) + "\n")
            process.stdin.flush()
        return [self._answer(process) for process in asked]

    def _answer(self, process: subprocess.Popen[str]) -> dict[str, Any]:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f"a member ended with {process.wait(10)}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End them, whatever state they are in."""
        for process in self._processes:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        for process in self._processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()


@contextmanager
def members(folder: Path, shards: int, **settings: Any) -> Iterator[Members]:
    found = Members(folder, shards, **settings)
    try:
        found.ask(do="ready")
        yield found
    finally:
        found.close()


def summary(answers: list[dict[str, Any]]) -> dict[str, float]:
    """Medians over the segments: writes a second, and microseconds of CPU a write, over all members."""
    rows = list(zip(*(answer["segments"] for answer in answers), strict=True))
    rates = [sum(one["written"] / one["seconds"] for one in row) for row in rows]
    costs = [
        sum(one["cpu_s"] for one in row) * 1e6 / max(1, sum(one["written"] for one in row))
        for row in rows
    ]
    return {
        "writes_per_s": round(statistics.median(rates)),
        "cpu_us_per_write": round(statistics.median(costs), 2),
        "unknown": sum(answer["unknown"] for answer in answers),
    }
