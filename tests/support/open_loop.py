"""Load that does not wait: so many requests a second, whatever becomes of the ones before."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import uvloop

from support.wire import Request

DRAIN_S = 30
IDLE_MAX_S = 4.0
"""The server closes a connection on which nothing comes for the time of a head; a client must not count on one."""
CONNECTIONS_MAX = 400
"""More than the server takes at a time; where even these are all under way, a request is not sent and counted."""


@dataclass(frozen=True)
class Sent:
    """One request and its answer; status 0 where the connection broke."""

    name: str
    status: int
    retry_after: bool
    sent_s: float
    took_s: float


@dataclass(frozen=True)
class Load:
    """What a load came to."""

    sent: list[Sent]
    unsent: int
    seconds: float

    def of_status(self, *statuses: int) -> list[Sent]:
        """Those that were answered so."""
        return [each for each in self.sent if each.status in statuses]


def closed_loop(port: int, make: Callable[[], tuple[str, Request]], *, connections: int, seconds: float) -> Load:
    """As many as *connections* manage that each wait for their answers: what the server can take."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_closed(port, make, connections, seconds))


def open_loop(port: int, make: Callable[[], tuple[str, Request]], *, per_s: float, seconds: float) -> Load:
    """*per_s* a second for *seconds*, each at its time."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_open(port, make, per_s, seconds))


async def _closed(port: int, make: Callable[[], tuple[str, Request]], connections: int, seconds: float) -> Load:
    began_s = time.monotonic()
    sent: list[Sent] = []

    async def user() -> None:
        connection = await _Connection.open(port)
        while time.monotonic() - began_s < seconds:
            sent.append(await connection.ask(*make()))
        connection.close()

    await asyncio.gather(*(user() for _ in range(connections)))
    return Load(sent, 0, time.monotonic() - began_s)


async def _open(port: int, make: Callable[[], tuple[str, Request]], per_s: float, seconds: float) -> Load:
    connections = Connections(port)
    under_way: set[asyncio.Task[None]] = set()
    sent: list[Sent] = []
    unsent = 0

    async def one(name: str, request: Request) -> None:
        sent.append(await connections.ask(name, request))

    began_s = time.monotonic()
    number = 0
    while (passed_s := time.monotonic() - began_s) < seconds:
        # All whose time has come: the event loop's timers are coarser than the distance between two.
        while number < passed_s * per_s:
            number += 1
            if len(under_way) >= CONNECTIONS_MAX:
                unsent += 1
                continue
            task = asyncio.ensure_future(one(*make()))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
        await asyncio.sleep(0.001)  # until the next ones' time
    took_s = time.monotonic() - began_s
    if under_way:
        await asyncio.wait(under_way, timeout=DRAIN_S)
    connections.close()
    return Load(sent, unsent, took_s)


class Connections:
    """As many as there are requests under way at a time; those that are free are used again."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: deque[_Connection] = deque()

    async def ask(self, name: str, request: Request) -> Sent:
        """Send *request*, and wait for its answer."""
        idle = self._idle
        while idle and time.monotonic() - idle[0].used_s > IDLE_MAX_S:
            idle.popleft().close()
        connection = idle.pop() if idle else await _Connection.open(self._port)
        found = await connection.ask(name, request)
        if found.status:
            idle.append(connection)
        return found

    def close(self) -> None:
        """Close those that are free."""
        for connection in self._idle:
            connection.close()


class _Connection(asyncio.Protocol):
    """One request at a time; answers have a Content-Length."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._data = b""
        self._waiting: asyncio.Future[bytes] | None = None
        self.used_s = 0.0

    @classmethod
    async def open(cls, port: int) -> "_Connection":
        _, protocol = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of a TCP connection

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = None
        self._deliver(b"")

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        if found:
            at = head.lower().find(b"\r\ncontent-length:")
            wanted = 0 if at < 0 else int(head[at + 17 :].split(b"\r\n", 1)[0])
            if len(body) >= wanted:
                self._data = b""
                self._deliver(head)

    def _deliver(self, head: bytes) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(head)

    async def ask(self, name: str, request: Request) -> Sent:
        self._waiting = asyncio.get_running_loop().create_future()
        sent_s = time.monotonic()
        if self._transport is None:
            return Sent(name, 0, retry_after=False, sent_s=sent_s, took_s=0.0)
        self._transport.write(request.head + request.body)
        head = await self._waiting
        self.used_s = time.monotonic()
        status = int(head.split(b" ", 2)[1]) if head else 0
        return Sent(name, status, b"\nretry-after:" in head.lower(), sent_s, time.monotonic() - sent_s)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()
