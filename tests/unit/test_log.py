"""Log lines: nobody waits for one, none raises, and what is lost is counted; and how they look."""

import errno
import json
import logging
import os
import pty
import re
import struct
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest
import structlog

from chatledger.observability import log_sink, logs
from chatledger.observability.console_format import TextRenderer, columns_of, renderer, wants_colour
from chatledger.observability.log_sink import QUEUE_BYTES_MAX, LogSink

LIMIT_S = 60
REQUEST = {
    "event": "request",
    "level": "info",
    "time": "2026-05-15T15:00:00.000000Z",
    "request_id": "0190a0b0-7c1d-7000-8000-000000000000",
    "tenant": "acme",
    "key": "k_8Zr1mN0aQxT4",
    "method": "GET",
    "route": "/v1/sessions/{session_id}",
    "status": 200,
    "ms": 4.518,
}


def notice(count: int) -> bytes:
    """What is said of lines that were lost."""
    return b"lost %d\n" % count


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe: reading end, writing end."""
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def fill(writer: int) -> int:
    """Fill the pipe, whose reader sleeps; how many bytes that took."""
    os.set_blocking(writer, False)
    count = 0
    try:
        while True:
            count += os.write(writer, b"x")
    except BlockingIOError:
        os.set_blocking(writer, True)
    return count


def test_lines_arrive_in_order_and_whole(pipe: tuple[int, int]) -> None:
    """From many threads, each one's in its order."""
    reader, writer = pipe
    sink = LogSink(writer, notice)

    def say(name: int) -> None:
        for number in range(100):
            sink.write(b"%d %d\n" % (name, number))

    threads = [threading.Thread(target=say, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sink.flush(LIMIT_S)
    lines = [tuple(map(int, line.split())) for line in os.read(reader, 65536).splitlines()]
    assert sorted(lines) == [(name, number) for name in range(4) for number in range(100)]
    for name in range(4):
        assert [number for each, number in lines if each == name] == list(range(100))
    assert sink.dropped == 0


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE, errno.EBADF, errno.EIO])
def test_what_cannot_be_written_is_counted_and_said_later(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Whatever the system says of it; the line that says so comes before the next one."""
    reader, writer = pipe
    sink = LogSink(writer, notice)
    sink.write(b"before\n")
    sink.flush(LIMIT_S)
    write = os.write

    def fail(descriptor: int, data: bytes) -> int:
        if descriptor == writer:
            raise OSError(number, os.strerror(number))
        return write(descriptor, data)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        for _ in range(3):
            sink.write(b"lost\n")
        sink.flush(LIMIT_S)
        assert sink.dropped == 3
    sink.write(b"behind\n")
    sink.flush(LIMIT_S)
    assert os.read(reader, 1000) == b"before\nlost 3\nbehind\n"
    assert sink.dropped == 3


def test_a_loss_is_said_even_if_no_further_line_comes(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Else nobody would know of the last one."""
    reader, writer = pipe
    monkeypatch.setattr(log_sink, "RETRY_S", 0.01)
    sink = LogSink(writer, notice)
    sink.drop()
    sink.write(b"")
    assert os.read(reader, 1000) == b"lost 1\n"  # waits for it


def test_a_line_that_was_torn_spoils_no_other(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk had room for half of it: the next one begins a line."""
    reader, writer = pipe
    sink = LogSink(writer, notice)
    write, room = os.write, [6]

    def little(descriptor: int, data: bytes) -> int:
        if descriptor != writer:
            return write(descriptor, data)
        if not room[0]:
            raise OSError(errno.ENOSPC, "full")
        count = write(descriptor, data[: room[0]])
        room[0] -= count
        return count

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", little)
        sink.write(b"whole line\n")
        sink.flush(LIMIT_S)
    sink.write(b"another\n")
    sink.flush(LIMIT_S)
    assert os.read(reader, 1000) == b"whole \nlost 1\nanother\n"


def test_a_reader_that_sleeps_holds_nobody_up(pipe: tuple[int, int]) -> None:
    """Lines wait up to a limit, then they are counted; what waited arrives, and then the count."""
    reader, writer = pipe
    filled = fill(writer)
    sink = LogSink(writer, notice)
    line = b"y" * 1023 + b"\n"
    wanted = QUEUE_BYTES_MAX // len(line)
    for _ in range(wanted + 100):
        sink.write(line)
    assert sink.dropped == 100
    said = b""
    while not said.endswith(b"lost 100\n"):
        said += os.read(reader, 1 << 20)
        sink.write(b"")
    assert said == b"x" * filled + line * wanted + b"lost 100\n"


def test_a_pipe_that_somebody_made_non_blocking_loses_nothing(pipe: tuple[int, int]) -> None:
    """EAGAIN is no failure: the thread waits for the reader."""
    reader, writer = pipe
    os.set_blocking(writer, False)
    sink = LogSink(writer, notice)
    line = b"z" * 1023 + b"\n"
    for _ in range(1000):
        sink.write(line)
    said = b""
    while len(said) < 1000 * len(line):
        said += os.read(reader, 1 << 20)
    assert said == line * 1000
    assert sink.dropped == 0


def test_the_thread_of_a_sink_that_dies_is_replaced(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it was, the next line is written; and those that it had are counted."""
    reader, writer = pipe
    sink = LogSink(writer, notice)
    put, broken = LogSink._put, iter([True])

    def fail_once(self: LogSink, lines: Any) -> int:
        if self is sink and next(broken, False):
            raise SystemExit
        return put(self, lines)

    monkeypatch.setattr(LogSink, "_put", fail_once)
    sink.write(b"lost\n")
    while sink._running:  # ends by itself
        pass
    sink.write(b"behind\n")
    sink.flush(LIMIT_S)
    assert os.read(reader, 1000) == b"lost 2\nbehind\n"  # the line, and the thread's own end


def test_without_room_for_a_thread_the_line_is_written_at_once(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system has no room for one more: then somebody waits for this line."""
    reader, writer = pipe

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    LogSink(writer, notice).write(b"here\n")
    assert os.read(reader, 1000) == b"here\n"


class Recorded:
    """Lines that would be written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: list[bytes] = []
        monkeypatch.setattr(logs.STANDARD_ERROR, "write", self.lines.append)

    def json(self) -> list[dict[str, Any]]:
        """As objects."""
        return [json.loads(line) for line in self.lines]


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorded]:
    """Logging set up for JSON, into a list."""
    before = structlog.get_config()
    notice_before, hooks = logs.STANDARD_ERROR.notice, (sys.excepthook, threading.excepthook, sys.unraisablehook)
    logs.set_up("info", form="json")
    yield Recorded(monkeypatch)
    structlog.configure(**before)
    logs.STANDARD_ERROR.notice = notice_before
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks


class Unshowable:
    """Something that cannot be made a text."""

    def __str__(self) -> str:
        raise ValueError

    __repr__ = __str__


def test_a_line_that_cannot_be_made_is_counted_and_raises_nothing(recorded: Recorded) -> None:
    """Whoever logs is in the middle of something else, often of handling a failure."""
    before = logs.dropped()
    structlog.get_logger("t").error("it failed", cause=Unshowable())
    assert (recorded.lines, logs.dropped()) == ([], before + 1)


def test_half_a_surrogate_pair_is_shown_and_not_lost(recorded: Recorded) -> None:
    """As the name of a file has it that is no UTF-8."""
    structlog.get_logger("t").error("it failed", file="b\udcfcro", bytes=b"\xff")
    (line,) = recorded.json()
    assert line["file"] == "b\udcfcro"


def test_of_lines_that_were_lost_there_is_one_line_in_the_log_s_form(recorded: Recorded) -> None:
    """With the worker's number, where there are several."""
    del recorded
    logs.set_up("error", form="json", worker=3)
    said = json.loads(logs.STANDARD_ERROR.notice(17))
    assert re.fullmatch(r"20\d\d-.*Z", said.pop("time"))
    assert said == {"event": "log lines dropped", "count": 17, "level": "warning", "worker": 3}


def test_what_libraries_log_is_a_line_of_ours(recorded: Recorded) -> None:
    """With quotes and line feeds in it, and with arguments that do not fit."""
    handler = logs._Forward()
    for message, arguments in (('a "quoted"\nline', ()), ("%d", ("no number",))):
        handler.emit(logging.LogRecord("asyncio", logging.ERROR, "", 0, message, arguments, None))
    said = recorded.json()
    assert [line["event"] for line in said] == ['asyncio: a "quoted"\nline', "asyncio: %d"]
    assert {line["level"] for line in said} == {"error"}


def _fail(number: int) -> None:
    raise ZeroDivisionError(number)


@pytest.mark.parametrize("where", ["exit", "thread"])
def test_what_nobody_caught_is_one_line(recorded: Recorded, where: str) -> None:
    """Of the main thread and of others, with its traceback, and without the interpreter's own print."""
    logs.catch_all()
    if where == "thread":
        thread = threading.Thread(target=_fail, args=(1,), name="t-1")
        thread.start()
        thread.join()
    else:
        try:
            _fail(2)
        except ZeroDivisionError as error:
            sys.excepthook(type(error), error, error.__traceback__)
    (line,) = recorded.json()
    assert (line["event"], line["level"]) == ("uncaught exception", "error")
    assert "ZeroDivisionError" in line["exception"]
    assert line.get("thread") == ("t-1" if where == "thread" else None)


def shown(event: dict[str, Any], *, colour: bool = False, columns: int | None = None) -> str:
    """The line for people."""
    return TextRenderer(colour=colour, columns=lambda: columns)(None, "info", dict(event)).decode()


FULL = "GET /v1/sessions/{session_id} 200 4.5 ms acme k_8Zr1mN0aQxT4 0190a0b0-7c1d-7000-8000-000000000000"


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (None, FULL),
        (9 + len(FULL), FULL),
        (9 + len(FULL) - 1, FULL.rpartition(" ")[0]),
        (80, "GET /v1/sessions/{session_id} 200 4.5 ms acme k_8Zr1mN0aQxT4"),
        (60, "GET /v1/sessions/{session_id} 200 4.5 ms acme"),
        (20, "GET /v1/sessions/{session_id} 200 4.5 ms"),
    ],
)
def test_a_request_is_one_line_with_what_there_is_room_for(columns: int | None, expected: str) -> None:
    """Time, method, route, status, milliseconds; who and which id only where the terminal is wide enough (N3)."""
    line = shown(REQUEST, columns=columns)
    assert re.fullmatch(r"\d\d:\d\d:\d\d " + re.escape(expected), line)


def test_long_times_have_no_fraction() -> None:
    """Nobody reads it."""
    assert " 200 1235 ms " in shown({**REQUEST, "ms": 1234.6})


def test_other_events_have_their_level_and_their_members() -> None:
    """Those without a value are left out; a traceback is below the line."""
    event = {"event": "worker died", "level": "error", "time": "x", "number": 1, "code": -9, "reason": None}
    line = shown({**event, "exception": "Traceback (most recent call last):\n  File x"})
    first, *rest = line.split("\n")
    assert re.fullmatch(r"\d\d:\d\d:\d\d error worker died number=1 code=-9", first)
    assert rest == ["Traceback (most recent call last):", "  File x"]


def test_control_sequences_of_others_do_not_reach_the_terminal() -> None:
    """As in the words of an identity provider, or in an exception's."""
    line = shown({"event": "e", "level": "info", "reason": "\x1b[2J\r\x9b", "exception": "one\x1b[2J\ntwo"})
    assert line.endswith("reason=\\x1b[2J\\r\\x9b\none\\x1b[2J\ntwo")


def test_colours_are_all_taken_back() -> None:
    """Without them it is the same line."""
    coloured = shown(REQUEST, colour=True)
    assert coloured != shown(REQUEST)
    assert re.sub(r"\x1b\[\d+m", "", coloured)[9:] == FULL
    assert coloured.count("\x1b[0m") * 2 == coloured.count("\x1b[")


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({"TERM": "xterm"}, True),
        ({}, True),
        ({"NO_COLOR": ""}, True),
        ({"NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
    ],
)
def test_colours_can_be_switched_off(environment: dict[str, str], wanted: bool) -> None:  # noqa: FBT001
    """By https://no-color.org, where an empty variable is none, and by a terminal that has none."""
    assert wants_colour(environment) is wanted


@pytest.fixture
def terminal() -> Iterator[int]:
    """A terminal of 77 columns."""
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 77, 0, 0))
    yield theirs
    os.close(ours)
    os.close(theirs)


def test_a_terminal_is_asked_how_wide_it_is(terminal: int, tmp_path: Path) -> None:
    """What is no terminal has room for all, and no colours."""
    event: dict[str, Any] = dict(REQUEST)
    line = renderer(terminal, {"TERM": "xterm"})(None, "info", event)
    assert isinstance(line, bytes)
    assert b"\x1b[" in line
    assert len(re.sub(rb"\x1b\[\d+m", b"", line)) <= 77 == columns_of(terminal)
    with (tmp_path / "log").open("w") as file:
        line = renderer(file.fileno(), {"TERM": "xterm"})(None, "info", dict(REQUEST))
        assert isinstance(line, bytes)
        assert line.decode()[9:] == FULL


@pytest.mark.parametrize("make", [dict, lambda event: {**event, "method": "other", "status": 500}])
def test_every_request_line_can_be_shown(make: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Also those of methods that somebody made up, and with nobody's tenant."""
    assert shown({**make(REQUEST), "tenant": None, "key": None})
