"""Lint, format, types and stubs, as tests, so that plain `pytest` knows all that a review would ask."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tools.stale import compiled_of

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.slow


def run(*command: str) -> None:
    """Run a tool of this environment at the root; its own words are the failure's."""
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.fail(done.stdout + done.stderr, pytrace=False)


def compiled_modules_with_stubs() -> list[str]:
    built = Path(importlib.util.find_spec("multiraft").origin).parents[1]
    return [
        ".".join(source.relative_to(ROOT).with_suffix("").parts)
        for source in sorted((ROOT / "multiraft").rglob("*.pyx"))
        if source.with_suffix(".pyi").exists() and compiled_of(source, ROOT, built).exists()
    ]


def test_ruff_finds_nothing() -> None:
    run("ruff", "check", "--no-cache", "--output-format=concise")


def test_every_file_is_formatted() -> None:
    run("ruff", "format", "--check", "--no-cache", "--output-format=concise")


@pytest.mark.timeout(300)
def test_mypy_is_content_with_the_package() -> None:
    run("mypy")


@pytest.mark.timeout(300)
def test_stubs_say_what_the_compiled_modules_are() -> None:
    modules = compiled_modules_with_stubs()
    if not modules:
        pytest.skip("no compiled module with a stub here: run `make build`")
    run(
        "mypy.stubtest",
        "--mypy-config-file=tests/stubtest.ini",
        "--allowlist=tests/stubtest_allowlist.txt",
        *modules,
    )


def test_every_stub_is_one_of_a_compiled_module() -> None:
    for stub in sorted((ROOT / "multiraft").rglob("*.pyi")):
        assert stub.with_suffix(".pyx").exists(), f"{stub.name} is a stub of nothing"
