"""Makes the mutated tree: a copy of the package in which every mutant of tests/mutants/mutants.toml is a switch.

The product has no switches; this puts them into a copy under build/mutants and compiles it once. Which mutant a process shows
is the number in its environment (``VARIABLE``), read when it is first asked for; none of them where that is not set.

What is edited is text: an edit's ``find`` must occur exactly once in its file, and edits must not overlap. So a list that has
fallen behind the sources is noticed here and in the tests, before anything is compiled.

``python -m tools.mutant_tree`` makes the tree, or says what it would take anew (``--check``).
"""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from tools import mutants as listed
from tools.mutants import VARIABLE, Edit, Mutant, read_list

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / listed.LIST
FOLDER = ROOT / listed.TREE
COPIED = ("setup.py", "pyproject.toml", "README.md", "LICENSE")
STAMP = ".made-of"

SWITCH_C = f'''"""Made by tools/mutant_tree.py: which mutant this process shows."""

cdef extern from *:
    """
    #include <stdlib.h>
    static int multiraft_mutant(void) {{
        static int number = -1;
        if (number < 0) {{
            const char* given = getenv("{VARIABLE}");
            number = given == NULL ? 0 : atoi(given);
        }}
        return number;
    }}
    """
    int multiraft_mutant() noexcept nogil
'''
SWITCH_PYTHON = f'''"""Made by tools/mutant_tree.py: which mutant this process shows."""

import os

NUMBER = int(os.environ.get("{VARIABLE}", "0"))
'''


def wrong_edits(mutants: Iterable[Mutant], root: Path = ROOT) -> list[str]:
    """What keeps the list from being applied, one line each."""
    wrong: list[str] = []
    taken: dict[str, list[tuple[int, int, str]]] = {}
    for mutant in mutants:
        if not any("MUTANT" in edit.replace for edit in mutant.edits):
            wrong.append(f"{mutant.name}: no edit has MUTANT in it")
        for edit in mutant.edits:
            text = (root / edit.file).read_text("utf-8")
            count = text.count(edit.find)
            if count != 1:
                wrong.append(f"{mutant.name}: {edit.file} has {count} times {edit.find!r}")
                continue
            start = text.index(edit.find)
            taken.setdefault(edit.file, []).append((start, start + len(edit.find), mutant.name))
    for file, spans in taken.items():
        spans.sort()
        for (_, end, one), (start, _, other) in itertools.pairwise(spans):
            if start < end:
                wrong.append(f"{file}: the edits of {one} and {other} overlap")
    return wrong


def edited(file: str, text: str, edits: Sequence[tuple[int, Edit]]) -> str:
    """A file with all its switches. ``edits`` are (number of the mutant, edit)."""
    compiled = not file.endswith(".py")
    for number, edit in sorted(edits, key=lambda one: text.index(one[1].find), reverse=True):
        condition = f"({'multiraft_mutant()' if compiled else '_MUTANT'} == {number})"
        at = text.index(edit.find)
        new = edit.replace.replace("MUTANT", condition)
        text = text[:at] + new + text[at + len(edit.find) :]
    line = (
        "from multiraft._mutant cimport multiraft_mutant\n"
        if compiled
        else "from multiraft._mutant import NUMBER as _MUTANT\n"
    )
    at = first_import(text)
    return text[:at] + line + text[at:]


def first_import(text: str) -> int:
    """Where the first import stands that may have another before it."""
    at = 0
    for number, part in enumerate(text.splitlines(keepends=True)):
        if part.startswith(("from ", "import ", "cimport ")) and "__future__" not in part:
            return at
        at += len(part)
        if number > 200:
            break
    raise SystemExit("a file without imports has no place for the switch")


def sources(root: Path = ROOT) -> list[str]:
    """What the tree is made of, without what was compiled."""
    kept = (".py", ".pyx", ".pxd", ".pyi", ".typed")
    found = [path for path in (root / "multiraft").rglob("*") if path.suffix in kept]
    return [*COPIED, *sorted(path.relative_to(root).as_posix() for path in found)]


def digest(root: Path = ROOT) -> str:
    """Of everything that the tree is made of."""
    sum_ = hashlib.sha256(sys.version.encode())
    for name in (*sources(root), LIST.relative_to(ROOT).as_posix(), "tools/mutant_tree.py"):
        sum_.update(name.encode() + b"\0" + (root / name).read_bytes())
    return sum_.hexdigest()


def is_fresh() -> bool:
    """Is the tree that lies there the one of these sources?"""
    stamp = FOLDER / STAMP
    return stamp.exists() and stamp.read_text("utf-8") == digest()


def write_tree(mutants: Sequence[Mutant]) -> None:
    """Bring the copy up to date; files that would not change are left alone, so that little is compiled again."""
    edits: dict[str, list[tuple[int, Edit]]] = {}
    for mutant in mutants:
        for edit in mutant.edits:
            edits.setdefault(edit.file, []).append((mutant.number, edit))
    wanted = {name: (ROOT / name).read_text("utf-8") for name in sources()}
    for file, its in edits.items():
        wanted[file] = edited(file, wanted[file], its)
    wanted["multiraft/_mutant.pxd"] = SWITCH_C
    wanted["multiraft/_mutant.py"] = SWITCH_PYTHON
    for path in (FOLDER / "multiraft").rglob("*"):
        name = path.relative_to(FOLDER).as_posix()
        if path.suffix in (".py", ".pyx", ".pxd", ".pyi") and name not in wanted:
            path.unlink()
    for name, text in wanted.items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def make(jobs: int | None = None) -> Path:
    """Make the tree, unless the one that lies there is it. Raises SystemExit with what is wrong."""
    if is_fresh():
        return FOLDER
    mutants = read_list(LIST)
    if wrong := wrong_edits(mutants):
        raise SystemExit("the list of mutants does not fit the sources:\n" + "\n".join(wrong))
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / STAMP).unlink(missing_ok=True)
    write_tree(mutants)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("MULTIRAFT_")
    }
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    if jobs is not None:
        command.append(f"--parallel={jobs}")
    done = subprocess.run(command, cwd=FOLDER, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the mutated tree does not compile:\n{done.stdout[-2000:]}{done.stderr}")
    (FOLDER / STAMP).write_text(digest(), "utf-8")
    return FOLDER


def remove() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)


def main(arguments: Sequence[str]) -> int:
    if "--check" in arguments:
        wrong = wrong_edits(read_list(LIST))
        print("\n".join(wrong) or ("fresh" if is_fresh() else "to be made"))
        return 1 if wrong else 0
    print(make())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
