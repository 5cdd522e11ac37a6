"""Pins what users may import, and the drawn tree of errors.

A change here is a change of the public face: say it in CHANGELOG.md.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from multiraft import errors

ROOT = Path(__file__).resolve().parents[1]

# Public names of `multiraft`, submodules aside.
EXPORTS = set(
    """
    Absent BatchError Client Closed CommandError Config ConfigError DeadlineExceeded Delete
    DeleteRange DiskStateMachine Entry Group GroupExists GroupUnknown InvalidCommand InvalidResult
    LeadershipEvents MultiRaftError NoSpace Node OutcomeUnknown Overloaded PreconditionFailed Present
    Put Quarantined Rejected Retryable RevisionIs StateMachine StorageError Store TlsConfig TooLarge
    ValueIs open
    """.split()
)

PUBLIC_NAMES = """
import json, sys, types, multiraft
names = [n for n, v in vars(multiraft).items() if not n.startswith("_") and not isinstance(v, types.ModuleType)]
names.remove("annotations") if "annotations" in names else None
print(json.dumps([names, multiraft.__version__]))
"""


def test_the_exports_are_those_that_are_pinned() -> None:
    run = subprocess.run(
        [sys.executable, "-c", PUBLIC_NAMES], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names, version = json.loads(run.stdout)
    assert set(names) == EXPORTS
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", version)


def drawn_tree(text: str) -> dict[str, str]:
    """Class -> base, as the boxes of the docstring draw it. Several on a line are siblings."""
    bases: dict[str, str] = {}
    above: dict[int, str] = {}
    for line in text.splitlines():
        match = re.match(r"^ {4}([ │├└─]*)((?:[A-Z]\w+(?: {2,}|$))+)", line)
        if match:
            depth = len(match.group(1)) // 4
            for name in match.group(2).split():
                above[depth] = name
                bases[name] = above.get(depth - 1, "Exception")
    return bases


def test_the_drawn_tree_of_errors_is_the_real_one() -> None:
    real = {
        name: kind.__bases__[0].__name__
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, Exception)
    }
    assert drawn_tree(errors.__doc__ or "") == real
