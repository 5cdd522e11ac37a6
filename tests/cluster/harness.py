"""Three members and what a test does to them: kill, stop, continue, restart, and cut the links between them.

All nodes must be configured alike, so what stands in ``nodes`` are the addresses of relays, one in front of each node. A relay
reads who dials from the hello and so knows which link a connection is; ``Cluster.cut`` stops the bytes of a link in both
directions, without closing anything: what was on its way arrives late, when the link is mended, as in a network.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from multiraft.transport.hello import FRAME_HEADER
from tests.cluster.member import FAILED
from tests.unit.node.test_cluster import free_ports

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 30.0
"""For anything; a test that waits so long has failed."""

FROM_NODE = 7  # of the fields of a frame's header


class CallFailed(Exception):
    """A call came to an error; ``kind`` is ``not``, ``unknown`` or ``parts``."""

    def __init__(self, said: dict[str, Any]) -> None:
        super().__init__(f"{said['error']}: {said['message']}")
        self.error: str = said["error"]
        self.kind: str = said["kind"]
        self.outcomes: list[int | str] = said.get("outcomes", [])


class Relay:
    """In front of one node: hands on what comes, link by link, while the link's gate is open."""

    def __init__(self, node: int, port: int, gates: dict[frozenset[int], asyncio.Event]) -> None:
        self._node = node
        self._port = port
        self._gates = gates
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> str:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_writer: asyncio.StreamWriter | None = None
        try:
            header = await reader.readexactly(FRAME_HEADER.size)
            gate = self._gates[frozenset((FRAME_HEADER.unpack(header)[FROM_NODE], self._node))]
            await gate.wait()
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
            far_writer.write(header)
            there = asyncio.ensure_future(pump(reader, far_writer, gate))
            back = asyncio.ensure_future(pump(far_reader, writer, gate))
            try:
                await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                there.cancel()
                back.cancel()
                await asyncio.wait({there, back})
        except (OSError, asyncio.IncompleteReadError):
            pass  # a node that is away, or a dial that was given up: the dialler tries again
        finally:
            for one in (writer, far_writer):
                if one is not None:
                    one.transport.abort()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event
) -> None:
    """Hand on until either side is gone."""
    try:
        while data := await reader.read(1 << 18):
            await gate.wait()
            writer.write(data)
            await writer.drain()
    except OSError:
        return  # the same as an end


class Member:
    """A node's process, from the outside."""

    def __init__(self, number: int, config: dict[str, Any], folder: Path) -> None:
        self.number = number
        self.up = asyncio.Event()
        """Is there a process that answers? Set while it is stopped by a signal, too."""
        self.reason = ""
        """What ended the node, as it said itself."""
        self._config = config
        self._said = folder / f"member-{number}.txt"
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._ids = itertools.count(1)

    async def start(self, **other: Any) -> None:
        """Start the process and wait until its node has."""
        with self._said.open("ab") as file:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tests.cluster.member",
                json.dumps(self._config | other),
                cwd=ROOT,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=file,
                limit=1 << 26,
            )
        started = self._waiting[0] = asyncio.get_running_loop().create_future()
        self._reading = asyncio.ensure_future(self._read(self._process))
        async with asyncio.timeout(WAIT_S):
            said = await started
        if "error" in said:
            raise CallFailed(said)
        self.up.set()

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            said = json.loads(line)
            self.reason = said.get("ended", self.reason)
            waiting = self._waiting.pop(said["id"], None)
            if waiting is not None and not waiting.done():
                waiting.set_result(said)
        self.up.clear()
        await process.wait()
        left, self._waiting = self._waiting, {}
        for waiting in left.values():
            if not waiting.done():
                waiting.set_result({"error": "Died", "kind": "unknown", "message": self.reason})

    def log_tail(self) -> str:
        return self._said.read_text()[-2000:]

    async def call(self, call: str, within: float | None = None, **arguments: Any) -> Any:
        """Ask for something and wait for what comes of it, ``within`` so many seconds if need be.

        Raises CallFailed; of an unknown outcome when the process dies, or says nothing in time.
        """
        process = self._process
        if process is None or not self.up.is_set():
            raise CallFailed({"error": "Away", "kind": "not", "message": "it does not run"})
        number = next(self._ids)
        assert process.stdin is not None
        try:
            process.stdin.write(
                json.dumps({"id": number, "call": call} | arguments).encode() + b"\n"
            )
        except RuntimeError as error:  # uvloop's way to say that the pipe is closed: it has died, and nobody read of it yet
            self.up.clear()
            raise CallFailed({"error": "Away", "kind": "not", "message": str(error)}) from error
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(within):
                said = await answer
        except TimeoutError:
            raise CallFailed({"error": "Silence", "kind": "unknown", "message": ""}) from None
        if "error" in said:
            raise CallFailed(said)
        return said["ok"]

    async def status(self) -> dict[str, Any]:
        async with asyncio.timeout(WAIT_S):
            return await self.call("status")  # type: ignore[no-any-return]

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(number)

    async def ended(self) -> int:
        """Wait for the end of the process; its exit code, or the signal below zero."""
        assert self._process is not None and self._reading is not None
        async with asyncio.timeout(WAIT_S):
            await asyncio.shield(self._reading)
            return await self._process.wait()

    async def kill(self) -> None:
        self.up.clear()
        self.signal(signal.SIGKILL)
        assert await self.ended() == -signal.SIGKILL

    async def close(self) -> None:
        """End the process, whatever state it is in; never raises for one that is gone."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
        if self._reading is not None:
            await self._reading


class Cluster:
    """Three members, a relay in front of each, and a gate for each link."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self._folder = folder
        self._settings: dict[str, Any] = {
            "shards": 6,
            "election_ms": 500,
            "heartbeat_ms": 50,
            "tick_ms": 20,
        } | settings
        self.members: dict[int, Member] = {}
        self._relays: list[Relay] = []
        self._gates = {frozenset(pair): asyncio.Event() for pair in ((1, 2), (1, 3), (2, 3))}

    async def open(self) -> None:
        for gate in self._gates.values():
            gate.set()
        ports = dict(enumerate(free_ports(3), 1))
        self._relays = [Relay(node, port, self._gates) for node, port in ports.items()]
        nodes = {str(node): await self._relays[node - 1].open() for node in ports}
        for node, port in ports.items():
            config = self._settings | {
                "node_id": node,
                "data_dir": str(self._folder / f"n{node}"),
                "listen": f"127.0.0.1:{port}",
                "nodes": nodes,
            }
            self.members[node] = Member(node, config, self._folder)
        await self.each(lambda member: member.start())
        await self.ready()

    async def close(self) -> None:
        await asyncio.gather(*(member.close() for member in self.members.values()))
        for relay in self._relays:
            await relay.close()

    async def each(
        self, work: Callable[[Member], Awaitable[Any]], members: Iterable[Member] | None = None
    ) -> list[Any]:
        """The same at all members at once, or at some."""
        chosen = self.members.values() if members is None else members
        return await asyncio.gather(*(work(member) for member in chosen))

    async def ready(self) -> None:
        async with asyncio.timeout(WAIT_S):
            await self.each(lambda member: member.call("ready"))

    def cut(self, *pair: int) -> None:
        """Let nothing pass between two nodes; nobody is told."""
        self._gates[frozenset(pair)].clear()

    def mend(self, *pair: int) -> None:
        self._gates[frozenset(pair)].set()

    def isolate(self, node: int) -> None:
        for pair, gate in self._gates.items():
            if node in pair:
                gate.clear()

    def rejoin(self, node: int) -> None:
        for pair, gate in self._gates.items():
            if node in pair:
                gate.set()

    async def until(self, condition: Callable[[], Awaitable[Any]]) -> Any:
        """Ask again and again for something that the members bring about by themselves; what it says in the end."""
        async with asyncio.timeout(WAIT_S):
            while not (said := await condition()):
                await asyncio.sleep(0.02)
        return said

    async def leader(self, group: int, among: Iterable[Member] | None = None) -> Member:
        """The member that leads a group, once one does."""

        async def found() -> Member | None:
            for member in list(self.members.values() if among is None else among):
                if (await member.status())["groups"][str(group)]["leads"]:
                    return member
            return None

        return await self.until(found)  # type: ignore[no-any-return]

    async def terms(self, among: Iterable[Member]) -> dict[str, int]:
        """Group -> the highest term that some members know of."""
        terms: dict[str, int] = {}
        for status in await self.each(lambda member: member.status(), among):
            for group, one in status["groups"].items():
                terms[group] = max(terms.get(group, 0), one["term"])
        return terms

    async def led(self, among: list[Member]) -> None:
        """Wait until every group is led by one of some members."""

        async def all_led() -> bool:
            statuses = await self.each(lambda member: member.status(), among)
            return all(
                any(status["groups"][group]["leads"] for status in statuses)
                for group in statuses[0]["groups"]
            )

        await self.until(all_led)

    async def stay(self) -> None:
        """Wait until leaderships are spread, and keep them so."""

        async def spread() -> bool:
            statuses = await self.each(lambda member: member.status())
            led = [sum(one["leads"] for one in status["groups"].values()) for status in statuses]
            return sum(led) == len(statuses[0]["groups"]) and max(led) - min(led) <= 1

        await self.until(spread)
        await self.each(lambda member: member.call("stay"))

    def others(self, member: Member) -> list[Member]:
        return [one for one in self.members.values() if one is not member]

    async def busiest(self) -> Member:
        """The member that leads most groups."""
        led = {
            number: sum(group["leads"] for group in (await member.status())["groups"].values())
            for number, member in self.members.items()
        }
        return self.members[max(led, key=lambda number: led[number])]

    async def settled(self) -> None:
        """Wait until every replica has applied everything that is in any log; nobody may write meanwhile."""

        async def equal() -> bool:
            all_groups = [one["groups"] for one in await self.each(lambda member: member.status())]
            return all(
                len({groups[group]["last"] for groups in all_groups}) == 1
                and all(groups[group]["applied"] == groups[group]["last"] for groups in all_groups)
                for group in all_groups[0]
            )

        await self.until(equal)


@asynccontextmanager
async def cluster(folder: Path, **settings: Any) -> AsyncIterator[Cluster]:
    """Three running members; every process is gone after the block, whatever happened in it."""
    one = Cluster(folder, **settings)
    try:
        await one.open()
        yield one
    except BaseException as error:
        for member in one.members.values():
            error.add_note(f"--- node {member.number} said last:\n{member.log_tail()}")
        raise
    finally:
        await one.close()


__all__ = ["FAILED", "WAIT_S", "CallFailed", "Cluster", "Member", "cluster"]
