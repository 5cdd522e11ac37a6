"""The package around the code: what pyproject.toml promises is there, and what an sdist and a wheel must hold is known."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tools import dist_check
from tools.requirements import requirements

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_every_entry_point_resolves(pyproject: dict) -> None:
    for place in pyproject["project"]["scripts"].values():
        module, _, name = place.partition(":")
        assert callable(getattr(importlib.import_module(module), name, None)), place
    for module in pyproject["project"]["entry-points"]["pytest11"].values():
        importlib.import_module(module)


def test_what_compiles_is_what_is_tested(pyproject: dict[str, Any]) -> None:
    """The in-place build uses the Cython and setuptools of the environment: the same as an isolated build gets."""
    assert set(pyproject["build-system"]["requires"]) <= set(requirements(["test"]))
    listed = pyproject["project"]["optional-dependencies"]["test"]
    names = [item.split(">")[0] for item in listed]
    assert len(set(names)) == len(names)
    for extra in pyproject["build-system"]["requires"]:
        assert extra in listed


def test_the_wheel_check_bites() -> None:
    sources = {
        p.relative_to(ROOT).as_posix() for p in (ROOT / "multiraft").rglob("*") if p.is_file()
    }
    python = {name for name in sources if name.endswith((".py", ".pyi", ".typed"))}
    compiled = {name.removesuffix(".pyx") + ".abi.so" for name in sources if name.endswith(".pyx")}
    whole = python | compiled | {"multiraft-1.dist-info/METADATA"}
    assert dist_check.wrong_in_wheel(whole) == []
    assert dist_check.wrong_in_wheel(whole - {"multiraft/py.typed"}) == [
        "the wheel lacks multiraft/py.typed"
    ]
    assert dist_check.wrong_in_wheel(whole | {"multiraft/_core.c"}) == [
        "the wheel carries multiraft/_core.c"
    ]
    assert dist_check.wrong_in_wheel(whole | {"multiraft/_core.pxd"}) == [
        "the wheel carries multiraft/_core.pxd"
    ]
    assert dist_check.wrong_in_wheel(whole | {"tools/stale.py"}) == [
        "the wheel carries tools/stale.py"
    ]


def test_the_sdist_check_bites() -> None:
    tracked = {p.relative_to(ROOT).as_posix() for p in ROOT.rglob("*") if p.is_file()}
    whole = {n for n in tracked if not n.endswith((".c", ".so", ".pyc"))}
    assert dist_check.missing_from_sdist(whole) == []
    assert dist_check.missing_from_sdist(whole - {"multiraft/_core.pxd"}) == [
        "the sdist lacks multiraft/_core.pxd"
    ]
    assert dist_check.missing_from_sdist(whole | {"multiraft/_core.c"}) == [
        "the sdist carries multiraft/_core.c"
    ]


@pytest.mark.slow
def test_the_debug_build_never_goes_in_place() -> None:
    run = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"],
        cwd=ROOT,
        env={"MULTIRAFT_DEBUG": "1", "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode != 0
    assert "make debug" in run.stderr


@pytest.mark.slow
def test_an_old_or_broken_python_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    finder = ROOT / "tools" / "find_python"
    good = subprocess.run(
        ["sh", str(finder)],
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert good.stdout.strip() == sys.executable
    no_compiler = subprocess.run(
        ["sh", str(finder)],
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin", "CC": "no-such-compiler"},
        capture_output=True,
        text=True,
    )
    assert no_compiler.returncode == 1
    assert "no working C compiler 'no-such-compiler'" in no_compiler.stderr
    old = tmp_path / "python3.7"
    old.write_text('#!/bin/sh\ncase "$2" in *exit*) exit 1;; *) echo 3.7;; esac\n')
    old.chmod(0o755)
    refused = subprocess.run(
        ["sh", str(finder)],
        env={"PYTHON": str(old), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 1
    assert "is Python 3.7: 3.11 or later is needed" in refused.stderr
