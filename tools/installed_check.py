"""Imports every module of an installed multiraft, and fails if one is missing, broken, or taken from a source tree.

Run in an environment that has the package alone: `tools/dist_check.py` does, and the wheel builds in CI.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
import sys
from pathlib import Path


def main() -> int:
    import multiraft

    place = Path(multiraft.__file__ or "").resolve()
    if "site-packages" not in place.parts:
        print(f"multiraft was imported from {place}, not from where it is installed")
        return 1
    if importlib.metadata.version("multiraft") != multiraft.__version__:
        print("the metadata and __version__ disagree")
        return 1
    names = [item.name for item in pkgutil.walk_packages(multiraft.__path__, "multiraft.")]
    for name in names:
        if not name.endswith("__main__"):
            importlib.import_module(name)
    print(f"multiraft {multiraft.__version__}: {len(names)} modules import")
    return 0


if __name__ == "__main__":
    sys.exit(main())
