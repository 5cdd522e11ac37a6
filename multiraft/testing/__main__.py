"""``python -m multiraft.testing mutants``: see ``docs/testing.md``."""

from __future__ import annotations

import sys

from multiraft.testing import mutants

COMMANDS = {"mutants": mutants.main}


def main(arguments: list[str]) -> int:
    command = COMMANDS.get(arguments[0]) if arguments else None
    if command is None:
        sys.stderr.write(f"usage: python -m multiraft.testing {'|'.join(COMMANDS)} [--help]" + "\n")
        return 2
    return command(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
