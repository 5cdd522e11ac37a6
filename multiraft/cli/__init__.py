"""The command line: ``multiraft``, and ``python -m multiraft``.

A face over the library, with nothing of its own: each command lives in a module that is imported when it is called, so that
``--help`` and completion import click and nothing heavier. Exit codes are in ``exits`` and in each command's help.
"""
