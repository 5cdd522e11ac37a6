"""Five clients write and read one key at once; then all that they saw is judged. `python check_history.py`."""

from __future__ import annotations

import asyncio
import sys

import multiraft
from multiraft.testing import History, Recorder, Register, check
from multiraft.testing.picture import draw


async def client(db, recorder, name):
    for number in range(20):
        value = f"{name}-{number}"
        with recorder.invoke(name, "write", "x", value) as call:
            await db.put(b"x", value.encode())
            call.ok()
        with recorder.invoke(name, "read", "x") as call:
            found = await db.get(b"x")
            call.ok(None if found is None else found.decode())


async def main(directory, file):
    async with multiraft.open(directory) as db:
        recorder = Recorder(file)
        await asyncio.gather(*(client(db, recorder, f"client {n}") for n in range(5)))


if __name__ == "__main__":
    with open("history.jsonl", "w") as file:
        asyncio.run(main("data", file))
    verdict = check(History.read("history.jsonl"), Register())
    print(verdict)
    if verdict.part is not None:
        with open("history.html", "w") as page:
            page.write(draw(verdict))
    sys.exit(0 if verdict.ok else 1)
