"""The bodies that are being read: each within its time, and all together within a limit of memory.

One timer for all: they have the same time, so they run out in the order in which they began. A timer for each cost
1.9 µs and `asyncio.timeout` 4.2 µs a request, this 0.3 µs.
"""

import asyncio
from typing import Any

from service.errors import Overloaded, RequestTimeout
from service.settings import Settings


class Bodies:
    """What is being read in one event loop."""

    def __init__(self, settings: Settings) -> None:
        self.bytes_held = 0
        """Of bodies that are not whole yet."""
        self._bytes_max = settings.queue_bytes_max
        self._timeout_ms = settings.body_timeout_ms
        self._until_s: dict[asyncio.Task[Any], float] = {}
        self._late: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many are being read."""
        return len(self._until_s)

    def begin(self, task: "asyncio.Task[Any]") -> None:
        """*task* reads a body from now on; `end` has to follow. If it takes too long, the task is cancelled."""
        loop = task.get_loop()
        self._until_s[task] = until_s = loop.time() + self._timeout_ms / 1000
        if self._timer is None:
            self._timer = loop.call_at(until_s, self._expire, loop)

    def hold(self, size_bytes: int) -> None:
        """So much of a body has come.

        Raises:
            Overloaded: more bytes of unfinished bodies are in memory than may be.
        """
        self.bytes_held += size_bytes
        if self.bytes_held > self._bytes_max:
            raise Overloaded("Too many request bodies are on their way.")

    def refuse_late(self, task: "asyncio.Task[Any]") -> None:
        """To be called where *task* finds itself cancelled.

        Raises:
            RequestTimeout: it was, because its body took too long, and for nothing else.
        """
        if task in self._late and task.uncancel() == 0:
            raise RequestTimeout(limit_ms=self._timeout_ms)

    def end(self, task: "asyncio.Task[Any]", size_bytes: int) -> None:
        """*task* has its body of *size_bytes*, or has given it up behind so many."""
        self.bytes_held -= size_bytes
        self._until_s.pop(task, None)
        self._late.discard(task)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        now_s = loop.time()
        while self._until_s:
            task, until_s = next(iter(self._until_s.items()))
            if until_s > now_s:
                self._timer = loop.call_at(until_s, self._expire, loop)
                return
            del self._until_s[task]
            self._late.add(task)
            task.cancel()
        self._timer = None
