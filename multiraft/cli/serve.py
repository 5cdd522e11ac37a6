"""``multiraft serve``: one node as a process of its own.

Settings come from flags, then the environment (MULTIRAFT_SERVE_...), then one TOML file whose keys are the fields of ``Config``.
SIGTERM and SIGINT close the node: it hands its leaderships over, answers everybody and ends with 0. Whatever else ends it
says so in one line on stderr, with an exit code of its own (``exits``).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import Callable
from typing import Any

import click

from multiraft import worker
from multiraft.cli.exits import Exit, exit_of
from multiraft.cli.logs import DroppingHandler, JsonFormatter
from multiraft.errors import ConfigError

EPILOG = """\b
Exit codes:
  0   closed, by SIGTERM or SIGINT
  1   failed in a way that has no code of its own
  2   usage, or a configuration that cannot work
  10  the data belongs to another cluster or store
  11  the data is damaged or in a format that is not known
  12  no space left
  13  the address is in use
  14  the data directory is in use
"""


def parse_nodes(given: tuple[str, ...]) -> dict[int, str] | None:
    """``1=host:port`` repeated -> node id -> address; None where nothing was given."""
    nodes = {}
    for one in given:
        node, separator, address = one.partition("=")
        if not separator or not node.isdigit():
            raise click.BadParameter(f"{one!r} does not read ID=HOST:PORT", param_hint="--node")
        nodes[int(node)] = address
    return nodes or None


def set_up_logging(level: str, form: str) -> DroppingHandler:
    """Log lines go to stderr by way of a bounded queue: a reader that stalls never blocks the loop (pitfall 85)."""
    stream = logging.StreamHandler(sys.stderr)
    if form == "json":
        stream.setFormatter(JsonFormatter())
    else:
        stream.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler = DroppingHandler(stream)
    root = logging.getLogger("multiraft")
    root.setLevel(level.upper())
    root.addHandler(handler)
    return handler


def loop_factory(choice: str) -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        return worker.loop_factory(choice)
    except ConfigError as error:
        raise click.BadParameter(str(error), param_hint="--loop") from None


async def run_node(config: Any) -> None:
    """Start a node, say so, and wait until it has ended."""
    from multiraft.node.node import Node

    node = Node(config)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await node.start()
    say(f"node {config.node_id} listens on {getattr(node, 'address', 'no address')}")
    if node.gateway is not None:
        say(f"node {config.node_id} serves clients on {node.gateway.address}")
    ended = asyncio.ensure_future(node.closed())
    ready = asyncio.ensure_future(node.ready())
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({ended, ready, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if ready.done() and not ready.cancelled() and ready.exception() is None:
            # What a node is made of lives as long as the process: looking through it again and again for garbage would hold
            # the loop for tens of milliseconds each time. Only here, where the process is ours: never in an embedder's.
            gc.collect()
            gc.freeze()
            say(f"node {config.node_id} is ready: every shard has a leader")
        await asyncio.wait({ended, stopping}, return_when=asyncio.FIRST_COMPLETED)
        await node.aclose()
        await ended
    finally:
        for task in (ready, stopping, ended):
            task.cancel()
        await asyncio.gather(ready, stopping, ended, return_exceptions=True)
    say(f"node {config.node_id} is closed")


def say(line: str) -> None:
    """One line on stdout, at once, for whoever supervises this process; nobody has to read it."""
    with contextlib.suppress(BrokenPipeError):
        print(line, flush=True)


@click.command(epilog=EPILOG)
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False),
    help="A TOML file; its keys are those of Config.",
)
@click.option("--node-id", type=int, help="This node's number, from 1.  [default: 1]")
@click.option(
    "--data-dir",
    help="Where this node keeps everything; its own, and nobody else's.  [default: data]",
)
@click.option("--listen", help="HOST:PORT for the other nodes; port 0 takes a free one.")
@click.option(
    "--client-listen",
    metavar="HOST:PORT",
    help="Where clients may connect (multiraft.Client); nowhere if not given.",
)
@click.option(
    "--node",
    "nodes",
    multiple=True,
    metavar="ID=HOST:PORT",
    help="A node of the cluster; once for each, this one too.",
)
@click.option("--shards", type=int, help="Cut a new cluster's keys into so many shards, by hash.")
@click.option("--border", "borders", multiple=True, help="Or at these keys, which stay in order.")
@click.option(
    "--insecure", is_flag=True, default=None, help="Listen beyond this machine without TLS."
)
@click.option(
    "--tls-certificate",
    help="PEM: this node's certificate chain. With --tls-key and --tls-authorities.",
)
@click.option("--tls-key", help="PEM: its key.")
@click.option("--tls-authorities", help="PEM: whose certificates are accepted.")
@click.option(
    "--loop", type=click.Choice(["auto", "uvloop", "asyncio"]), default="auto", show_default=True
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
)
@click.option(
    "--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True
)
def serve(
    config: str | None,
    nodes: tuple[str, ...],
    borders: tuple[str, ...],
    tls_certificate: str | None,
    tls_key: str | None,
    tls_authorities: str | None,
    loop: str,
    log_level: str,
    log_format: str,
    **flags: Any,
) -> None:
    """Run one node until it is told to stop.

    Three nodes on this machine, each in a terminal of its own:

    \b
      multiraft serve --node-id 1 --data-dir n1 --listen 127.0.0.1:7401 --shards 64 \\
        --node 1=127.0.0.1:7401 --node 2=127.0.0.1:7402 --node 3=127.0.0.1:7403
    """
    from multiraft.config import Config, TlsConfig

    flags |= {"nodes": parse_nodes(nodes), "borders": borders or None}
    if tls_certificate or tls_key or tls_authorities:
        if not (tls_certificate and tls_key and tls_authorities):
            raise click.UsageError("--tls-certificate, --tls-key and --tls-authorities go together")
        flags["tls"] = TlsConfig(tls_certificate, tls_key, tls_authorities)
    handler = set_up_logging(log_level, log_format)
    try:
        given = {name: value for name, value in flags.items() if value is not None}
        made = Config.from_toml(config, **given) if config else Config.from_mapping(given)
        with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
            runner.run(run_node(made))
    except click.ClickException:
        raise
    except Exception as error:
        code, line = exit_of(error)
        handler.close()  # so that this line is the last
        click.echo(f"multiraft serve: {line}", err=True)
        sys.exit(code)
    finally:
        handler.close()
    sys.exit(Exit.CLOSED)
