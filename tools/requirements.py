"""Prints what pip has to install before multiraft can be built in place: its dependencies and the extras that are named.

    python tools/requirements.py test release

pyproject.toml is the one place that lists them. `pip install -e '.[test]'` would install the same, but would also compile
everything anew in a folder that it throws away.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def requirements(extras: list[str]) -> list[str]:
    data = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    project = data["project"]
    found: list[str] = [*data["build-system"]["requires"], *project["dependencies"]]
    for extra in extras:
        found += project["optional-dependencies"][extra]
    return sorted(set(found))


if __name__ == "__main__":
    print("\n".join(requirements(sys.argv[1:])))
