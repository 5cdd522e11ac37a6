"""Tries a built sdist and wheel as a user would: looks into both, installs each in a fresh environment, imports every module,
and runs the quick tests of the sdist, without the sources beside them, against the wheel.

    python -m tools.dist_check dist

The sdist must hold the sources of the compiled modules and the tests; the wheel must hold the compiled modules and their
stubs, and neither their sources nor generated C. Nothing of the work tree is on the path of the environments.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
IN_SDIST = [
    "pyproject.toml",
    "setup.py",
    "Makefile",
    "LICENSE",
    "tests/conftest.py",
    "tools/stale.py",
    "docs/formats.md",
]


def names_of_sdist(path: Path) -> set[str]:
    with tarfile.open(path) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def names_of_wheel(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def missing_from_sdist(names: set[str]) -> list[str]:
    """Sources that git tracks and the sdist lacks, and what it should not carry."""
    sources = [
        p.relative_to(ROOT).as_posix()
        for p in (ROOT / "multiraft").rglob("*")
        if p.suffix != ".so" and p.is_file()
    ]
    wanted = IN_SDIST + [name for name in sources if "__pycache__" not in name]
    found = [f"the sdist lacks {name}" for name in wanted if name not in names]
    return found + [
        f"the sdist carries {name}"
        for name in sorted(names)
        if name.endswith((".c", ".so", ".pyc"))
    ]


def wrong_in_wheel(names: set[str]) -> list[str]:
    """What the wheel lacks of the source tree, and what no user of a wheel needs."""
    found = []
    for source in sorted((ROOT / "multiraft").rglob("*")):
        name = source.relative_to(ROOT).as_posix()
        if source.suffix in (".py", ".pyi", ".typed") and name not in names:
            found.append(f"the wheel lacks {name}")
        stem = name.removesuffix(".pyx") + "."
        if source.suffix == ".pyx" and not any(
            n.startswith(stem) and n.endswith(".so") for n in names
        ):
            found.append(f"the wheel lacks the compiled {name}")
    unwanted = [
        name for name in sorted(names) if name.endswith((".c", ".pyx", ".pxd", ".html", ".pyc"))
    ]
    outside = [name for name in sorted(names) if not name.startswith(("multiraft/", "multiraft-"))]
    return found + [f"the wheel carries {name}" for name in unwanted + outside]


def try_install(package: Path, folder: Path) -> None:
    """Install into a new environment and import every module there, from a folder that holds nothing."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, str(package.resolve())], check=True)
    script = ROOT / "tools" / "installed_check.py"
    subprocess.run([str(python), "-P", str(script)], cwd=folder, check=True)


def try_tests(sdist: Path, wheel: Path, folder: Path) -> None:
    """Run the sdist's quick tests against the installed wheel: nothing of a source tree is beside them."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (tree,) = folder.iterdir()
    shutil.rmtree(tree / "multiraft")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    python = environment / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, f"{wheel.resolve()}[test]"], check=True)
    quick = [
        "-q",
        "-m",
        "not slow and not cluster",
        "tests/unit",
        "tests/spec",
        "tests/transcripts",
    ]
    subprocess.run([str(python), "-m", "pytest", *quick], cwd=tree, check=True)


def one(paths: Iterable[Path], what: str) -> Path:
    found = list(paths)
    if len(found) != 1:
        raise SystemExit(f"expected one {what}, found {[path.name for path in found]}")
    return found[0]


def main(arguments: list[str]) -> int:
    folder = Path(arguments[0] if arguments else "dist")
    sdist, wheel = one(folder.glob("*.tar.gz"), "sdist"), one(folder.glob("*.whl"), "wheel")
    problems = missing_from_sdist(names_of_sdist(sdist)) + wrong_in_wheel(names_of_wheel(wheel))
    print("\n".join(problems) or f"{sdist.name} and {wheel.name} hold what they should")
    if problems:
        return 1
    with tempfile.TemporaryDirectory() as scratch:
        for package in (wheel, sdist):
            try_install(package, Path(scratch) / package.suffix.strip("."))
            print(f"{package.name} installs and imports")
        try_tests(sdist, wheel, Path(scratch) / "tests")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
