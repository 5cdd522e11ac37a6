"""Counts the Python operations left in functions that are marked `# hot`, and fails when a number has grown.

A function in a `.pyx` or `.pxd` is hot when its signature, or the comment right above it, carries `# hot`. Cython writes
before each piece of C which source line it comes from; the count is of calls into Python's or Cython's run time in the
pieces of the function's body. Calls that only build an error's text or traceback are left out. The numbers are compared
with `tools/hot_lines.txt`: a function may lose operations, never gain them, unless somebody records it on purpose.

    python -m tools.hot_lines            compare, exit code 1 when a number grew or is not recorded
    python -m tools.hot_lines --write    record the present numbers

The C must be that of a release build (`make build`). A function in a file that was never compiled is left alone.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from tools.tidy.source import Function, Source, functions_of, read_sources

ROOT = Path(__file__).resolve().parents[1]
C_FOLDER = Path("build/cython")
RECORD = Path("tools/hot_lines.txt")

MARK = re.compile(r"#\s*hot\b")
# The comment that Cython writes before the C of a source line.
ORIGIN = re.compile(r'^\s*/\* "([^"]+)":(\d+)$')
FUNCTION_EXIT = "/* function exit code */"
OPERATION = re.compile(r"\b(_?Py[A-Z]\w*_\w+|Py_X?(?:INCREF|DECREF|CLEAR)|__Pyx_\w+)\s*\(")
# Of the debug build, or on the way to an error only.
NOT_COUNTED = re.compile(
    r"__Pyx_(X?GOTREF|X?GIVEREF|RefNanny\w*|Raise\w*|AddTraceback|WriteUnraisable)|PyErr_\w+"
)

Counts = dict[str, int]


def hot_functions(source: Source) -> list[Function]:
    lines = source.lines
    found = []
    for function in functions_of(source):
        above = function.line - 2
        while above >= 0 and lines[above].lstrip().startswith("@"):
            above -= 1
        comment = lines[above] if above >= 0 and lines[above].lstrip().startswith("#") else ""
        if any(
            MARK.search(line) for line in [comment, *lines[function.line - 1 : function.head_end]]
        ):
            found.append(function)
    return found


def operations_by_line(c_text: str) -> dict[tuple[str, int], int]:
    """(source file, line) -> how many operations its C holds."""
    counts: dict[tuple[str, int], int] = defaultdict(int)
    origin: tuple[str, int] | None = None
    in_comment = False
    for line in c_text.splitlines():
        if match := ORIGIN.match(line):
            origin, in_comment = (match.group(1), int(match.group(2))), True
            counts[origin] += 0
        elif in_comment:
            in_comment = not line.endswith("*/")
        elif FUNCTION_EXIT in line:
            origin = None
        elif origin is not None:
            counts[origin] += sum(
                not NOT_COUNTED.fullmatch(name) for name in OPERATION.findall(line)
            )
    return counts


def count_hot(root: Path) -> tuple[Counts, list[str]]:
    """The operations of each hot function whose C is there, and the files with hot functions whose C is not."""
    hot = {s.path: hot_functions(s) for s in read_sources(root, "multiraft") if s.compiled}
    read: dict[Path, dict[tuple[str, int], int]] = {}
    counts: Counts = {}
    without_c = []
    for path, functions in hot.items():
        if not functions:
            continue
        # The C of an inline function in a header stands in every module that uses it.
        own = root / C_FOLDER / Path(path).with_suffix(".c")
        files = (
            sorted((root / C_FOLDER).rglob("*.c"))
            if path.endswith(".pxd")
            else [own] * own.exists()
        )
        for file in files:
            if file not in read:
                read[file] = operations_by_line(file.read_text("utf-8"))
        pieces = [read[file] for file in files if any(origin == path for origin, _ in read[file])]
        if not pieces:
            without_c.append(path)
        for function in functions if pieces else ():
            body = range(function.head_end + 1, function.end + 1)
            counts[f"{path}:{function.name}"] = max(
                sum(piece.get((path, n), 0) for n in body) for piece in pieces
            )
    return counts, without_c


def read_record(path: Path) -> Counts:
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    pairs = (line.rsplit(" ", 1) for line in lines if line and not line.startswith("#"))
    return {name: int(number) for name, number in pairs}


def write_record(path: Path, counts: Counts) -> None:
    head = "# Python operations in functions marked `# hot`: `python -m tools.hot_lines --write`, and say why in the commit.\n"
    path.write_text(head + "".join(f"{name} {counts[name]}\n" for name in sorted(counts)), "utf-8")


def complaints(counts: Counts, record: Counts, without_c: Iterable[str]) -> list[str]:
    found = []
    for name, count in sorted(counts.items()):
        if name not in record:
            found.append(f"{name} is hot, with {count} Python operations, and not recorded")
        elif count > record[name]:
            found.append(f"{name} grew from {record[name]} to {count} Python operations")
    unknown = set(without_c)
    for name in sorted(set(record) - set(counts)):
        if name.split(":")[0] not in unknown:
            found.append(f"{name} is recorded, but no such function is marked hot")
    return found


def main(arguments: list[str]) -> int:
    counts, without_c = count_hot(ROOT)
    record = read_record(ROOT / RECORD)
    if arguments == ["--write"]:
        kept = {name: number for name, number in record.items() if name.split(":")[0] in without_c}
        write_record(ROOT / RECORD, kept | counts)
        return 0
    found = complaints(counts, record, without_c)
    print(
        "\n".join(found)
        if found
        else f"{len(counts)} hot functions, none with more Python operations than recorded"
    )
    for path in without_c:
        print(f"not compiled, so not looked at: {path}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
