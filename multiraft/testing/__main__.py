"""``python -m multiraft.testing``: the tools of this package from a command line: simulations, and histories to be judged.

A command is a function that can be called from a program, and a click command around it that prints and ends with a code.
"""

from __future__ import annotations

import sys

import click

from multiraft.testing import mutants
from multiraft.testing.checking import check_history
from multiraft.testing.commands import replay_command, run_command, shrink_command


@click.group()
@click.version_option(package_name="multiraft")
def main() -> None:
    """Simulate clusters under faults, and judge histories of a store."""


main.add_command(check_history, "check")
main.add_command(run_command)
main.add_command(replay_command)
main.add_command(shrink_command)


@main.command("mutants", context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def mutants_command(arguments: tuple[str, ...]) -> None:
    """Put known bugs back, one at a time, and see which seeds find them."""
    sys.exit(mutants.main(arguments))


if __name__ == "__main__":
    main()
