"""One node as a process that a test drives: ``python -m tests.cluster.member '{"node_id": 1, ...}'``.

The argument is the fields of ``Config`` in JSON. Each line of stdin is a call, ``{"id": 7, "call": "put", "key": "k", ...}``;
calls run side by side, and each is answered by a line of stdout with its id: ``{"id": 7, "ok": 12}``, or ``{"id": 7, "error":
"DeadlineExceeded", "kind": "unknown", "message": ...}``, where ``kind`` says whether it can have happened: ``not`` or ``unknown``.
Keys and values are text. The end of stdin closes the node. What ends the node itself is said in a line with id -1 and ends the
process, with exit code 3.

It never outlives its parent, not even when both are stopped and killed.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn

import uvloop

from multiraft import BatchError, Closed, Config, Node, Rejected, Retryable
from multiraft.machine.kv import KeyValueStore

FAILED = 3
PR_SET_PDEATHSIG = 1
APPLY = KeyValueStore.apply


def kind_of(error: BaseException) -> str:
    """Can it have happened?"""
    return "not" if isinstance(error, (Rejected, Retryable, Closed)) else "unknown"


class Member:
    """A node, and how each call of a line is made."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.calls: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {
            name.removeprefix("do_"): getattr(self, name)
            for name in dir(self)
            if name.startswith("do_")
        }

    async def answer(self, line: str) -> None:
        """Make the call of one line and say what came of it."""
        asked = json.loads(line)
        said: dict[str, Any] = {"id": asked.pop("id")}
        try:
            said["ok"] = await self.calls[asked.pop("call")](**asked)
        except BatchError as error:
            said |= {"error": "BatchError", "kind": "parts", "message": str(error)}
            said["outcomes"] = [
                one if isinstance(one, int) else kind_of(one) for one in error.outcomes
            ]
        except Exception as error:
            said |= {"error": type(error).__name__, "kind": kind_of(error), "message": str(error)}
        os.write(1, json.dumps(said).encode() + b"\n")

    async def do_put(self, key: str, value: str, timeout: float | None = None) -> int:
        return await self.node.store.put(key.encode(), value.encode(), timeout=timeout)

    async def do_put_many(self, items: list[list[str]], timeout: float | None = None) -> list[int]:
        pairs = [(key.encode(), value.encode()) for key, value in items]
        return await self.node.store.put_many(pairs, timeout=timeout)

    async def do_set(self, key: str, value: str, revision: int, timeout: float) -> int:
        return await self.node.store.compare_and_set(
            key.encode(), value.encode(), revision=revision, timeout=timeout
        )

    async def do_get(
        self, key: str, timeout: float | None = None, stale: bool = False
    ) -> list[Any] | None:
        entry = await self.node.store.get_entry(key.encode(), timeout=timeout, stale=stale)
        return None if entry is None else [entry.value.decode(), entry.revision]

    async def do_scan(self, stale: bool = False) -> list[list[str]]:
        found = self.node.store.scan(stale=stale)
        return [[key.decode(), value.decode()] async for key, value in found]

    async def do_ready(self) -> None:
        await self.node.ready()

    async def do_status(self) -> dict[str, Any]:
        """What the tests look at: of each group its role, term, leader's node, commit and applied index."""
        multi = self.node.multi
        groups = {}
        for group in multi.groups():
            status = multi.replica(group).status()
            _, last, commit, applied, _ = multi.indexes(group)
            groups[str(group)] = {
                "leads": multi.leads(group),
                "role": int(status.role),
                "term": status.term,
                "leader": multi.leader_node(group),
                "last": last,
                "commit": commit,
                "applied": applied,
            }
        status = self.node.status()
        return {"groups": groups, "links": status.links, "boots": status.boot_count}

    async def do_group_of(self, key: str) -> int:
        routing = self.node.routing
        return routing.find(routing.physical(key.encode()))[0]

    async def do_saved(self) -> list[int]:
        """Of each shard the index up to which its state is on the disk."""
        return [shard.flushed_index for shard in self.node.machine.table.shards.values()]

    async def do_stay(self) -> None:
        """Leaderships stay where elections put them; they are not spread any more."""
        self.node.placing.spread = lambda linked, moves_max: None  # type: ignore[method-assign]

    async def do_release(self) -> None:
        """Apply what was held back by ``hold_apply``."""
        KeyValueStore.apply = APPLY  # type: ignore[method-assign]

    async def do_break_disk(self) -> None:
        """From now on every write to a file fails: the system answers EFBIG to each."""
        break_disk()


def hold_apply() -> None:
    """Replay nothing of the log until ``release``: as if there were very much of it."""

    def apply(self: KeyValueStore, runs: Any, entries_max: int, held: Any) -> int:
        return 0

    KeyValueStore.apply = apply  # type: ignore[method-assign]


def break_disk() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))


async def run(config: Config) -> None:
    node = Node(config)
    await node.start()
    member = Member(node)
    os.write(1, b'{"id": 0, "ok": "started"}\n')
    lines = asyncio.StreamReader(limit=1 << 26)
    loop = asyncio.get_running_loop()
    pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    ended = asyncio.ensure_future(node.closed())
    tasks: set[asyncio.Task[None]] = set()
    while True:
        reading = asyncio.ensure_future(lines.readline())
        await asyncio.wait({reading, ended}, return_when=asyncio.FIRST_COMPLETED)
        if ended.done():
            if tasks:
                await asyncio.wait(tasks, timeout=1)  # what waited was answered with the same error
            end(ended.exception())
        if not (line := reading.result()):
            break
        task = asyncio.ensure_future(member.answer(line.decode()))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    pipe.close()
    await node.aclose()
    await ended


def end(error: BaseException | None) -> NoReturn:
    """Say what ended the node - on stdout, since a broken disk may hold the other - and go."""
    os.write(
        1, json.dumps({"id": -1, "ended": f"{type(error).__name__}: {error}"}).encode() + b"\n"
    )
    os._exit(FAILED)


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    given = json.loads(sys.argv[1])
    if given.pop("broken_disk", False):
        break_disk()
    if given.pop("hold_apply", False):
        hold_apply()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(Config.from_mapping(given)))
    except Exception as error:
        end(error)


if __name__ == "__main__":
    main()
