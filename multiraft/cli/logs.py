"""Log lines that never wait: a bounded queue to a worker that writes them, and a count of what had to be dropped."""

from __future__ import annotations

import json
import logging
from typing import Any

from multiraft.worker import Background

QUEUE_LINES_MAX = 10_000
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class DroppingHandler(logging.Handler):
    """Hands records to ``target`` on a thread of its own; when it falls behind, records are dropped and counted."""

    def __init__(self, target: logging.Handler) -> None:
        super().__init__()
        self._target = target
        self._background = Background("logging", self._write, QUEUE_LINES_MAX)

    def emit(self, record: logging.LogRecord) -> None:
        self._background.put(record)

    def _write(self, record: Any, dropped: int) -> None:
        if dropped:
            text = f"{dropped} log lines were dropped: whoever reads them is too slow"
            self._target.emit(logging.makeLogRecord({"name": "multiraft", "levelname": "WARNING", "msg": text}))
        self._target.handle(record)

    def close(self) -> None:
        """Write what waits, for a second at most, and end."""
        self._background.close(timeout_s=1.0)
        super().close()


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and whatever fields the event carries."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _PLAIN}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
