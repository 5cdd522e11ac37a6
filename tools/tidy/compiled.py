"""The habits of Cython files that the compiler does not ask for: exception contracts, final classes, no `DEF` or `IF`.

A C function that says nothing about exceptions gets a default that has changed between Cython releases; each of ours says
what it does. Functions that return Python objects need not: NULL is their contract.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from tools.tidy.source import Source, Violation, after_arguments, functions_of, logical_lines

C_FUNCTION = re.compile(
    r"^(?:cdef|cpdef)\s+(?:(?:inline|public|api)\s+)*(?P<type>.*?)\s*\b(?P<name>\w+)\s*\("
)
CONTRACT = re.compile(r"\b(noexcept|except)\b")
PYTHON_TYPES = frozenset(
    "object bytes bytearray memoryview list tuple dict set frozenset str type".split()
)
CLASS_LINE = re.compile(r"^\s*cdef\s+(?:public\s+|api\s+)*class\s+(\w+)")
COMPILE_TIME = re.compile(r"^\s*(DEF\s+\w+\s*=|IF\s+.*:)")
LINE_COLUMNS_MAX = 132


def check_contracts(sources: Iterable[Source]) -> Iterator[Violation]:
    for source in sources:
        if not source.compiled:
            continue
        for function in functions_of(source):
            match = C_FUNCTION.match(function.head)
            if match is None or returns_object(match.group("type")):
                continue
            if not CONTRACT.search(after_arguments(function.head, match.end())):
                message = (
                    f"{function.name} does not say what an exception does: noexcept, or except ..."
                )
                yield Violation("contract", source.path, function.line, message, function.name)


def returns_object(return_type: str) -> bool:
    """Nothing, a builtin type or an extension class; C types begin with a small letter, end in `*` or say `struct`."""
    words = return_type.replace("const ", "").split()
    if not words:
        return True
    if return_type.endswith("*") or len(words) > 1:
        return False
    return words[0] in PYTHON_TYPES or words[0][0].isupper()


def check_final_classes(sources: Iterable[Source]) -> Iterator[Violation]:
    """A subclass of a compiled class could break what its C code assumes."""
    for source in sources:
        if not source.path.endswith(".pyx"):
            continue
        decorators: list[str] = []
        for line, _, text in logical_lines(source.code):
            if text.lstrip().startswith("@"):
                decorators.append(text.strip())
            elif text.strip():
                match = CLASS_LINE.match(text)
                if match and not any(decorator.endswith("final") for decorator in decorators):
                    yield Violation(
                        "final", source.path, line, f"{match.group(1)} is not @cython.final"
                    )
                decorators = []


def check_compile_time(sources: Iterable[Source]) -> Iterator[Violation]:
    for source in sources:
        if source.compiled:
            for number, line in enumerate(source.code.splitlines(), 1):
                if COMPILE_TIME.match(line):
                    yield Violation(
                        "compile-time",
                        source.path,
                        number,
                        "no DEF and no IF: use a C macro or an enum",
                    )
                if len(source.lines[number - 1]) > LINE_COLUMNS_MAX:
                    yield Violation(
                        "columns", source.path, number, f"longer than {LINE_COLUMNS_MAX} columns"
                    )
