"""A load generator on bare asyncio sockets, for machines without `wrk`. It costs more, so figures are lower."""

import asyncio
import re
import statistics
import time
from itertools import cycle

import uvloop

from benchmarks.load import Load, LoadFailed, Request

_length = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE).search
_SUCCESS = b"HTTP/1.1 2"


def run(host: str, port: int, request: Request, *, connections: int, seconds: float) -> Load:
    """Drive one server from this thread.

    Raises:
        LoadFailed: an answer was missing or no success.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(host, port, request, connections, seconds))


async def _run(host: str, port: int, request: Request, connections: int, seconds: float) -> Load:
    before, behind = request.parts(f"{host}:{port}")
    requests = cycle([before + path.encode() + behind for path in request.paths])
    loop = asyncio.get_running_loop()
    users = [(await loop.create_connection(lambda: _User(requests), host, port))[1] for _ in range(connections)]
    started_s = time.perf_counter()
    for user in users:
        user.send()
    await asyncio.sleep(seconds)
    took_s = time.perf_counter() - started_s
    for user in users:
        user.close()
    failures = [user.failure for user in users if user.failure]
    took_us = sorted(us for user in users for us in user.took_us)
    if failures or len(took_us) < 2:
        raise LoadFailed(f"{len(failures)} connections failed: {(failures or [b'no answers'])[0]!r}")
    percentiles = statistics.quantiles(took_us, n=100, method="inclusive")
    return Load(requests=len(took_us), seconds=took_s, p50_ms=percentiles[49] / 1e3, p99_ms=percentiles[98] / 1e3)


class _User(asyncio.Protocol):
    """One connection with one request under way at a time."""

    def __init__(self, requests: "cycle[bytes]") -> None:
        self.took_us: list[float] = []
        self.failure = b""
        self._requests = requests
        self._transport: asyncio.Transport | None = None
        self._answer = b""
        self._sent_s = 0.0
        self._closing = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of a TCP connection

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closing:
            self.failure = self.failure or f"connection lost: {exc}".encode()

    def send(self) -> None:
        """Send the next request."""
        if self._transport is not None:
            self._answer, self._sent_s = b"", time.perf_counter()
            self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        self._answer += data
        end = self._answer.find(b"\r\n\r\n")
        if end < 0:
            return
        found = _length(self._answer, 0, end)
        if not self._answer.startswith(_SUCCESS) or found is None:
            self.failure = self._answer[:200]
            self.close()
        elif len(self._answer) >= end + 4 + int(found[1]):
            self.took_us.append((time.perf_counter() - self._sent_s) * 1e6)
            self.send()

    def close(self) -> None:
        """Close the connection."""
        self._closing = True
        if self._transport is not None:
            self._transport.close()
