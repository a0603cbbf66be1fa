"""Structured logs on standard error: one JSON object a line, or text for people.

What a record carries in `fields` (`extra={"fields": {...}}`) stands beside the message.
"""

import json
import logging
import sys
from datetime import UTC, datetime


class JsonFormatter(logging.Formatter):
    """Time, level, logger, message, the fields, and the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; line breaks inside are escaped, so a message cannot forge another line."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        } | getattr(record, "fields", {})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """The same for a terminal."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The message and, after it, what else there is to know."""
        fields: dict[str, object] = getattr(record, "fields", {})
        more = "".join(f" {name}={value}" for name, value in fields.items())
        return super().formatMessage(record) + more.replace("\n", "\\n")


def configure(level: str, style: str) -> None:
    """Replace the root logger's handlers. `style` is json or text."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # kopf tells of every object that it hands over; what matters is in our own lines.
    logging.getLogger("kopf").setLevel(max(logging.WARNING, logging.getLevelName(level)))
    # In a thread it warns of signals that it does not get; we take them.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
