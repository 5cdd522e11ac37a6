"""The rings: who may import, or cimport, whom. An arrow points only to a lower ring (architecture, section 2).

Every direct child of the package has a place in the table below; one that has none is refused, so that a new module is
put into a ring on purpose. Children of one place (log, transport, machine) never import each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tools.tidy.source import Import, Source, Violation, imports_of

PACKAGE = "multiraft"

# Lower numbers are lower rings. Tens are the rings of the architecture, units the order inside the flat ones.
RINGS: dict[str, int] = {
    # vocabulary
    "errors": 0,
    "ids": 0,
    "config": 1,
    "histogram": 1,
    "outside": 1,
    "interfaces": 2,
    # ring 0: `_core` is the leaf; `_crc32c` is the C that it is made of, a header alone
    "_crc32c": 9,
    "_core": 10,
    "_batch": 11,
    "_frames": 11,
    "_routes": 11,
    "_ticket": 11,
    "records": 12,
    # ring 1: sans-I/O
    "raft": 20,
    "placement": 20,
    # threads and files, out of reach of rings 0 and 1
    "disk": 25,
    "doubt": 25,
    "worker": 25,
    # ring 2: one resource each
    "log": 30,
    "transport": 30,
    "machine": 30,
    # ring 3
    "node": 40,
    # ring 4: faces
    "client": 50,
    "sync": 51,
    "": 52,  # multiraft/__init__.py
    "cli": 53,
    "__main__": 54,
    # imported by nothing above
    "testing": 60,
}

# What lies so low that nothing of ours lies below it.
VOCABULARY = 10


def unit_of_path(path: str) -> str | None:
    """The child of the package that a file belongs to; "" is the package's own face, None another tree."""
    parts = path.split("/")
    if parts[0] != PACKAGE or len(parts) < 2:
        return None
    unit = parts[1].split(".")[0]
    return "" if unit == "__init__" else unit


def unit_of_import(found: Import) -> str | None:
    """The child of the package that an import reaches; None for anything that is not ours."""
    parts = found.module.split(".")
    if parts[0] != PACKAGE:
        return None
    if len(parts) > 1:
        return parts[1]
    return found.name if found.name in RINGS else ""


def check_layers(sources: Iterable[Source]) -> Iterator[Violation]:
    """No arrow up, none between siblings, no child without a place."""
    for source in sources:
        own = unit_of_path(source.path)
        if own is None:
            continue
        if own not in RINGS:
            yield Violation(
                "layers",
                source.path,
                1,
                f"'{own}' has no ring: give it one in tools/tidy/layers.py",
            )
            continue
        for found in imports_of(source):
            other = unit_of_import(found)
            if other is None or other == own:
                continue
            if other not in RINGS or RINGS[other] >= RINGS[own]:
                what = "cimports" if found.cimport else "imports"
                name = f"{found.module}.{found.name}" if found.name else found.module
                yield Violation(
                    "layers", source.path, found.line, f"{what} {name}, which lies no lower", name
                )


def check_cimport_cycles(sources: Iterable[Source]) -> Iterator[Violation]:
    """Compiled modules form a tree of cimports: a cycle would have to be compiled, and read, as one."""
    graph: dict[str, set[str]] = {}
    for source in sources:
        if source.compiled:
            own = module_of(source.path)
            graph.setdefault(own, set()).update(cimported_modules(source) - {own})
    for module in sorted(graph):
        reached, front = set(), set(graph[module])
        while front:
            reached |= front
            front = set().union(*(graph.get(m, set()) for m in front)) - reached
        if module in reached:
            yield Violation(
                "cimport-cycle",
                module.replace(".", "/") + ".pyx",
                1,
                f"{module} cimports itself in the end",
            )


def module_of(path: str) -> str:
    return path.rsplit(".", 1)[0].replace("/", ".").removesuffix(".__init__")


def cimported_modules(source: Source) -> set[str]:
    """Modules of ours that a compiled file cimports from; `from package cimport module` counts as the module."""
    found: set[str] = set()
    for item in imports_of(source):
        if item.cimport and item.module.split(".")[0] == PACKAGE:
            found |= {item.module, f"{item.module}.{item.name}"}
    return found
