"""``multiraft demo``: a cluster of three nodes on this machine, a killed node, and a proof that nothing was lost.

The nodes are ``multiraft serve`` processes, used through ``multiraft.Client`` as any program would: nothing here looks into
them. Everything that is written is read back and compared at each node, twice. Whatever ends the demo - also Ctrl-C - ends
its processes and removes its files.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import click

from multiraft.cli.demo_input import Source, look_at, pieces_of, standard_library
from multiraft.cli.demo_load import Found, Judge, Loader, Written, disagreements
from multiraft.cli.demo_show import Show, make_show
from multiraft.cli.exits import Exit
from multiraft.cli.processes import NodeEnded, NodeProcess, end_all, serve_arguments
from multiraft.cli.serve import loop_factory
from multiraft.client import Client
from multiraft.errors import MultiRaftError
from multiraft.transport.address import free_addresses

NODES = (1, 2, 3)
VICTIM = 3
START_TIMEOUT_S = 60.0
CATCH_UP_TIMEOUT_S = 120.0
LOOK_EVERY_S = 0.1
KEYS_MIN = 3
"""The node is killed after one of them and started again after another; and something comes after that."""
INTERRUPTED = 130

EPILOG = """\b
Exit codes:
  0    everything that was acknowledged was found, unchanged, at every node
  1    something was lost or differs, or a node failed
  2    usage
  130  interrupted
"""


class Demo:
    """One run. Each step of it is a method, in the order of ``run``."""

    def __init__(self, source: Source, directory: Path, show: Show, *, shards: int) -> None:
        self.source = source
        self.shards = shards
        self.show = show
        addresses = free_addresses(2 * len(NODES))
        self.clients_at = dict(zip(NODES, addresses[len(NODES) :], strict=True))
        between = dict(zip(NODES, addresses, strict=False))
        self.nodes = {
            node: NodeProcess(
                f"node {node}",
                serve_arguments(
                    node,
                    directory / f"n{node}",
                    between,
                    client_address=self.clients_at[node],
                    shards=shards,
                ),
                directory / f"n{node}.log",
            )
            for node in NODES
        }
        self.events: asyncio.Task[None] | None = None
        """What happens to the victim while the rest goes on."""
        self.passes: dict[tuple[int, str], Found] = {}
        self.elections: dict[tuple[int, int], int] = {}
        """(node, boot count) -> leaders made there, as last heard."""
        self.before = 0

    async def run(self) -> dict[str, Any]:
        """All of it; the figures."""
        try:
            await self.start()
            written = await self.load()
            await self.catch_up()
            self.passes = await self.compare(written)
            await self.stop()
        finally:
            if self.events is not None:
                self.events.cancel()
                await asyncio.gather(self.events, return_exceptions=True)
            await end_all(list(self.nodes.values()))
        return self.figures(written, self.passes)

    # -- steps ------------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        began = time.perf_counter()
        with self.show.bar("starting three nodes", len(NODES)) as bar:
            for process in self.nodes.values():
                await process.start()
            waiting = [asyncio.ensure_future(one.ready()) for one in self.nodes.values()]
            try:
                async with asyncio.timeout(START_TIMEOUT_S):
                    for done, one in enumerate(asyncio.as_completed(waiting), 1):
                        await one
                        bar.at(done)
            finally:
                for one in waiting:
                    one.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)
        led = [str((await self.status(node))["led"]) for node in NODES]
        self.before = sum(self.elections.values())
        self.show.say(
            f"3 nodes with {self.shards} shards are up after {time.perf_counter() - began:.1f} s; "
            f"they lead {', '.join(led)} groups",
            "good",
        )

    async def load(self) -> Written:
        """Put every piece; in the middle one node is killed, and started again after another quarter."""
        events = {
            self.source.keys // 2: self.kill_one,
            self.source.keys * 3 // 4: self.start_it_again,
        }
        async with self.clients() as clients:
            with self.show.bar(f"writing {self.source.size / 1e6:.1f} MB", self.source.keys) as bar:
                began = time.perf_counter()

                def progress(written: Written) -> None:
                    if written.count % 64 == 0 or written.count in events:
                        rate = written.count / (time.perf_counter() - began)
                        bar.at(written.count, f"{rate:,.0f} writes/s, {loader.waiting} wait")
                    if (event := events.pop(written.count, None)) is not None:
                        self.events = asyncio.ensure_future(event(self.events))

                loader = Loader(clients, progress)
                written = await loader.load(pieces_of(self.source))
                bar.at(written.count)
        if self.events is not None:
            await self.events
        self.show.say(
            f"{len(written.acknowledged):,} writes were acknowledged in {written.seconds:.1f} s "
            f"({len(written.acknowledged) / written.seconds:,.0f}/s, p50 {written.percentile_ms(0.5):.1f} ms, "
            f"p99 {written.percentile_ms(0.99):.1f} ms), {len(written.unknown):,} have an unknown outcome",
            "good",
        )
        self.show.say(
            f"the longest time without an acknowledgement was {1000 * loader.gap_s:.0f} ms"
        )
        return written

    async def kill_one(self, before: asyncio.Task[None] | None) -> None:
        """What it leads is led by nobody until the others have elected; the rest goes on."""
        await self.status(VICTIM)
        await self.nodes[VICTIM].kill()
        self.show.say(f"node {VICTIM} was killed with -9; writing goes on", "event")

    async def start_it_again(self, before: asyncio.Task[None] | None) -> None:
        """It takes part again as soon as it is up, and gets what it missed while writing goes on."""
        if before is not None:
            await before
        process = self.nodes[VICTIM]
        began = time.perf_counter()
        await process.start()
        self.show.say(f"node {VICTIM} was started again", "event")
        async with asyncio.timeout(CATCH_UP_TIMEOUT_S):
            await process.heard("serves clients")
            goal, first = await self.behind()
            await self.applied(goal, lambda applied: None)
        self.show.say(
            f"node {VICTIM} has caught up {time.perf_counter() - began:.1f} s after its start: "
            f"{max(goal - first, 0):,} commands, its own and what it missed",
            "event",
        )

    async def catch_up(self) -> None:
        """Wait until the killed node has applied all that was committed, to the last write."""
        began = time.perf_counter()
        async with asyncio.timeout(CATCH_UP_TIMEOUT_S):
            await self.nodes[VICTIM].ready()
            goal, first = await self.behind()
            if first < goal:
                with self.show.bar(f"node {VICTIM} catches up", goal - first) as bar:
                    await self.applied(goal, lambda applied: bar.at(applied - first))
        self.show.say(
            f"node {VICTIM} has everything, {time.perf_counter() - began:.1f} s after the last write",
            "good",
        )

    async def compare(self, written: Written) -> dict[tuple[int, str], Found]:
        """Read everything at each node: by linearizable reads, and by a scan of what that replica has by itself."""
        judge = Judge(written)
        passes: dict[tuple[int, str], Found] = {}
        for node in NODES:
            async with Client(self.clients_at[node]) as client:
                with self.show.bar(f"node {node}: linearizable reads", len(judge.keys)) as bar:
                    passes[node, "reads"] = await judge.by_reads(client, bar.at)
                with self.show.bar(f"node {node}: its own replica", len(judge.keys)) as bar:
                    passes[node, "scan"] = await judge.by_scan(client, bar.at)
        return passes

    async def stop(self) -> None:
        """Close all nodes as an operator would."""
        for node in NODES:
            await self.status(node)
        codes = await asyncio.gather(*(one.stop() for one in self.nodes.values()))
        for process, code in zip(self.nodes.values(), codes, strict=True):
            if code != Exit.CLOSED:
                raise NodeEnded(process.name, code, process.last_lines())

    async def behind(self) -> tuple[int, int]:
        """(what is committed, what the victim has applied of it), as sums over all groups."""
        goal = max([(await self.status(node))["commit_index_sum"] for node in NODES])
        return goal, (await self.status(VICTIM))["applied_index_sum"]

    async def applied(self, goal: int, progress: Callable[[int], None]) -> None:
        """Look again and again until the victim has applied so much."""
        while True:
            applied = (await self.status(VICTIM))["applied_index_sum"]
            progress(min(applied, goal))
            if applied >= goal:
                return
            await asyncio.sleep(LOOK_EVERY_S)

    # -- looking ----------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def clients(self) -> AsyncIterator[list[Client]]:
        """One client a node, each of which goes on to the next node when its own is gone."""
        made: list[Client] = []
        try:
            for first in range(len(NODES)):
                order = NODES[first:] + NODES[:first]
                made.append(Client([self.clients_at[node] for node in order]))
                await made[-1].connect()
            yield made
        finally:
            for client in made:
                await client.aclose()

    async def status(self, node: int) -> dict[str, Any]:
        """What a node says of itself; its elections are remembered past its end."""
        async with Client(self.clients_at[node]) as client:
            found = await client.status()
        self.elections[node, found["boot_count"]] = found["elections"]
        return found

    def figures(self, written: Written, passes: dict[tuple[int, str], Found]) -> dict[str, Any]:
        """What ``--json`` prints."""
        lost = set().union(*(found.lost for found in passes.values()))
        mismatched = set().union(*(found.mismatched for found in passes.values()))
        return {
            "acknowledged": len(written.acknowledged),
            "lost": len(lost),
            "mismatched": len(mismatched | disagreements(passes.values())),
            "unknown": len(written.unknown),
            "writes_per_s": round(len(written.acknowledged) / written.seconds, 1),
            "p50_ms": round(written.percentile_ms(0.5), 2),
            "p99_ms": round(written.percentile_ms(0.99), 2),
            "elections": sum(self.elections.values()) - self.before,
            "nodes": len(NODES),
            "shards": self.shards,
        }


def show_result(
    show: Show, figures: dict[str, Any], passes: dict[tuple[int, str], Found], seconds: float
) -> None:
    """The table at the end, and the verdict."""
    rows = []
    for node in NODES:
        reads, scan = passes[node, "reads"], passes[node, "scan"]
        verdict = "equal" if reads.sound and scan.sound else "DIFFERS"
        rows.append(
            [
                f"node {node}{' (was killed)' if node == VICTIM else ''}",
                f"{reads.keys:,}",
                reads.digest,
                f"{scan.keys:,}",
                scan.digest,
                verdict,
            ]
        )
    heads = ["", "keys read", "checksum", "keys scanned", "checksum", "to what was written"]
    show.table("Everything, read back", heads, rows)
    good = not figures["lost"] and not figures["mismatched"]
    show.say(
        f"acknowledged {figures['acknowledged']:,}   lost {figures['lost']:,}   "
        f"mismatched {figures['mismatched']:,}   unknown {figures['unknown']:,}",
        "good" if good else "bad",
    )
    show.say(
        f"{figures['writes_per_s']:,.0f} writes/s   p50 {figures['p50_ms']:.1f} ms   p99 {figures['p99_ms']:.1f} ms   "
        f"{figures['elections']} elections while it ran   {seconds:.0f} s in all"
    )


@contextmanager
def place_for_data(keep: Path | None) -> Iterator[Path]:
    """A directory for the nodes: a new one that is removed afterwards, or the one to keep."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    directory = Path(tempfile.mkdtemp(prefix="multiraft-demo-"))
    try:
        yield directory
    finally:
        shutil.rmtree(directory)


async def run_demo(
    source: Source, keep: Path | None, show: Show, *, shards: int
) -> tuple[dict[str, Any], bool]:
    """Run it and show the result; the figures, and whether a signal ended it before."""
    began = time.perf_counter()
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        if not interrupted and task is not None:  # once: what follows is the cleaning up
            interrupted = True
            show.say("interrupted: ending the nodes", "event")
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)
    try:
        with place_for_data(keep) as directory:
            demo = Demo(source, directory, show, shards=shards)
            figures = await demo.run()
    except asyncio.CancelledError:
        if not interrupted:
            raise
        return {}, True
    show_result(show, figures, demo.passes, time.perf_counter() - began)
    if keep is not None:
        show.say(f"the nodes' directories are kept in {keep}")
    return figures, False


@click.command(epilog=EPILOG)
@click.option(
    "--input",
    "given",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Load the files of this directory instead of the standard library's.",
)
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the nodes' directories and logs here: a new or empty directory.",
)
@click.option(
    "--shards", type=click.IntRange(1, 16384), default=64, show_default=True, help="Shards to make."
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object on stdout, and nothing else there.",
)
def demo(given: Path | None, keep: Path | None, shards: int, as_json: bool) -> None:
    """Three nodes on this machine, one of them killed half-way: see that nothing is lost.

    Starts three `multiraft serve` processes in a temporary directory, writes real files to them (the Python standard
    library, a key for each 16 lines), kills one node with -9 in the middle, starts it again while writing goes on,
    waits until it has caught up, and reads everything back from each node: by linearizable reads through it, and by a
    scan of its own replica. Takes about a minute, and leaves nothing behind.
    """
    if keep is not None and keep.exists() and any(keep.iterdir()):
        raise click.BadParameter(f"{keep} is not empty", param_hint="--keep")
    source = look_at(given) if given is not None else standard_library()
    if source.keys < KEYS_MIN:
        raise click.BadParameter(
            f"there is too little to load in {source.root}: {source.keys} keys",
            param_hint="--input",
        )
    show = make_show(to_stderr=as_json)
    show.say(f"{source.keys:,} keys from {len(source.files):,} files under {source.root}")
    try:
        with asyncio.Runner(loop_factory=loop_factory("auto")) as runner:
            figures, interrupted = runner.run(run_demo(source, keep, show, shards=shards))
    except (NodeEnded, MultiRaftError, OSError) as error:
        show.say(f"the demo failed: {str(error) or type(error).__name__}", "bad")
        sys.exit(Exit.FAILED)
    if interrupted:
        sys.exit(INTERRUPTED)
    if as_json:
        print(json.dumps(figures))
    sys.exit(Exit.FAILED if figures["lost"] or figures["mismatched"] else Exit.CLOSED)
