"""Tells whether the compiled modules are those of the sources that one looks at.

An edited `.pyx` changes nothing until it is compiled, and the old module goes on to answer in its place; so the test run
asks here first and stops with "run `make build`". A module is stale when it is older than its source, than any header
that it cimports from directly or in the end, or than `setup.py`, which holds the directives; or when its source is gone.
Also: `python -m tools.stale` (exit code 1 when something is).
"""

from __future__ import annotations

import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from tools.tidy.layers import cimported_modules
from tools.tidy.source import make_source

ROOT = Path(__file__).resolve().parents[1]
SUFFIX = EXTENSION_SUFFIXES[0]


def compiled_of(source: Path, root: Path, built: Path) -> Path:
    """Where the module of `root/.../x.pyx` lies under `built`: the same folder unless it is a debug build."""
    beside = built / source.relative_to(root)
    return beside.with_name(source.stem + SUFFIX)


def headers_of(source: Path, root: Path) -> set[Path]:
    """Every `.pxd` of ours that takes part when `source` is compiled."""
    found: set[Path] = set()
    front = [source, source.with_suffix(".pxd")]
    while front:
        path = front.pop()
        if path in found or not path.exists():
            continue
        found.add(path)
        text = path.read_text(encoding="utf-8")
        for module in cimported_modules(make_source(path.relative_to(root).as_posix(), text)):
            place = root / module.replace(".", "/")
            front += [place.with_suffix(".pxd"), place / "__init__.pxd"]
    return found


def missing_modules(root: Path = ROOT, built: Path | None = None) -> list[str]:
    """Sources that have never been compiled for this interpreter."""
    sources = sorted((root / "multiraft").rglob("*.pyx"))
    return [
        source.relative_to(root).as_posix()
        for source in sources
        if not compiled_of(source, root, built or root).exists()
    ]


def stale_modules(root: Path = ROOT, built: Path | None = None) -> list[str]:
    """One sentence for each compiled module, and for each copied Python file, that is not what its source says."""
    built = built or root
    found = []
    for source in sorted((root / "multiraft").rglob("*.pyx")):
        compiled = compiled_of(source, root, built)
        if not compiled.exists():
            continue
        made = compiled.stat().st_mtime
        inputs = sorted(headers_of(source, root) | {root / "setup.py"})
        newer = [path for path in inputs if path.exists() and path.stat().st_mtime > made]
        if newer:
            found.append(f"{compiled.name} is older than {newer[0].relative_to(root).as_posix()}")
    for compiled in sorted((built / "multiraft").rglob("*" + SUFFIX)):
        name = compiled.name.removesuffix(SUFFIX) + ".pyx"
        source = root / compiled.relative_to(built).with_name(name)
        if not source.exists():
            found.append(f"{compiled.name} has no source {source.relative_to(root).as_posix()}")
    return found + (stale_copies(root, built) if built != root else [])


def stale_copies(root: Path, built: Path) -> list[str]:
    """Python files of a build in a folder of its own that are missing there, or older than their source."""
    found = []
    for source in sorted((root / "multiraft").rglob("*.py")):
        copy = built / source.relative_to(root)
        if not copy.exists() or copy.stat().st_mtime < source.stat().st_mtime:
            found.append(
                f"{copy.relative_to(built).as_posix()} is not a copy of what the source says now"
            )
    return found


def main() -> int:
    found = stale_modules() + [f"{name} is not compiled" for name in missing_modules()]
    print("\n".join(found) if found else "every compiled module is as new as its source")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
