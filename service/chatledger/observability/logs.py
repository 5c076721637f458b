"""Structured logs on standard error: for people on a terminal, else one JSON object a line.

Never content, never a credential. Nothing here raises, and nobody waits for a line to be written (`log_sink.py`): a log
is no reason to stop.
"""

import json
import logging
import os
import sys
import threading
from collections.abc import MutableMapping
from types import TracebackType
from typing import Any

import msgspec
import structlog

from chatledger.console.terminal import visible_json
from chatledger.domain.timestamps import format_us, now_us
from chatledger.observability import console_format
from chatledger.observability.log_sink import STANDARD_ERROR

LEVELS = ("debug", "info", "warning", "error")
FORMS = ("json", "text")
DROPPED = "log lines dropped"
_DESCRIPTOR = 2


def set_up(level: str, *, form: str = "", worker: int = 0) -> None:
    """Log from *level* up.

    Args:
        level: A level's name in lower case.
        form: `json` or `text`; by default text on a terminal and JSON elsewhere.
        worker: Of several workers each says which one it is.
    """

    def add_worker(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["worker"] = worker
        return event

    number = logging.getLevelNamesMapping()[level.upper()]
    as_text = form == "text" or (not form and os.isatty(_DESCRIPTOR))
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        _add_time,
        *([add_worker] if worker else []),
        # Never structlog's tracebacks with local variables: they would show what messages say.
        structlog.processors.format_exc_info,
        console_format.renderer(_DESCRIPTOR, os.environ) if as_text else _to_json,
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=_never_raising(structlog.make_filtering_bound_logger(number)),
        logger_factory=_Lines,
        cache_logger_on_first_use=True,
    )

    def notice(count: int) -> bytes:
        event: Any = {"count": count, "event": DROPPED}
        for processor in processors:
            event = processor(None, "warning", event)
        return bytes(event) + b"\n"

    STANDARD_ERROR.notice = notice
    logging.basicConfig(level=logging.WARNING, handlers=[_Forward()])


def dropped() -> int:
    """How many lines could not be written so far."""
    return STANDARD_ERROR.dropped


def flush() -> None:
    """Wait a moment until what was logged is written."""
    STANDARD_ERROR.flush()


def catch_all() -> None:
    """Have what nobody has caught logged, instead of printed by the interpreter in lines of its own."""
    log = structlog.get_logger("chatledger")

    def on_exit(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        log.error("uncaught exception", exc_info=(kind, error, trace))

    def in_thread(found: threading.ExceptHookArgs) -> None:
        name = None if found.thread is None else found.thread.name
        log.error("uncaught exception", thread=name, exc_info=found.exc_value)

    def in_finalizer(found: "sys.UnraisableHookArgs") -> None:
        log.error("uncaught exception", where=type(found.object).__name__, exc_info=found.exc_value)

    sys.excepthook, threading.excepthook, sys.unraisablehook = on_exit, in_thread, in_finalizer


class _Lines:
    """What structlog gives rendered lines to."""

    def __init__(self, *_: object) -> None:
        pass

    def msg(self, line: bytes) -> None:
        STANDARD_ERROR.write(line + b"\n")

    debug = info = warning = error = critical = msg


class _Forward(logging.Handler):
    """What libraries log by Python's own means goes the same way."""

    def emit(self, record: logging.LogRecord) -> None:
        level = "error" if record.levelno >= logging.ERROR else "warning"
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001  # arguments that do not fit the message
            text = str(record.msg)
        getattr(structlog.get_logger(), level)(f"{record.name}: {text}", exc_info=record.exc_info or None)


def _never_raising(base: Any) -> Any:
    """The logger *base*; a line of which it cannot make one is counted, as one that cannot be written."""

    def proxy(self: Any, method_name: str, event: str | None = None, **members: Any) -> Any:
        try:
            return base._proxy_to_logger(self, method_name, event, **members)  # noqa: SLF001  # for wrappers, it says
        except Exception:  # noqa: BLE001
            STANDARD_ERROR.drop()

    return type("NeverRaising", (base,), {"_proxy_to_logger": proxy})


def _add_time(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["time"] = format_us(now_us())
    return event


def _to_json(_logger: object, _method: str, event: MutableMapping[str, Any]) -> bytes:
    try:
        line = msgspec.json.encode(event, enc_hook=str)
    except (UnicodeEncodeError, TypeError, ValueError):  # half a surrogate pair, as names of files have them
        return json.dumps(event, default=repr).encode()
    # A terminal may show it: what controls one is escaped, as JSON escapes the rest of that.
    return line if line.isascii() else visible_json(line.decode()).encode()
