"""The entry point: a group whose commands are imported when they are called."""

from __future__ import annotations

import importlib

import click

COMMANDS = {
    "demo": (
        "multiraft.cli.demo",
        "Three nodes on this machine, one killed half-way: see that nothing is lost.",
    ),
    "serve": ("multiraft.cli.serve", "Run one node until it is told to stop."),
}


class LazyGroup(click.Group):
    """Knows its commands by name and help line; imports one only to run it or to show its own help."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(COMMANDS[name][0]), name)
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in sorted(COMMANDS)])


@click.group(cls=LazyGroup, context_settings={"auto_envvar_prefix": "MULTIRAFT"})
@click.version_option(package_name="multiraft")
def main() -> None:
    """multiraft: many Raft groups in one process, on one loop, one transport and one log."""
