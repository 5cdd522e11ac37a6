"""What may be used in one place only, so that a reader knows where to look for it: threads, lmdb, sockets, clocks.

A fence names modules (imported or cimported) and names (attributes and C functions), and the paths inside it. The rule
reads the shipped package; tests, tools and benchmarks stand outside all fences.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tools.tidy.source import Source, Violation, imports_of

RINGS_0_AND_1 = r"multiraft/(_\w+\.(pyx|pxd|pyi)|raft/|placement/)"
EVERYWHERE = r"multiraft/"


@dataclass(frozen=True, slots=True)
class Fence:
    """`inside` may use it; elsewhere, where `applies` matches the path, it is a violation with this message."""

    rule: str
    message: str
    modules: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    applies: str = EVERYWHERE
    inside: str = r"(?!)"


FENCES = (
    Fence(
        "threads",
        "only worker.py starts or locks threads",
        modules=frozenset({"threading", "_thread", "concurrent", "multiprocessing"}),
        names=frozenset({"to_thread", "run_in_executor", "ThreadPoolExecutor"}),
        inside=r"multiraft/worker\.py",
    ),
    # Opened in one place, so that a simulated one can take its place; log/ and machine/ know its types and errors, and the
    # simulated one raises the same errors.
    Fence(
        "lmdb",
        "only disk.py opens LMDB; log/, machine/ and testing/ know its types and errors",
        modules=frozenset({"lmdb"}),
        inside=r"multiraft/(log/|machine/|testing/|disk\.py)",
    ),
    Fence(
        "disk",
        "what a node does to its disk goes through interfaces.Disk, or it cannot be simulated",
        modules=frozenset({"fcntl", "shutil", "tempfile"}),
        names=frozenset(
            """fsync fdatasync posix_fallocate statvfs fstatvfs flock pread pwrite ftruncate
            listdir scandir iterdir read_bytes write_bytes read_text write_text unlink mkdir makedirs""".split()
        ),
        # The simulator's own commands read and write files of their users.
        inside=r"multiraft/testing/(__main__|checking|commands|corpus|plugin)\.py",
        applies=r"multiraft/(log|machine|transport|testing)/|multiraft/node/(snapshots|wiring)\.py",
    ),
    Fence(
        "sockets",
        "only transport/ opens sockets",
        modules=frozenset({"socket", "ssl", "selectors", "socketserver", "http", "urllib"}),
        names=frozenset(
            """start_server start_unix_server open_connection open_unix_connection create_connection create_server
            create_unix_connection create_unix_server create_datagram_endpoint StreamReader StreamWriter
            BufferedProtocol sock_recv sock_sendall sock_connect sock_accept""".split()
        ),
        inside=r"multiraft/transport/",
    ),
    Fence(
        "clock",
        "rings 0 and 1 know no time: the turn asks the Clock and passes it in",
        modules=frozenset(
            {
                "time",
                "datetime",
                "libc.time",
                "posix.time",
                "cpython.time",
                "cpython.datetime",
                "sched",
            }
        ),
        names=frozenset({"clock_gettime", "gettimeofday", "call_later", "call_at"}),
        applies=RINGS_0_AND_1,
    ),
    Fence(
        "chance",
        "rings 0 and 1 hold no hidden chance: a seed or a generator is handed in",
        modules=frozenset({"random", "secrets", "uuid"}),
        names=frozenset({"urandom", "getrandom", "arc4random", "srand", "rand", "drand48"}),
        applies=RINGS_0_AND_1,
    ),
    Fence(
        "files",
        "rings 0 and 1 do no I/O",
        modules=frozenset(
            {"os", "io", "pathlib", "shutil", "tempfile", "subprocess", "libc.stdio", "logging"}
        ),
        applies=RINGS_0_AND_1,
    ),
    Fence(
        "pickle",
        "whoever can write such bytes can run code here",
        modules=frozenset(
            {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle"}
        ),
    ),
    Fence(
        "process-wide",
        "it changes the embedder's whole process, which is not ours to set",
        names=frozenset(
            {
                "setswitchinterval",
                "set_event_loop_policy",
                "EventLoopPolicy",
                "basicConfig",
                "setrecursionlimit",
            }
        ),
        inside=r"multiraft/(cli/|__main__\.py)",
    ),
)

# Coroutines in these only; interfaces.py declares what others implement, and a worker wakes the loop. In node/, the shell
# is cut into several files; turn, waiters and all that they call stay plain.
ASYNC_INSIDE = re.compile(
    r"multiraft/(transport/|cli/|testing/|client\.py|sync\.py|interfaces\.py|worker\.py|"
    r"node/(node|wiring|leaving|world|store|scanning|hash_scan|dispatch|snapshots|embedded|groups|leadership|moves|admin)\.py)"
)
ASYNC_WORD = re.compile(r"\b(async\s+(?:def|for|with)|await)\b")
WORD = re.compile(r"(?<![\w.])[A-Za-z_]\w*|(?<=\.)[A-Za-z_]\w*")
PUT_PATH = re.compile(r"^# On the path of a put\.", re.MULTILINE)
SLOW_ON_PUT_PATH = re.compile(r"\blogger\.(?:info|log)\s*\(|\b(?:R?Lock|Condition|Semaphore)\s*\(")
IDENTITY_CALL = re.compile(r"(?<![\w.])(id|hash)\s*\(")


def check_fences(
    sources: Iterable[Source], fences: Iterable[Fence] = FENCES
) -> Iterator[Violation]:
    for source in sources:
        for fence in fences:
            if re.match(fence.applies, source.path) and not re.match(fence.inside, source.path):
                yield from climbs(source, fence)


def climbs(source: Source, fence: Fence) -> Iterator[Violation]:
    """Where a source uses what stands behind a fence that it is not inside of."""
    for found in imports_of(source):
        for module in {found.module, f"{found.module}.{found.name}"}:
            if any(module == fenced or module.startswith(fenced + ".") for fenced in fence.modules):
                yield Violation(
                    fence.rule,
                    source.path,
                    found.line,
                    f"imports {module}: {fence.message}",
                    module,
                )
                break
    for number, line in enumerate(source.code.splitlines(), 1):
        for name in sorted(fence.names.intersection(WORD.findall(line))):
            yield Violation(fence.rule, source.path, number, f"uses {name}: {fence.message}", name)


def check_async(sources: Iterable[Source]) -> Iterator[Violation]:
    """Coroutines stand in the shells. The turn and everything below it are plain calls."""
    for source in sources:
        if not source.path.startswith("multiraft/") or ASYNC_INSIDE.match(source.path):
            continue
        for number, line in enumerate(source.code.splitlines(), 1):
            if match := ASYNC_WORD.search(line):
                yield Violation(
                    "async",
                    source.path,
                    number,
                    f"'{match.group(1)}' outside the asynchronous shells",
                )


def check_identity(sources: Iterable[Source]) -> Iterator[Violation]:
    """In rings 0 and 1 nothing depends on where an object lies: addresses differ from run to run, so would results."""
    for source in sources:
        if re.match(RINGS_0_AND_1, source.path):
            for number, line in enumerate(source.code.splitlines(), 1):
                if match := IDENTITY_CALL.search(line):
                    yield Violation(
                        "chance",
                        source.path,
                        number,
                        f"'{match.group(1)}()' differs from run to run",
                    )


def check_put_path(sources: Iterable[Source]) -> Iterator[Violation]:
    """A file that every put goes through says so in a line of its own; it takes no lock and logs nothing but failures."""
    for source in sources:
        if PUT_PATH.search(source.text):
            for number, line in enumerate(source.code.splitlines(), 1):
                if match := SLOW_ON_PUT_PATH.search(line):
                    yield Violation(
                        "put-path", source.path, number, f"'{match.group()}' on the path of a put"
                    )
