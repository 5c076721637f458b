"""Where lines go that nobody may have to wait for: a thread writes them, to a file descriptor.

Whoever writes a line never waits, and is never told that it failed: not of a full disk, a pipe without a reader, one
whose reader has stopped reading, a terminal that is held or gone, or a descriptor that was closed. What could not be
written is counted, and once something can be written again one line says how many were lost.
"""

import atexit
import contextlib
import os
import select
import threading
import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from queue import Empty, SimpleQueue

QUEUE_BYTES_MAX = 4 * 1024 * 1024
"""Lines that wait to be written, at most: some ten thousand. A reader that is slow for a moment loses none."""
WRITE_BYTES = 64 * 1024
"""How many bytes of lines that wait are written at once, about."""
GATHER_S = 0.002
"""Between two writes: who logs under load then wakes nobody, and the lines of some requests are written at once."""
RETRY_S = 1.0
"""How soon it is tried again to say that lines were lost, where no further line comes."""
FLUSH_S = 1.0
"""How long the end of the process waits for lines that are not written yet."""


class LogSink:
    """Takes whole lines, for one descriptor. Callable from any thread."""

    def __init__(self, descriptor: int, notice: Callable[[int], bytes] = lambda _count: b"") -> None:
        """Make it; *notice* is the line that says how many were lost, and no bytes where none is to."""
        self.notice = notice
        self._descriptor = descriptor
        self._queue: SimpleQueue[bytes | threading.Event] = SimpleQueue()
        self._lock = threading.Lock()  # for the numbers; nobody does anything slow with it
        self._writing = threading.Lock()
        self._queued_bytes = 0
        self._dropped = 0
        self._said = 0
        self._torn = False
        self._failing = False
        self._running = False
        self._last: threading.Event | None = None
        """The thread ends behind it."""
        atexit.register(self.close)

    @property
    def dropped(self) -> int:
        """How many lines were lost so far."""
        return self._dropped

    def drop(self) -> None:
        """Count a line that could not even be made."""
        with self._lock:
            self._dropped += 1

    def write(self, line: bytes) -> None:
        """Have *line*, which ends with a line feed, written soon; or count it as lost, where too many wait."""
        with self._lock:
            if self._queued_bytes + len(line) > QUEUE_BYTES_MAX:
                self._dropped += 1
                return
            self._queued_bytes += len(line)
        self._queue.put(line)
        if not self._running:
            self._start()

    def flush(self, timeout_s: float = FLUSH_S) -> None:
        """Wait until what was given is written or lost, for *timeout_s* at most."""
        self._flush(threading.Event(), timeout_s)

    def _flush(self, reached: threading.Event, timeout_s: float) -> None:
        if self._running:
            self._queue.put(reached)
            reached.wait(timeout_s)

    def close(self) -> None:
        """End the thread behind what was given, waiting as `flush` does. What is written later starts another one."""
        self._last = threading.Event()
        self._flush(self._last, FLUSH_S)
        atexit.unregister(self.close)

    def _start(self) -> None:
        """Start the thread, or do its work here, where the system has no room for one."""
        with self._lock:
            if self._running:
                return
            self._running = True
        try:
            threading.Thread(target=self._run, name="log", daemon=True).start()
        except BaseException as error:
            self._running = False
            if not isinstance(error, Exception):
                raise
            if self._writing.acquire(blocking=False):
                try:
                    self._write_what_waits(0)
                finally:
                    self._writing.release()

    def _run(self) -> None:
        try:
            with self._writing:
                timeout_s: float | None = 0.0
                while self._last not in self._write_what_waits(timeout_s):
                    time.sleep(GATHER_S)
                    timeout_s = RETRY_S if self._dropped > self._said else None
        except BaseException:  # noqa: BLE001  # to log it would need this thread
            self.drop()
        finally:
            self._running = False  # the next line starts another one

    def _write_what_waits(self, timeout_s: float | None) -> Sequence[threading.Event]:
        """Wait for a line, and write those that are there by then; the events that were among them."""
        lines, reached = self._take(timeout_s)
        try:
            if lines:
                self._write_lines(lines)
            if self._queue.empty():
                self._say()
        finally:
            for each in reached:
                each.set()
        return reached

    def _write_lines(self, lines: Sequence[bytes]) -> None:
        lost = len(lines)
        try:
            if self._failing:  # what could not be written came before these; what there was no room for comes behind
                self._say()
            self._failing = True
            lost -= self._put(lines)
        finally:
            with self._lock:
                self._queued_bytes -= sum(map(len, lines))
                self._dropped += lost
        self._failing = bool(lost)

    def _say(self) -> None:
        """Say that lines were lost, if any were since the last time."""
        dropped = self._dropped
        if dropped > self._said and self._put([self.notice(dropped - self._said)]):
            self._said = dropped

    def _take(self, timeout_s: float | None) -> tuple[list[bytes], list[threading.Event]]:
        """Wait for a line, then take those behind it too. Events are whoever waits for the lines before them."""
        lines: list[bytes] = []
        reached: list[threading.Event] = []
        size = 0
        with contextlib.suppress(Empty):
            while size < WRITE_BYTES:
                found = self._queue.get_nowait() if lines or reached else self._queue.get(timeout=timeout_s)
                if isinstance(found, threading.Event):
                    reached.append(found)
                else:
                    lines.append(found)
                    size += len(found)
        return lines, reached

    def _put(self, lines: Sequence[bytes]) -> int:
        """Write *lines*; how many of them are there whole."""
        if not lines:
            return 0
        data = (b"\n" if self._torn else b"") + b"".join(lines)
        before = len(data) - sum(map(len, lines))
        done = 0
        with contextlib.suppress(OSError):
            while done < len(data):
                done += self._write(data[done:])
        ends = [before + end for end in accumulate(map(len, lines))]
        if done:
            self._torn = done != before and done not in ends
        return sum(end <= done for end in ends)

    def _write(self, data: bytes) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:  # somebody has made the pipe non-blocking; this thread can wait
            poll = select.poll()
            poll.register(self._descriptor, select.POLLOUT)
            poll.poll(RETRY_S * 1000)
            return 0


STANDARD_ERROR = LogSink(2)
"""The log's."""
