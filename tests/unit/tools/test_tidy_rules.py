"""Shows what each tidy rule catches: a planted violation that must be found, and its neighbour that must not be.

The last test holds the list complete, so that no rule can be added, or go blind, without one here.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tools.tidy import fences
from tools.tidy.ratchet import Allowed, beyond_ratchet
from tools.tidy.rules import RULES, all_violations
from tools.tidy.source import Violation, functions_of, make_source
from tools.tidy.words import check_machine

TOOLS = Path(__file__).resolve().parents[3] / "tools" / "tidy"


def long_function(head: str, lines: int) -> str:
    return head + "\n" + "    x = 1\n" * (lines - 1)


# rule, path, text that breaks it
PLANTED = [
    ("layers", "multiraft/raft/a.py", "import multiraft.node.turn"),
    ("layers", "multiraft/raft/a.py", "from multiraft.transport import link"),
    ("layers", "multiraft/raft/a.py", "from multiraft import node"),
    ("layers", "multiraft/raft/a.py", "def f():\n    from ..node import turn"),
    ("layers", "multiraft/log/a.py", "from multiraft.machine import kv"),
    ("layers", "multiraft/placement/a.py", "from multiraft.raft import replica"),
    ("layers", "multiraft/errors.py", "from multiraft.ids import NodeId"),
    ("layers", "multiraft/node/a.py", "from multiraft import __version__"),
    ("layers", "multiraft/client.py", "from multiraft.testing import disk"),
    ("layers", "multiraft/cli/a.py", "from multiraft.testing import disk"),
    ("layers", "multiraft/_core.pyx", "from multiraft.raft.log cimport append"),
    ("layers", "multiraft/_core.pyx", "from multiraft cimport _batch"),
    ("layers", "multiraft/raft/log.pxd", "cimport multiraft.node.turn as turn"),
    ("layers", "multiraft/raft/log.pxd", "from multiraft.log.index cimport (\n    A,\n    B,\n)"),
    ("layers", "multiraft/surprise.py", "x = 1"),
    ("threads", "multiraft/node/a.py", "import threading"),
    ("threads", "multiraft/node/a.py", "from concurrent.futures import Future"),
    ("threads", "multiraft/node/a.py", "asyncio.to_thread(f)"),
    ("threads", "multiraft/machine/a.pyx", "import threading"),
    ("lmdb", "multiraft/node/a.py", "import lmdb"),
    ("lmdb", "multiraft/transport/a.py", "def f():\n    from lmdb import Environment"),
    ("lmdb", "multiraft/worker.py", "import lmdb"),
    ("disk", "multiraft/log/a.py", "os.fsync(handle)"),
    ("disk", "multiraft/machine/a.py", "path.unlink()"),
    ("disk", "multiraft/transport/a.py", "import shutil"),
    ("disk", "multiraft/testing/a.py", "path.write_bytes(data)"),
    ("sockets", "multiraft/node/a.py", "import socket"),
    ("sockets", "multiraft/client.py", "await asyncio.open_connection(host, port)"),
    ("sockets", "multiraft/log/a.py", "class P(asyncio.BufferedProtocol): ..."),
    ("clock", "multiraft/raft/a.py", "import time"),
    ("clock", "multiraft/placement/a.py", "from datetime import datetime"),
    ("clock", "multiraft/_core.pyx", "from libc.time cimport time_t"),
    (
        "clock",
        "multiraft/raft/a.pyx",
        'cdef extern from "time.h":\n    int clock_gettime(int c, void* t)',
    ),
    ("chance", "multiraft/raft/a.py", "import random"),
    ("chance", "multiraft/_core.pyx", "from libc.stdlib cimport rand"),
    ("chance", "multiraft/placement/a.py", "order = sorted(nodes, key=lambda n: id(n))"),
    ("files", "multiraft/raft/a.py", "import os.path"),
    ("files", "multiraft/raft/a.pyx", "from libc.stdio cimport fopen"),
    ("pickle", "multiraft/node/a.py", "import pickle"),
    ("pickle", "multiraft/node/a.py", "from marshal import loads"),
    ("process-wide", "multiraft/node/a.py", "sys.setswitchinterval(0.001)"),
    ("async", "multiraft/node/turn.py", "async def f():\n    pass"),
    ("async", "multiraft/log/store.py", "def f():\n    return [x async for x in y]"),
    ("async", "multiraft/machine/a.pyx", "async  def f():\n    await g()"),
    ("put-path", "multiraft/node/a.py", "# On the path of a put.\nlogger.info('put')"),
    ("put-path", "multiraft/node/a.py", "# On the path of a put.\nwith asyncio.Lock():\n    x = 1"),
    ("function-length", "multiraft/node/a.py", long_function("def f():", 51)),
    (
        "function-length",
        "multiraft/raft/a.pyx",
        long_function("cdef int f(int a,\n      int b) except -1:", 51),
    ),
    ("function-length", "tests/a.py", long_function("async def f():", 51)),
    ("function-too-long", "multiraft/node/a.py", long_function("def f():", 71)),
    ("file-length", "multiraft/node/a.py", "x = 1\n" * 401),
    ("file-length", "multiraft/raft/a.pyx", "x = 1\n" * 701),
    ("file-too-long", "multiraft/raft/a.pyx", "x = 1\n" * 801),
    ("file-too-long", "tests/a.py", "x = 1\n" * 801),
    ("opening", "multiraft/node/a.py", '"""."""'),
    ("opening", "multiraft/node/a.py", "x = 1"),
    ("opening", "multiraft/raft/a.pyx", '# distutils: x\n"""Log."""\n'),
    ("opening", "multiraft/raft/a.pxd", "cdef int a"),
    ("bare-except", "multiraft/node/a.py", "try:\n    f()\nexcept:\n    g()"),
    ("bare-except", "multiraft/raft/a.pyx", "try:\n    f()\nexcept :\n    g()"),
    (
        "silent-except",
        "multiraft/node/a.py",
        "try:\n    f()\nexcept (OSError, KeyError) as e:\n    pass",
    ),
    (
        "silent-except",
        "multiraft/raft/a.pyx",
        "try:\n    f()\nexcept OSError:\n\n    ...  # so what",
    ),
    ("silent-except", "tests/a.py", "try:\n    f()\nexcept OSError: pass"),
    ("silent-except", "multiraft/node/a.py", "with suppress(Exception):\n    f()"),
    ("assert", "multiraft/node/a.py", "def f(x):\n    assert x"),
    ("global", "multiraft/node/a.py", "def f():\n    global x"),
    ("contract", "multiraft/raft/a.pyx", "cdef int f(int a):\n    return a"),
    ("contract", "multiraft/raft/a.pyx", "cdef inline void f(Log* log) nogil:\n    pass"),
    ("contract", "multiraft/raft/a.pxd", "cdef char* f(int a,\n             int b)"),
    ("contract", "multiraft/raft/a.pyx", "cdef class A:\n    cdef bint f(self):\n        return 1"),
    ("final", "multiraft/raft/a.pyx", "cdef class Replica:\n    pass"),
    (
        "final",
        "multiraft/raft/a.pyx",
        "@cython.final\ncdef class A:\n    pass\ncdef class B:\n    pass",
    ),
    ("compile-time", "multiraft/raft/a.pyx", "DEF N = 3"),
    ("compile-time", "multiraft/raft/a.pyx", "IF N == 3:\n    x = 1"),
    ("columns", "multiraft/raft/a.pxd", "# " + "x" * 140),
    ("words", "multiraft/node/a.py", "log = logging.getLogger(__name__)"),
    ("words", "multiraft/node/a.py", "LOG: logging.Logger = getLogger(__name__)"),
    ("words", "multiraft/node/a.py", "last_idx = 3"),
    ("words", "multiraft/raft/a.pyx", "cdef class ConfChange:\n    pass"),
    ("words", "multiraft/config.py", "max_bytes_in_flight = 3"),
]

# rule, path, text that looks like a violation and is none
SOUND = [
    (
        "layers",
        "multiraft/node/a.py",
        "from multiraft.log import store\nfrom multiraft import raft",
    ),
    (
        "layers",
        "multiraft/log/a.py",
        "from multiraft.log.schema import x\nfrom multiraft.worker import Worker",
    ),
    (
        "layers",
        "multiraft/raft/a.pyx",
        '"""Doc.\nfrom multiraft.node import turn\n"""\nfrom multiraft._core cimport Chunk',
    ),
    ("layers", "tests/a.py", "from multiraft.testing import disk"),
    ("threads", "multiraft/worker.py", "import threading"),
    ("threads", "multiraft/node/a.py", "# import threading\nthreading_note = 'import threading'"),
    ("lmdb", "multiraft/log/a.py", "import lmdb"),
    ("lmdb", "multiraft/disk.py", "import lmdb"),
    ("disk", "multiraft/disk.py", "os.fsync(handle)"),
    ("disk", "multiraft/cli/a.py", "import shutil"),
    ("sockets", "multiraft/transport/a.py", "import ssl"),
    ("clock", "multiraft/node/a.py", "import time"),
    ("clock", "multiraft/raft/a.py", "def tick(time): return timer.time"),
    ("chance", "multiraft/raft/a.py", "replica.id(3); peer_id(4)\nrandom = seed"),
    ("async", "multiraft/node/node.py", "async def f():\n    await g()"),
    ("async", "multiraft/node/turn.py", '"""Never async def."""\nawaited = 1'),
    (
        "put-path",
        "multiraft/node/a.py",
        "# On the path of a put.\nlogger.debug('fast')\nlogger.warning('broken')",
    ),
    ("put-path", "multiraft/node/a.py", "logger.info('elsewhere')"),
    ("function-length", "multiraft/node/a.py", long_function("def f():", 50)),
    (
        "function-length",
        "multiraft/raft/a.pyx",
        long_function("cdef int f() except -1:", 50) + "x = 1\n" * 9,
    ),
    ("file-length", "multiraft/raft/a.pyx", "x = 1\n" * 700),
    ("file-length", "tests/a.py", "x = 1\n" * 800),
    ("opening", "multiraft/raft/a.pxd", "# What a replica knows of each of its peers.\n"),
    (
        "opening",
        "multiraft/raft/a.pyx",
        '"""The log of one group, in memory.\nNever does I/O."""\n',
    ),
    (
        "silent-except",
        "multiraft/node/a.py",
        "try:\n    f()\nexcept OSError as e:\n    g(e)\n    pass",
    ),
    (
        "silent-except",
        "tests/a.py",
        "try:\n    f()\nexcept OSError:\n    pass  # the other side may have gone first",
    ),
    (
        "silent-except",
        "tests/a.py",
        "try:\n    f()\nexcept OSError:\n    # it may have gone first\n    pass",
    ),
    ("silent-except", "multiraft/node/a.py", "with suppress(FileNotFoundError):\n    f()"),
    ("silent-except", "multiraft/raft/a.pyx", "cdef int f() except -1:\n    pass"),
    ("assert", "tests/a.py", "def f(x):\n    assert x"),
    ("contract", "multiraft/raft/a.pyx", "cdef int f(int a) except? -1:\n    return a"),
    (
        "contract",
        "multiraft/raft/a.pyx",
        "cdef bytes f(int a):\n    return b''\ncdef Log g(x):\n    return x",
    ),
    (
        "contract",
        "multiraft/raft/a.pyx",
        "cdef void f(int a) noexcept nogil:\n    cdef int x = g(a)",
    ),
    (
        "final",
        "multiraft/raft/a.pyx",
        "@cython.final\n@cython.freelist(8)\ncdef class Replica:\n    pass",
    ),
    ("words", "multiraft/node/a.py", "logger = logging.getLogger(__name__)\nlog = store.open()"),
    ("words", "multiraft/node/a.py", "# the idx of the paper\nlast_index = 3"),
]


def found_in(path: str, text: str) -> list[Violation]:
    sources = [make_source(path, text)]
    return [violation for rule in RULES for violation in rule(sources)]


@pytest.mark.parametrize(("rule", "path", "text"), PLANTED)
def test_a_planted_violation_is_found(rule: str, path: str, text: str) -> None:
    found = found_in(path, text)
    assert rule in {violation.rule for violation in found}
    assert all(violation.path == path for violation in found)


@pytest.mark.parametrize(("rule", "path", "text"), SOUND)
def test_its_sound_neighbour_is_left_alone(rule: str, path: str, text: str) -> None:
    assert not [violation for violation in found_in(path, text) if violation.rule == rule]


def test_a_cycle_of_cimports_is_found() -> None:
    texts = {"a": "b", "b": "c", "c": "a"}
    sources = [
        make_source(f"multiraft/raft/{own}.pxd", f"from multiraft.raft.{other} cimport x")
        for own, other in texts.items()
    ]
    cycle = [v for rule in RULES for v in rule(sources) if v.rule == "cimport-cycle"]
    assert len(cycle) == 3
    assert not [v for rule in RULES for v in rule(sources[:2]) if v.rule == "cimport-cycle"]


@pytest.mark.parametrize(
    ("line", "bad"),
    [
        ("see " + "/ho" + "me/somebody/notes", True),
        ("cd " + "/tm" + "p/x && make", True),
        ("index = " + "https:" + "//pypi.example.net.invalid/simple", True),
        ("a/home/page and {root}/home/x and ./tmp/x", False),
        ("see https://www.apache.org/licenses/ and http://127.0.0.1:8000/x", False),
    ],
)
def test_a_path_or_address_of_one_machine_is_found(tmp_path: Path, line: str, bad: bool) -> None:
    path = tmp_path / "notes.md"
    path.write_text(line + "\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe" + line.encode())
    assert bool(list(check_machine(tmp_path, [path, tmp_path / "binary"]))) is bad


def test_the_ratchet_covers_what_it_names_and_no_more() -> None:
    grown = Violation("function-length", "multiraft/a.py", 3, "f has 60 lines", "f", 60)
    entry = Allowed("function-length", "multiraft/a.py", "a table of all kinds of message", "f", 60)
    assert beyond_ratchet([grown], [entry]) == []
    assert beyond_ratchet([grown], []) == [grown]
    too_small = Allowed(entry.rule, entry.path, entry.reason, "f", 59)
    assert grown in beyond_ratchet([grown], [too_small])
    other = Allowed(entry.rule, entry.path, entry.reason, "g", 60)
    assert grown in beyond_ratchet([grown], [other])


def test_the_ratchet_refuses_an_entry_that_is_not_needed_or_not_explained() -> None:
    entry = Allowed("bare-except", "multiraft/a.py", "the reason that once was")
    assert [v.rule for v in beyond_ratchet([], [entry])] == ["ratchet"]
    found = Violation("bare-except", "multiraft/a.py", 1, "name what is caught")
    assert [
        v.rule for v in beyond_ratchet([found], [Allowed(found.rule, found.path, "because")])
    ] == ["ratchet"]


def test_a_whole_tree_is_read_from_disk(tmp_path: Path) -> None:
    """End to end, in a folder with and without git: one planted file of each sort, and what git ignores."""
    package = tmp_path / "multiraft" / "raft"
    package.mkdir(parents=True)
    (package / "bad.py").write_text(
        '"""Here a ring looks up, which it must not do."""\nimport multiraft.node\n'
    )
    (package / "bad.pyx").write_text(
        '"""Here a C function keeps silent about errors."""\ncdef int f():\n    return 1\n'
    )
    (tmp_path / "notes.txt").write_text("/ho" + "me/somebody/x\n")
    (tmp_path / ".gitignore").write_text("build/\n")
    (tmp_path / "build").mkdir()
    (tmp_path / "build" / "notes.txt").write_text("/ho" + "me/somebody/x\n")
    expected = [
        ("multiraft/raft/bad.py", "layers"),
        ("multiraft/raft/bad.pyx", "contract"),
        ("notes.txt", "machine"),
    ]
    assert [(v.path, v.rule) for v in all_violations(tmp_path, ())] == expected
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    assert [(v.path, v.rule) for v in all_violations(tmp_path, ())] == expected


def test_functions_of_cython_files_end_where_they_end() -> None:
    text = (
        "cdef class A:\n"
        "    def one(self,\n"
        "            x):\n"
        '        """Doc.\n'
        "\n"
        'def not_one(): """\n'
        "        return x\n"
        "\n"
        "    # a comment\n"
        "    cpdef object two(self): return 1\n"
        "\n"
        "cdef extern from *:\n"
        "    int three(int)\n"
        "cdef inline int four() noexcept nogil:\n"
        "    cdef int x = five(1)\n"
        "    return x\n"
    )
    functions = functions_of(make_source("multiraft/raft/a.pyx", text))
    assert [(f.name, f.line, f.end) for f in functions] == [
        ("one", 2, 7),
        ("two", 10, 10),
        ("four", 14, 16),
    ]


def test_every_rule_has_a_planted_violation() -> None:
    text = "".join(path.read_text() for path in sorted(TOOLS.glob("*.py")))
    rules = set(re.findall(r'Violation\(\s*"([\w-]+)"', text)) | {
        fence.rule for fence in fences.FENCES
    }
    elsewhere = {"cimport-cycle", "machine", "ratchet"}
    assert rules - elsewhere == {rule for rule, _, _ in PLANTED}
