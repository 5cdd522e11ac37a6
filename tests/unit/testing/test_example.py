"""The example of docs/testing.md, run as a reader would run it, and its history judged again from the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from multiraft.testing import Register, Verdict
from multiraft.testing.checking import check_command

EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "examples" / "check_history.py"


@pytest.mark.slow
def test_the_example_runs(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, str(EXAMPLE)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == "linearizable: 200 operations in 1 parts, by the model register\n"
    again: Verdict = check_command(tmp_path / "history.jsonl", Register())
    assert again.ok and again.statistics.outcomes == {"ok": 200}
