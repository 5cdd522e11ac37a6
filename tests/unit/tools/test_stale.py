"""An old compiled module must be noticed whichever of its inputs changed, and a fresh one never suspected."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tools.stale import SUFFIX, missing_modules, stale_modules


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """`a` cimports from `sub.b`, which cimports from `c`; all inputs were written at 100, the modules at 200."""
    files = {
        "setup.py": "",
        "multiraft/__init__.py": "",
        "multiraft/a.pyx": "from multiraft.sub cimport b\n",
        "multiraft/a.pxd": "",
        "multiraft/sub/b.pxd": "cimport multiraft.c as c\n",
        "multiraft/c.pxd": "",
        "multiraft/c.pyx": "",
        "multiraft/alone.pyx": "",
    }
    for name, text in files.items():
        write(tmp_path / name, text, 100)
    for name in ("a", "c", "alone"):
        write(tmp_path / "multiraft" / (name + SUFFIX), "", 200)
    return tmp_path


def write(path: Path, text: str, time: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (time, time))


def stale_names(root: Path) -> list[str]:
    return [sentence.split(".")[0] for sentence in stale_modules(root)]


def test_a_fresh_build_is_not_suspected(tree: Path) -> None:
    assert stale_modules(tree) == []
    assert missing_modules(tree) == []


@pytest.mark.parametrize(
    ("changed", "stale"),
    [
        ("multiraft/a.pyx", ["a"]),
        ("multiraft/a.pxd", ["a"]),
        ("multiraft/sub/b.pxd", ["a"]),
        ("multiraft/c.pxd", ["a", "c"]),
        ("multiraft/c.pyx", ["c"]),
        ("setup.py", ["a", "alone", "c"]),
        ("multiraft/__init__.py", []),
    ],
)
def test_whichever_input_is_newer_makes_stale_what_uses_it(
    tree: Path, changed: str, stale: list[str]
) -> None:
    os.utime(tree / changed, (300, 300))
    assert stale_names(tree) == stale


def test_a_module_without_source_is_stale(tree: Path) -> None:
    (tree / "multiraft" / "alone.pyx").unlink()
    assert stale_modules(tree) == [f"alone{SUFFIX} has no source multiraft/alone.pyx"]


def test_a_source_that_was_never_compiled_is_missing_and_not_stale(tree: Path) -> None:
    (tree / "multiraft" / ("c" + SUFFIX)).unlink()
    assert missing_modules(tree) == ["multiraft/c.pyx"]
    assert stale_modules(tree) == []


def test_a_build_in_a_folder_of_its_own_must_copy_what_the_sources_say(tree: Path) -> None:
    built = tree / "build" / "debug"
    for name in ("a", "c", "alone"):
        write(built / "multiraft" / (name + SUFFIX), "", 200)
    assert "__init__.py is not a copy" in stale_modules(tree, built)[0]
    write(built / "multiraft" / "__init__.py", "", 100)
    assert stale_modules(tree, built) == []
    os.utime(tree / "multiraft" / "__init__.py", (300, 300))
    assert len(stale_modules(tree, built)) == 1
