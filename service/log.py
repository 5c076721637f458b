"""Structured logs: one JSON object a line on standard error. Never content, never a credential."""

import logging
import sys
from collections.abc import MutableMapping
from typing import Any

import msgspec
import structlog

from service.clock import format_us, now_us
from service.terminal import visible_values


def _add_time(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["time"] = format_us(now_us())
    return event


def set_up(level: str, *, worker: int = 0) -> None:
    """Log from *level* up. On a terminal the lines are for people, elsewhere for machines.

    Of several workers each says which one it is.
    """

    def add_worker(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event["worker"] = worker
        return event

    number = logging.getLevelNamesMapping()[level.upper()]
    processors: list[structlog.typing.Processor] = [
        structlog.processors.add_log_level,
        _add_time,
        *([add_worker] if worker else []),
        # Never structlog's tracebacks with local variables: they would show what messages say.
        structlog.processors.format_exc_info,
    ]
    factory: Any
    if sys.stderr.isatty():
        processors += [visible_values, structlog.dev.ConsoleRenderer()]
        factory = structlog.WriteLoggerFactory(file=sys.stderr)
    else:
        processors.append(structlog.processors.JSONRenderer(serializer=_to_json))
        factory = structlog.BytesLoggerFactory(file=sys.stderr.buffer)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format='{"event": "%(name)s: %(message)s"}')


def _to_json(event: Any, **_: Any) -> bytes:
    return msgspec.json.encode(event, enc_hook=str)
