"""The shape of files: lengths, opening words, and a few constructs that hide what went wrong.

Readers are comfortable with short functions and files; what everyone dislikes is the tail, so it is the tail that is
policed. Above the first limit an entry in the ratchet list is needed, above the second nothing helps.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator

from tools.tidy.source import Source, Violation, functions_of

FUNCTION_LINES, FUNCTION_LINES_MAX = 50, 70
FILE_LINES = {".py": 400, ".pyi": 400, ".pxd": 400, ".pyx": 700}
FILE_LINES_MAX = (
    800  # for tests the only limit: short tests in the order of their sentences read well as a list
)
OPENING_WORDS_MIN = 6
REASON_WORDS_MIN = 3

BARE_EXCEPT = re.compile(r"^\s*except\s*:")
EXCEPT_LINE = re.compile(r"^\s*except\b[^:]*:\s*(.*)$")
NOTHING = re.compile(r"^\s*(pass|\.\.\.)\s*$")
ASSERT = re.compile(r"^\s*assert\b")
GLOBAL = re.compile(r"^\s*global\b")
BROAD_SUPPRESS = re.compile(r"\bsuppress\s*\(\s*(Exception|BaseException)\b")


def check_function_lengths(sources: Iterable[Source]) -> Iterator[Violation]:
    for source in sources:
        for function in functions_of(source):
            if function.length > FUNCTION_LINES_MAX:
                message = f"{function.name} has {function.length} lines; nothing above {FUNCTION_LINES_MAX} is taken"
                yield Violation("function-too-long", source.path, function.line, message)
            elif function.length > FUNCTION_LINES:
                message = f"{function.name} has {function.length} lines, over {FUNCTION_LINES}"
                yield Violation(
                    "function-length",
                    source.path,
                    function.line,
                    message,
                    function.name,
                    function.length,
                )


def check_file_lengths(sources: Iterable[Source]) -> Iterator[Violation]:
    for source in sources:
        length = len(source.lines)
        test = source.path.startswith("tests/")
        limit = FILE_LINES_MAX if test else FILE_LINES["." + source.path.rsplit(".", 1)[1]]
        if length > FILE_LINES_MAX:
            message = f"{length} lines; nothing above {FILE_LINES_MAX} is taken"
            yield Violation("file-too-long", source.path, 1, message)
        elif length > limit:
            yield Violation(
                "file-length", source.path, 1, f"{length} lines, over {limit}", "", length
            )


def check_openings(sources: Iterable[Source]) -> Iterator[Violation]:
    """Each module opens with what it is for. A stub is the face of a module that says so; a test package may be empty."""
    for source in sources:
        if source.path.endswith(".pyi") or (source.path.startswith("tests/") and not source.text):
            continue
        words = opening_of(source).split()
        if len(words) < OPENING_WORDS_MIN:
            said = "nothing" if not words else f"'{' '.join(words)}'"
            message = (
                f"opens with {said}: say what the module is for, what it never does, its invariants"
            )
            yield Violation("opening", source.path, 1, message)


def opening_of(source: Source) -> str:
    """The words a reader meets first: the docstring, or in a header (`.pxd`) its first block of comments."""
    if source.tree is not None:
        return only_words(ast.get_docstring(source.tree) or "")
    if source.path.endswith(".pxd"):
        comments = [line.strip() for line in source.lines]
        start = next((number for number, line in enumerate(comments) if line), 0)
        end = next(
            (n for n in range(start, len(comments)) if not comments[n].startswith("#")),
            len(comments),
        )
        return only_words(" ".join(comments[start:end]))
    match = re.match(r'(?:\s*#[^\n]*\n|\s*\n)*\s*"""(.*?)"""', source.text, re.DOTALL)
    return only_words(match.group(1) if match else "")


def only_words(text: str) -> str:
    return " ".join(re.findall(r"[\w'.-]*\w[\w'.-]*", text))


def check_excepts(sources: Iterable[Source]) -> Iterator[Violation]:
    """No `except:`, none that does nothing without a comment that says why, and no `suppress` of everything."""
    for source in sources:
        lines = source.code.splitlines()
        for number, line in enumerate(lines, 1):
            if BARE_EXCEPT.match(line):
                yield Violation("bare-except", source.path, number, "name what is caught")
            if EXCEPT_LINE.match(line) and is_silent(source, number, lines):
                yield Violation(
                    "silent-except",
                    source.path,
                    number,
                    "an error vanishes here: handle it or say why",
                )
            if match := BROAD_SUPPRESS.search(line):
                yield Violation(
                    "silent-except",
                    source.path,
                    number,
                    f"suppress({match.group(1)}) hides every error",
                )


def is_silent(source: Source, number: int, lines: list[str]) -> bool:
    """Whether the `except` on this line does nothing, and neither it nor its `pass` carries a reason."""
    match = EXCEPT_LINE.match(lines[number - 1])
    inline = match.group(1) if match else ""
    after = next((n for n in range(number, len(lines)) if lines[n].strip()), number - 1)
    deeper = indent_of(lines[after]) > indent_of(lines[number - 1])
    if not NOTHING.match(inline or (lines[after] if deeper else "")):
        return False
    said = " ".join(line.partition("#")[2] for line in source.lines[number - 1 : after + 1])
    return len(said.split()) < REASON_WORDS_MIN


def indent_of(line: str) -> int:
    return len(line) - len(line.lstrip())


def check_asserts(sources: Iterable[Source]) -> Iterator[Violation]:
    """`python -O` removes asserts: shipped code raises InvariantViolation. And nothing is a global variable."""
    for source in sources:
        if not source.path.startswith("multiraft/"):
            continue
        for number, line in enumerate(source.code.splitlines(), 1):
            if ASSERT.match(line):
                yield Violation(
                    "assert", source.path, number, "raise InvariantViolation: -O removes an assert"
                )
            if GLOBAL.match(line):
                yield Violation(
                    "global", source.path, number, "two nodes in one process would share it"
                )
