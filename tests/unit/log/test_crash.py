"""Processes that die, and bits that flip: pitfalls 1, 3, 17, 20 and 91 on real files."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

from multiraft._core import decode_run
from multiraft.log.schema import LogSettings
from tests.unit.log.harness import Feeder, fetch, open_inline, opened
from tests.unit.log.model import Model

ROOT = Path(__file__).resolve().parents[3]
DURABLE = LogSettings(
    reserve_bytes=0, ahead_bytes=1 << 20, dead_batches_min=2, rewrite_share=0.5, map_bytes=8 << 20
)

WRITER = """
import sys
from pathlib import Path
from tests.unit.log.harness import open_inline, seal
from tests.unit.log.model import Model
from tests.unit.log.test_crash import DURABLE

path, seed, known = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
store = open_inline(path, DURABLE)
model = Model(seed)
batches = [model.batch() for _ in range(store.synced_sequence)]  # what is there was made by the same chance
assert store.synced_sequence >= known
store.on_synced = lambda sequence: print(sequence, flush=True)
for sequence in range(store.synced_sequence + 1, 100_000):
    store.append(seal(sequence, store.store_id, model.batch()))
"""


def test_p01_p03_p20_what_was_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    """A writer is killed at any moment, again and again on one directory; nothing that it had acknowledged is missing."""
    path, seed = tmp_path / "log", 7
    chance = random.Random(seed)
    acknowledged = 0
    for _ in range(6):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(seed), str(acknowledged)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert writer.stdout is not None
        enough = acknowledged + chance.randint(1, 60)
        while acknowledged < enough:
            acknowledged = int(writer.stdout.readline())
        time.sleep(chance.random() * 0.004)  # into the middle of what it does next
        writer.send_signal(signal.SIGKILL)
        rest = writer.communicate()[0].split()
        acknowledged = int(rest[-1]) if rest else acknowledged
        model = Model(seed)
        with opened(path, DURABLE) as store:
            assert acknowledged <= store.synced_sequence <= acknowledged + 1
            for _ in range(store.synced_sequence):
                model.batch()
            expected = {group: each.log() for group, each in sorted(model.groups.items())}
            assert {log.group: log for log in store.groups()} == expected


# -- bits that flip -------------------------------------------------------------------------------------------------------

# Asked many times; each answer comes from a process of its own, since a flipped bit may well end it.
READER = """
import json, os, shutil, sys
from pathlib import Path
from multiraft.errors import StorageError
from tests.unit.log.test_crash import answers

original, work = Path(sys.argv[1]), Path(sys.argv[2])

def answer(at, bit):
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(original, work)
    with (work / "data.mdb").open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ (1 << bit)]))
    try:
        return json.dumps(answers(work))
    except StorageError as error:
        return f"refused: {type(error).__name__}"

for line in sys.stdin:
    at, bit = map(int, line.split())
    child = os.fork()
    if child == 0:
        print(answer(at, bit), flush=True)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        print(f"ended: signal {os.WTERMSIG(status)}", flush=True)
"""


def answers(path: Path) -> object:
    """Everything that a store can be asked, and writing to it, as plain values. Raises StorageError where it refuses."""
    store = open_inline(path, DURABLE)
    try:
        groups = [repr(log) for log in store.groups()]
        entries = []
        for log in store.groups():
            first = log.base.index + 1
            while runs := fetch(store, log.group, first):
                for data in runs:
                    run = decode_run(data)
                    entries += [
                        (log.group, run.first + at, run.term, payload.hex())
                        for at, payload in enumerate(run.entries)
                        if run.first + at >= first
                    ]
                first = entries[-1][1] + 1
        pinned = [repr(pin) for pin in store.pinned().values()]
        return [store.synced_sequence, groups, entries, pinned]
    finally:
        store.close()


class Reader:
    """Tells what a process says that opens the log with one bit changed; how it ended, where it says nothing."""

    def __init__(self, original: Path, work: Path):
        self._process = subprocess.Popen(
            [sys.executable, "-c", READER, str(original), str(work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def ask(self, at: int, bit: int) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{at} {bit}\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline().strip()
        assert said, "the reader of flipped logs failed by itself"
        return said

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def log_to_damage(path: Path) -> tuple[str, int]:
    """A log with all that a log can have in it; (its answers, the end of its last page)."""
    model = Model(3)
    with opened(path, DURABLE) as store:
        feeder = Feeder(store)
        for _ in range(120):
            feeder.append(*model.batch())
    expected = json.dumps(answers(path))
    raw = (path / "data.mdb").read_bytes()
    last = max(struct.unpack_from("<QQ", raw, at + 136)[::-1] for at in (0, 4096))[1]
    return expected, (last + 1) * 4096


def test_p91_a_flipped_bit_never_changes_an_answer(tmp_path: Path) -> None:
    """Anywhere but in the meta pages: harmless, refused, or the end of the process before it answered anything."""
    path = tmp_path / "log"
    expected, size = log_to_damage(path)
    chance = random.Random(1)
    seen: dict[str, int] = {}
    with Reader(path, tmp_path / "work") as reader:
        for _ in range(50):
            at, bit = chance.randrange(2 * 4096, size), chance.randrange(8)
            said = reader.ask(at, bit)
            outcome = "harmless" if said == expected else said
            assert outcome == "harmless" or outcome.startswith(("refused", "ended")), (
                at,
                bit,
                said[:300],
            )
            seen[outcome] = seen.get(outcome, 0) + 1
    assert any(outcome.startswith("refused") for outcome in seen), seen
    assert "harmless" in seen, seen


def test_p91_a_flipped_bit_in_a_meta_page_rolls_back_at_most_one_transaction(
    tmp_path: Path,
) -> None:
    """LMDB keeps no checksum of its meta pages. This is the one damage that nobody here can see: the newest transaction is
    gone as if it had never been. It shows by the sequence, which is why peers remember the highest that they saw."""
    path = tmp_path / "log"
    expected = json.loads(log_to_damage(path)[0])
    newest = expected[0]
    fields = [at for page in (0, 4096) for at in range(page + 10, page + 152)]
    chance = random.Random(2)
    with Reader(path, tmp_path / "work") as reader:
        for _ in range(40):
            at, bit = chance.choice(fields), chance.randrange(8)
            said = reader.ask(at, bit)
            if said.startswith(("refused", "ended")):
                continue
            sequence = json.loads(said)[0]
            assert newest - 1 <= sequence <= newest, (at, bit)
            if sequence == newest:
                assert json.loads(said) == expected, (at, bit)


def test_a_whole_copy_of_what_was_there_opens(tmp_path: Path) -> None:
    """A directory copied while nobody writes is as good as the original: nothing is bound to an inode or a path."""
    path = tmp_path / "log"
    expected = log_to_damage(path)[0]
    shutil.copytree(path, tmp_path / "copy")
    os.rename(path, tmp_path / "moved")
    assert json.dumps(answers(tmp_path / "copy")) == expected
    assert json.dumps(answers(tmp_path / "moved")) == expected
