"""Log lines for people: one each, in the width of the terminal as far as that goes.

`21:12:33 GET /v1/sessions/{session_id} 200 4.5 ms` is a request; behind it, dimmed and only if there is room, who sent
it and its id. Other events have their level, if it is a warning or worse, and their members. Times are local ones.
"""

import os
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import structlog

from chatledger.console.terminal import visible

_RESET, _DIM, _BOLD = "\x1b[0m", "\x1b[2m", "\x1b[1m"
_RED, _GREEN, _YELLOW, _CYAN = "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[36m"
_LEVELS = {"warning": _YELLOW, "error": _RED, "critical": _RED}
_STATUS = {2: _GREEN, 3: _CYAN, 4: _YELLOW, 5: _RED}
_BEHIND = (("worker", "worker "), ("tenant", ""), ("key", ""), ("request_id", ""))
"""Of a request, what stands behind its line, in this order, as far as there is room."""
_LONG_MS = 100


def wants_colour(environment: Mapping[str, str]) -> bool:
    """Whether a terminal is to have colours (https://no-color.org; a dumb one has none)."""
    return not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


def columns_of(descriptor: int) -> int | None:
    """How wide the terminal is now; None where it is none, or does not say."""
    try:
        return os.get_terminal_size(descriptor).columns or None
    except OSError:
        return None


class TextRenderer:
    """The last of structlog's processors: makes a line of an event."""

    def __init__(self, *, colour: bool, columns: Callable[[], int | None] = lambda: None) -> None:
        """Make it; *columns* is asked for each line how much room there is, None for any amount."""
        self._colour = colour
        self._columns = columns

    def __call__(self, _logger: object, _method: str, event: MutableMapping[str, Any]) -> bytes:
        """The line, with what has several lines below it, without its end."""
        event.pop("time", None)
        level, traceback = str(event.pop("level", "")), event.pop("exception", None)
        what = event.pop("event", "")
        is_request = what == "request" and level == "info"
        line = self._request(event) if is_request else self._other(level, what, event)
        if traceback is not None:
            line += "\n" + "\n".join(_printable(each) for each in str(traceback).splitlines())
        return line.encode(errors="backslashreplace")

    def _request(self, event: Mapping[str, Any]) -> str:
        status, ms = int(event["status"]), float(event["ms"])
        parts = [
            (_now(), _DIM),
            (_printable(event["method"]), _BOLD),
            (_printable(event["route"]), ""),
            (str(status), _STATUS.get(status // 100, "")),
            (f"{ms:.0f} ms" if ms >= _LONG_MS else f"{ms:.1f} ms", ""),
        ]
        room = self._columns()
        width = sum(len(text) + 1 for text, _ in parts) - 1
        for name, before in _BEHIND:
            if event.get(name) is None:
                continue
            text = before + _printable(event[name])
            width += 1 + len(text)
            if room is not None and width > room:
                break
            parts.append((text, _DIM))
        return " ".join(self._in(style, text) for text, style in parts)

    def _other(self, level: str, what: object, event: Mapping[str, Any]) -> str:
        words = [self._in(_DIM, _now())]
        if level in _LEVELS:
            words.append(self._in(_LEVELS[level], level))
        words.append(self._in(_BOLD, _printable(what)))
        words += [self._in(_DIM, f"{name}=") + _printable(value) for name, value in event.items() if value is not None]
        return " ".join(words)

    def _in(self, style: str, text: str) -> str:
        return f"{style}{text}{_RESET}" if self._colour and style else text


def _now() -> str:
    return time.strftime("%H:%M:%S")


def _printable(value: object) -> str:
    """As a terminal may be given it."""
    return visible(value if isinstance(value, str) else str(value))


def renderer(descriptor: int, environment: Mapping[str, str]) -> structlog.typing.Processor:
    """For *descriptor*: with colours and in its width, if it is a terminal."""
    if not os.isatty(descriptor):
        return TextRenderer(colour=False)
    return TextRenderer(colour=wants_colour(environment), columns=lambda: columns_of(descriptor))
