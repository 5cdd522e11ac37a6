"""A replicated counter. In three terminals: `python counter.py 1`, `python counter.py 2`, `python counter.py 3`; kill any."""

from __future__ import annotations

import asyncio
import sys

import multiraft

ADDRESSES = sys.argv[2:] or ["127.0.0.1:7401", "127.0.0.1:7402", "127.0.0.1:7403"]


class Counter:
    total = 0

    def apply(self, command, index, term):  # the same on every node: no clock, no chance in here
        self.total += int(command)
        return self.total

    def read(self, query):
        return self.total

    def snapshot(self):
        yield str(self.total).encode()

    def restore(self, chunks):
        self.total = int(b"".join(chunks))


async def main(me):
    nodes = dict(enumerate(ADDRESSES, 1))
    directory = f"counter-{me}"
    config = multiraft.Config(node_id=me, data_dir=directory, listen=nodes[me], nodes=nodes)
    async with multiraft.Node(config, machines={"counter": Counter}) as node:
        counter = await node.create_group("hits", Counter, timeout=60)
        while True:
            try:
                total = await counter.propose(b"1")
                print(f"{total} (node {counter.leader} leads)", flush=True)
            except multiraft.OutcomeUnknown as error:  # it may have been counted, or not
                print(f"perhaps: {error}", flush=True)
            await asyncio.sleep(0.1)


asyncio.run(main(int(sys.argv[1])))
