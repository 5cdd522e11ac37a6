"""Tells whether the Python that runs it can build multiraft: prints what it lacks and ends with 1, else prints nothing.

Called by `tools/find_python` once per candidate; needs nothing but the standard library, and writes nothing.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
import sysconfig


def what_lacks() -> list[str]:
    found = []
    if importlib.util.find_spec("venv") is None or importlib.util.find_spec("ensurepip") is None:
        found.append("has no venv (Debian: apt-get install python3-venv)")
    if sys.implementation.name != "cpython":
        found.append(f"is {sys.implementation.name}: only CPython is supported")
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    probe = [*compiler, "-E", "-x", "c", "-"]
    headers = [f"-I{sysconfig.get_path('include')}", f"-I{sysconfig.get_path('platinclude')}"]
    if not preprocesses(probe, "#include <stdlib.h>"):
        found.append(
            f"finds no working C compiler '{compiler[0]}' (Debian: apt-get install gcc libc6-dev, or set CC)"
        )
    elif not preprocesses(probe + headers, "#include <Python.h>"):
        found.append("has no headers (Debian: apt-get install python3-dev)")
    return found


def preprocesses(command: list[str], text: str) -> bool:
    try:
        return (
            subprocess.run(
                command, input=text.encode(), capture_output=True, check=False
            ).returncode
            == 0
        )
    except OSError:
        return False


if __name__ == "__main__":
    lacking = what_lacks()
    if lacking:
        print(", ".join(lacking))
        sys.exit(1)
