"""One word a concept (docs/glossary.md), and no word about the machine that a file was written on.

Names are split at underscores and capitals, so `last_idx` and `LastIdx` are both found. Prose is left alone: there, the
paper's words may stand beside ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from tools.tidy.source import Source, Violation

# What one might write, and the word that stands for it here.
ONE_WORD = {
    "idx": "index",
    "wal": "log",
    "region": "shard (for keys) or group (for Raft)",
    "raftgroup": "group",
    "packet": "frame",
    "datagram": "frame",
    "observer": "learner",
    "nonvoter": "learner",
    "hibernate": "quiesce",
    "hibernating": "quiesce",
    "unquiesce": "wake",
    "millis": "_ms",
    "msec": "_ms",
    "secs": "_s",
    "cfg": "config",
    "ctx": "context",
    "mgr": "the thing that it manages",
    "manager": "the thing that it manages",
    "util": "what it is for",
    "utils": "what it is for",
    "misc": "what it is for",
}
ONE_PHRASE = {
    "conf_change": "membership change",
    "config_change": "membership change",
    "leadership_transfer": "transfer_leader",
    "leader_transfer": "transfer_leader",
    "step_message": "step",
    "max_bytes": "bytes_max: the most significant word first",
    "max_entries": "entries_max: the most significant word first",
    "max_count": "count_max: the most significant word first",
}
NAME = re.compile(r"[A-Za-z_]\w*")
CAPITAL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
LOGGER_AS_LOG = re.compile(
    r"^\s*_?log\s*(?::[^=]+)?=\s*(?:logging\s*\.\s*)?(?:getLogger|LoggerAdapter)\b", re.IGNORECASE
)

# Written so that this file does not find itself.
MACHINE_PATH = re.compile(r"(?<![\w.$}])/(?:home|root|Users|work|tmp|mnt)/[\w.]")
ADDRESS = re.compile(r"\bhttps?://([\w.-]+)")
# The licence, the paper, and hosts that the standards reserve for examples.
HOSTS = re.compile(
    r"(?:www\.apache\.org|raft\.github\.io|localhost|127\.0\.0\.1|(?:.*\.)?example(?:\.(?:com|org|net))?)\.?"
)


def check_words(sources: Iterable[Source]) -> Iterator[Violation]:
    for source in sources:
        if not source.path.startswith("multiraft/"):
            continue
        for number, line in enumerate(source.code.splitlines(), 1):
            if LOGGER_AS_LOG.match(line):
                yield Violation(
                    "words",
                    source.path,
                    number,
                    "'log' is the Raft log: call a logger 'logger'",
                    "log",
                )
            for name in sorted(set(NAME.findall(line))):
                if better := better_word(name):
                    yield Violation("words", source.path, number, f"'{name}': say {better}", name)


def better_word(name: str) -> str | None:
    """What to say in place of a word that has another name here."""
    parts = [part for part in CAPITAL.sub("_", name).lower().split("_") if part]
    joined = f"_{'_'.join(parts)}_"
    phrases = [better for phrase, better in ONE_PHRASE.items() if f"_{phrase}_" in joined]
    words = [ONE_WORD[part] for part in parts if part in ONE_WORD]
    return next(iter(phrases + words), None)


def check_machine(root: Path, files: Iterable[Path]) -> Iterator[Violation]:
    """No tracked text names a folder of somebody's machine, nor a host that a reader need not know."""
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a binary vector names nothing
        name = path.relative_to(root).as_posix()
        for number, line in enumerate(text.splitlines(), 1):
            if match := MACHINE_PATH.search(line):
                yield Violation(
                    "machine", name, number, f"'{match.group()}...' is a path of one machine"
                )
            for host in ADDRESS.findall(line):
                if not HOSTS.fullmatch(host):
                    yield Violation(
                        "machine", name, number, f"the address of {host}: not needed here"
                    )
