"""Holds the hot functions to their recorded numbers, and shows on a compiled example that the count sees what it should."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from Cython.Compiler.Main import compile as cython_compile

from tools import hot_lines

ROOT = Path(__file__).resolve().parents[3]

EXAMPLE = '''"""An example: one function of plain C, one that has a Python list in its loop, one that is not marked."""

cdef inline int plain(int a, int b) except -1:  # hot
    cdef int i
    for i in range(b):
        a += i
    return a

# hot: once per message
@cython.inline
cdef object listed(list x,
                   y):
    cdef int i
    for i in range(3):
        x.append(y + i)
    return x

def unmarked(a):
    return plain(a, 3), listed([], a)
'''


def compile_example(root: Path, text: str) -> dict[str, int]:
    source = root / "multiraft" / "example.pyx"
    source.parent.mkdir(exist_ok=True)
    source.write_text("cimport cython\n" + text)
    source.with_name(
        "__init__.py"
    ).touch()  # without it, Cython takes the module for a top-level one
    target = root / hot_lines.C_FOLDER / "multiraft" / "example.c"
    target.parent.mkdir(parents=True, exist_ok=True)
    before = Path.cwd()
    os.chdir(root)  # Cython names the source in the C as it was named to it
    try:
        result = cython_compile("multiraft/example.pyx", output_file=str(target), language_level=3)
    finally:
        os.chdir(before)
    assert result.num_errors == 0
    return hot_lines.count_hot(root)[0]


@pytest.mark.slow
def test_python_operations_are_counted_and_plain_c_has_none(tmp_path: Path) -> None:
    counts = compile_example(tmp_path, EXAMPLE)
    assert set(counts) == {"multiraft/example.pyx:plain", "multiraft/example.pyx:listed"}
    assert counts["multiraft/example.pyx:plain"] == 0
    assert counts["multiraft/example.pyx:listed"] >= 3
    slower = compile_example(tmp_path, EXAMPLE.replace("a += i", "a += len(str(i))"))
    assert slower["multiraft/example.pyx:plain"] > 0
    assert slower["multiraft/example.pyx:listed"] == counts["multiraft/example.pyx:listed"]


def test_a_number_may_fall_but_not_grow() -> None:
    record = {"multiraft/a.pyx:f": 3}
    assert hot_lines.complaints({"multiraft/a.pyx:f": 2}, record, ()) == []
    assert "grew from 3 to 4" in hot_lines.complaints({"multiraft/a.pyx:f": 4}, record, ())[0]
    assert (
        "not recorded"
        in hot_lines.complaints({"multiraft/a.pyx:f": 0, "multiraft/a.pyx:g": 0}, record, ())[0]
    )
    assert "no such function" in hot_lines.complaints({}, record, ())[0]
    assert hot_lines.complaints({}, record, ["multiraft/a.pyx"]) == []


def test_the_record_reads_back(tmp_path: Path) -> None:
    counts = {"multiraft/b.pyx:g": 0, "multiraft/a.pyx:f": 12}
    hot_lines.write_record(tmp_path / "record", counts)
    assert hot_lines.read_record(tmp_path / "record") == counts
    assert hot_lines.read_record(tmp_path / "absent") == {}


def test_the_tree_keeps_its_record() -> None:
    if not any((ROOT / hot_lines.C_FOLDER).rglob("*.c")):
        pytest.skip("no generated C of a release build here: run `make build`")
    counts, without_c = hot_lines.count_hot(ROOT)
    assert (
        hot_lines.complaints(counts, hot_lines.read_record(ROOT / hot_lines.RECORD), without_c)
        == []
    )
