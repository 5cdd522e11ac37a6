"""Reads sources for the rules: what a file imports, which functions it has, and its code without strings and comments.

Python is read through its syntax tree. Cython has no parser that can be borrowed without compiling, so its files are
read line by line, after strings and comments are blanked; that is exact enough for import lines, `def` lines and
indentation, and it is all that the rules ask for. Nothing here imports what it reads.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

COMPILED_SUFFIXES = (".pyx", ".pxd")
PYTHON_SUFFIXES = (".py", ".pyi")

# A string of either kind with its prefix, or a comment: whichever starts first swallows what follows.
STRING_OR_COMMENT = re.compile(
    r"""("{3}(?:\\.|[^\\])*?"{3}|'{3}(?:\\.|[^\\])*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|\#[^\n]*""",
    re.DOTALL,
)
IMPORT_LINE = re.compile(r"^\s*(?:from\s+([\w.]+)\s+)?(c?import)\s+(.+)$")
FUNCTION_LINE = re.compile(r"^(\s*)(?:async\s+)?(?:def|cdef|cpdef)\s+(.*)$")
NOT_A_FUNCTION = re.compile(r"^(?:public\s+|packed\s+)*(?:class|struct|union|enum|extern|packed)\b")
FUNCTION_NAME = re.compile(r"[^=(]*?(\w+)\s*\((?!\s*\*)")


@dataclass(frozen=True, slots=True)
class Violation:
    """A law that a file breaks. `name` and `size` are what the ratchet compares, where the rule has such."""

    rule: str
    path: str
    line: int
    message: str
    name: str = ""
    size: int = 0

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message} [{self.rule}]"


@dataclass(frozen=True, slots=True)
class Import:
    """One imported name: `module` as it is written out in full, `name` where it is `from module import name`."""

    line: int
    module: str
    name: str = ""
    cimport: bool = False


@dataclass(frozen=True, slots=True)
class Function:
    """One function or method; `head` is its signature on one line, which ends on line `head_end`."""

    name: str
    line: int
    head_end: int
    end: int
    head: str

    @property
    def length(self) -> int:
        return self.end - self.line + 1


@dataclass(frozen=True, slots=True)
class Source:
    """One file. `path` is relative to the root of the project; `code` has the strings and comments blanked."""

    path: str
    text: str
    code: str
    tree: ast.Module | None = field(repr=False)

    @property
    def compiled(self) -> bool:
        return self.path.endswith(COMPILED_SUFFIXES)

    @property
    def python(self) -> bool:
        return self.path.endswith(PYTHON_SUFFIXES)

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()


def make_source(path: str, text: str) -> Source:
    python = path.endswith(PYTHON_SUFFIXES)
    tree = ast.parse(text, path) if python else None
    return Source(
        path, text, blank(text) if python or path.endswith(COMPILED_SUFFIXES) else text, tree
    )


def read_sources(root: Path, *folders: str) -> list[Source]:
    """Every Python and Cython file under these folders of the root, in order of their paths."""
    files = (
        path
        for folder in folders
        for path in sorted((root / folder).rglob("*"))
        if path.suffix in COMPILED_SUFFIXES + PYTHON_SUFFIXES and "__pycache__" not in path.parts
    )
    return [
        make_source(path.relative_to(root).as_posix(), path.read_text(encoding="utf-8"))
        for path in files
    ]


def tracked_files(root: Path) -> list[Path]:
    """What git tracks or would; outside a work tree (an unpacked sdist), everything but what a build leaves behind."""
    if (root / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=root, capture_output=True, check=True).stdout.decode()
        names = [name for name in listed.split("\0") if name]
        return sorted(root / name for name in names if (root / name).is_file())
    left_behind = {"build", "dist", "__pycache__"}
    return sorted(
        path
        for path in root.rglob("*")
        if path.is_file()
        and not any(
            part in left_behind
            or part.endswith(".egg-info")
            or (part.startswith(".") and part != ".ci")
            for part in path.relative_to(root).parts
        )
    )


def blank(text: str) -> str:
    """The same lines and columns with all strings and comments replaced by spaces."""
    return STRING_OR_COMMENT.sub(lambda match: re.sub(r"[^\n]", " ", match.group()), text)


def logical_lines(code: str) -> Iterator[tuple[int, int, str]]:
    """(first line, last line, text on one line) of each statement; `code` must be blanked."""
    lines = code.splitlines()
    number = 0
    while number < len(lines):
        first, text = number, lines[number]
        while (open_brackets(text) > 0 or text.endswith("\\")) and number + 1 < len(lines):
            number += 1
            text = text.removesuffix("\\") + " " + lines[number].strip()
        yield first + 1, number + 1, text.rstrip()
        number += 1


def open_brackets(text: str) -> int:
    return sum(text.count(bracket) for bracket in "([{") - sum(
        text.count(bracket) for bracket in ")]}"
    )


def imports_of(source: Source) -> list[Import]:
    package = source.path.split("/")[:-1]
    found = list(
        python_imports(source.tree) if source.tree is not None else cython_imports(source.code)
    )
    return [Import(i.line, absolute(i.module, package), i.name, i.cimport) for i in found]


def absolute(module: str, package: list[str]) -> str:
    """A relative module name in full; one that climbs out of the project is left as it stands."""
    dots = len(module) - len(module.lstrip("."))
    if dots == 0 or dots > len(package) + 1:
        return module
    rest = module[dots:]
    return ".".join(package[: len(package) - dots + 1] + ([rest] if rest else []))


def python_imports(tree: ast.Module) -> Iterator[Import]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            for alias in node.names:
                yield Import(node.lineno, module, alias.name)


def cython_imports(code: str) -> Iterator[Import]:
    for line, _, text in logical_lines(code):
        for statement in text.split(";"):
            match = IMPORT_LINE.match(statement)
            if match is None:
                continue
            origin, word, names = match.groups()
            for item in names.strip().strip("()").split(","):
                name = item.split(" as ")[0].strip()
                if name:
                    cimport = word == "cimport"
                    yield (
                        Import(line, origin, name, cimport)
                        if origin
                        else Import(line, name, "", cimport)
                    )


def functions_of(source: Source) -> list[Function]:
    return list(cython_functions(source) if source.tree is None else python_functions(source.tree))


def python_functions(tree: ast.Module) -> Iterator[Function]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            end = node.end_lineno or node.lineno
            yield Function(node.name, node.lineno, node.body[0].lineno - 1, end, f"def {node.name}")


def cython_functions(source: Source) -> Iterator[Function]:
    """Functions with a body in a `.pyx`, and in a `.pxd` their declarations too."""
    statements = list(logical_lines(source.code))
    for position, (first, last, text) in enumerate(statements):
        match = FUNCTION_LINE.match(text)
        if match is None or NOT_A_FUNCTION.match(match.group(2)):
            continue
        name = FUNCTION_NAME.match(match.group(2))
        has_body = name is not None and ":" in after_arguments(match.group(2), name.end())
        if name is None or not (has_body or source.path.endswith(".pxd")):
            continue
        end = body_end(statements[position + 1 :], len(match.group(1)), last) if has_body else last
        yield Function(name.group(1), first, last, end, text.strip())


def after_arguments(text: str, start: int) -> str:
    """What follows the bracket that closes the one before `start`."""
    depth = 1
    for position in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if depth == 0:
            return text[position + 1 :]
    return ""


def body_end(following: list[tuple[int, int, str]], indent: int, end: int) -> int:
    """The last line that stands deeper than the `def`, blank ones aside."""
    for _, last, text in following:
        if not text.strip():
            continue
        if len(text) - len(text.lstrip()) <= indent:
            break
        end = last
    return end
