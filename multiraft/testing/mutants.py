"""``python -m multiraft.testing mutants``: known bugs put back one at a time, to see that the simulator finds each.

What does it (``tools/mutants.py``) needs the sources: it makes a copy of them with all mutants as switches, compiles that, and runs
seeds in it. A package that was installed has no sources, and says so. Nothing here is part of a node.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TOOL = Path("tools") / "mutants.py"


def main(arguments: Sequence[str]) -> int:
    """Exit code 1 where a mutant was not found, 2 where none could be run."""
    root = Path(__file__).resolve().parents[2]
    if not (root / TOOL).exists():
        sys.stderr.write(
            "mutants need the sources with their tests: run this from a checkout that `make build` has built\n"
        )
        return 2
    return subprocess.run([sys.executable, "-m", "tools.mutants", *arguments], cwd=root).returncode
