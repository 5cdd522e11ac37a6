"""Builds the compiled modules; everything else about the package stands in pyproject.toml.

The release build goes in place: each compiled module lies beside its source, and nowhere else, so that there is one
copy to go stale and ``tests/conftest.py`` can tell when it has. Generated C stays under ``build/``.

``MULTIRAFT_DEBUG=1`` makes the debug build: bounds checks, line tracing and the invariant checks that a release build
compiles out. It has folders of its own and is refused in place, so that the two builds never mix (``make debug``).
``MULTIRAFT_NO_EXTENSIONS=1`` installs the Python part alone: ``make venv`` registers the source tree with it before
``make build`` compiles, since an editable install would compile everything anew each time.
"""

from __future__ import annotations

import os
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("MULTIRAFT_DEBUG") == "1"
NO_EXTENSIONS = os.environ.get("MULTIRAFT_NO_EXTENSIONS") == "1"

PACKAGE = Path("multiraft")
C_FOLDER = Path("build/cython-debug" if DEBUG else "build/cython")

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


def extension_of(path: Path) -> Extension:
    """One module of its own; a change of this file, too, makes it stale."""
    return Extension(
        ".".join(path.with_suffix("").parts),
        [path.as_posix()],
        depends=["setup.py"],
        define_macros=MACROS,
        extra_compile_args=["-O1", "-g"] if DEBUG else ["-O2", "-g0"],
    )


def older_than_setup(extension: Extension) -> bool:
    """Whether its C was generated before this file last changed, so perhaps under other directives."""
    generated = C_FOLDER / Path(extension.sources[0]).with_suffix(".c")
    return generated.exists() and generated.stat().st_mtime < Path("setup.py").stat().st_mtime


class BuildExtensions(build_ext):
    """Translates when it compiles and no earlier, on all cores; an sdist lists ``.pyx`` and never needs the C."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = int(self.parallel or os.cpu_count() or 1)

    def run(self) -> None:
        if DEBUG and (self.inplace or self.editable_mode):
            raise SystemExit(
                "the debug build never goes in place, where it would pass for the other: run `make debug`"
            )
        super().run()
        if self.inplace:
            remove_orphans()

    def build_extensions(self) -> None:
        from Cython.Build import cythonize

        translated = cythonize(
            self.extensions,
            build_dir=C_FOLDER.as_posix(),
            compiler_directives=DIRECTIVES,
            annotate="fullc" if os.environ.get("MULTIRAFT_ANNOTATE") == "1" else None,
            force=self.force or any(older_than_setup(extension) for extension in self.extensions),
            nthreads=0 if self.parallel == 1 else self.parallel,
        )
        # cythonize answers copies, without what this command has already noted on the originals.
        for extension, copy in zip(self.extensions, translated, strict=True):
            extension.sources, extension.depends = copy.sources, copy.depends
        super().build_extensions()


def remove_orphans() -> None:
    """Delete compiled modules whose source is gone: they would go on to be imported."""
    for compiled in PACKAGE.rglob("*" + EXTENSION_SUFFIXES[0]):
        name = compiled.name.removesuffix(EXTENSION_SUFFIXES[0])
        if not compiled.with_name(name + ".pyx").exists():
            compiled.unlink()


# The guard is for platforms that start cythonize's workers by importing this file again.
if __name__ == "__main__":
    setup(
        ext_modules=[]
        if NO_EXTENSIONS
        else [extension_of(p) for p in sorted(PACKAGE.rglob("*.pyx"))],
        cmdclass={"build_ext": BuildExtensions},
    )
