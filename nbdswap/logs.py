"""Events for operators: one line each on standard error, as logfmt-like text or as JSON.

An expected failure is one line without a traceback; only `unexpected()` adds one, since then the
mistake is ours. Not here: numbers over time (`metrics`).
"""

import json
import logging
import sys
import traceback
from abc import ABC, abstractmethod
from datetime import UTC, datetime
from typing import Any, TextIO

ROOT = "nbdswap"


class EventLog:
    """Where a component says what happened. Fields are values, not parts of a sentence."""

    def __init__(self, component: str) -> None:
        self._logger = logging.getLogger(f"{ROOT}.{component}")

    def debug(self, event: str, **fields: Any) -> None:
        """For those who look for a mistake."""
        self._logger.debug(event, extra={"fields": fields})

    def info(self, event: str, **fields: Any) -> None:
        """The course of things."""
        self._logger.info(event, extra={"fields": fields})

    def warning(self, event: str, **fields: Any) -> None:
        """Somebody should look at it; service goes on."""
        self._logger.warning(event, extra={"fields": fields})

    def error(self, event: str, **fields: Any) -> None:
        """Somebody has to act."""
        self._logger.error(event, extra={"fields": fields})

    def unexpected(self, event: str, **fields: Any) -> None:
        """A mistake of ours: with the traceback of the exception that is being handled."""
        self._logger.error(event, exc_info=True, extra={"fields": fields})


class _Formatter(logging.Formatter, ABC):
    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        head = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "component": record.name.removeprefix(f"{ROOT}."),
            "event": record.getMessage(),
        }
        fields: dict[str, Any] = getattr(record, "fields", {})
        trace = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""
        return self.render(head, fields, trace)

    @abstractmethod
    def render(self, head: dict[str, str], fields: dict[str, Any], trace: str) -> str:
        """One line, and the trace of a mistake of ours behind it."""


class _TextFormatter(_Formatter):
    def render(self, head: dict[str, str], fields: dict[str, Any], trace: str) -> str:
        line = f"{head['time']} {head['level']:<7} {head['component']}: {_one_line(head['event'])}"
        for name, value in fields.items():
            line += f" {name}={_quoted(value)}"
        return f"{line}\n{trace.rstrip()}" if trace else line


class _JsonFormatter(_Formatter):
    def render(self, head: dict[str, str], fields: dict[str, Any], trace: str) -> str:
        # The head comes last so that no field can pass itself off as the time or the event.
        event = fields | head | ({"traceback": trace} if trace else {})
        return json.dumps(event, default=str)


def _one_line(text: str) -> str:
    """Newlines and control characters escaped: a peer's words must not forge a line."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _quoted(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    plain = text.isprintable() and not any(char in text for char in ' "=')
    return text if text and plain else json.dumps(text)


def configure(log_format: str, level: str, stream: TextIO | None = None) -> None:
    """Sends all events, those of libraries included, to `stream` (standard error) from now on."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonFormatter() if log_format == "json" else _TextFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    # Libraries speak of their own inner workings below this level.
    for library in ("asyncio", "aiohttp"):
        logging.getLogger(library).setLevel(logging.WARNING)
