"""``python -m multiraft.testing``: the tools of this package from a command line. One command so far, ``check``.

A command is a function that can be called from a program, and a click command around it that prints and ends with a code.
"""

from __future__ import annotations

import click

from multiraft.testing.checking import check_history


@click.group()
@click.version_option(package_name="multiraft")
def main() -> None:
    """Judge histories of a store."""


main.add_command(check_history, "check")

if __name__ == "__main__":
    main()
