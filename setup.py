"""Builds the compiled modules; everything else about the package stands in pyproject.toml.

``MULTIRAFT_DEBUG=1`` makes the debug build: bounds checks, line tracing and the invariant checks that a release build
compiles out. It keeps its generated C in a folder of its own, so that the two builds never mix.
"""

from __future__ import annotations

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("MULTIRAFT_DEBUG") == "1"

MACROS = [("MULTIRAFT_DEBUG", "1" if DEBUG else "0")]
if DEBUG:
    MACROS += [("CYTHON_TRACE", "1"), ("CYTHON_TRACE_NOGIL", "1")]

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": DEBUG,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": DEBUG,
    "binding": True,
    "embedsignature": True,
    "auto_pickle": False,
    "linetrace": DEBUG,
    "freethreading_compatible": False,
}

SOURCES = sorted(Path("multiraft").rglob("*.pyx"))


def module_of(path: Path) -> str:
    return ".".join(path.with_suffix("").parts)


setup(
    ext_modules=cythonize(
        [
            Extension(
                module_of(path),
                [str(path)],
                define_macros=MACROS,
                extra_compile_args=["-g", "-O1"] if DEBUG else ["-O2", "-g0"],
            )
            for path in SOURCES
        ],
        build_dir="build/cython-debug" if DEBUG else "build/cython",
        compiler_directives=DIRECTIVES,
        nthreads=0,
    )
)
