"""``python -m multiraft`` is the command line."""

from __future__ import annotations

from multiraft.cli.main import main

if __name__ == "__main__":
    main(prog_name="multiraft")
