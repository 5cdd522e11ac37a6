"""Prints every violation of the tree that it stands in, and ends with 1 if there are any: `python -m tools.tidy`."""

from __future__ import annotations

import sys
from pathlib import Path

from tools.tidy.rules import all_violations

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    violations = all_violations(ROOT)
    for violation in violations:
        print(violation)
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
