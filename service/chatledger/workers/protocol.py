"""What a supervisor and its workers say to each other, over a pair of sockets: a JSON object a line."""

import asyncio
import contextlib
import socket
from typing import TypeAlias

import msgspec

from chatledger.observability.metrics import Family
from chatledger.settings import Settings

LINE_BYTES_MAX = 16 * 1024 * 1024
"""A report of metrics is the longest, with a few kilobytes for each route."""


class Orders(msgspec.Struct, frozen=True, tag=True, kw_only=True):
    """What a worker is told first, once. `board` is a descriptor that it has inherited."""

    number: int
    settings: Settings
    address: str
    port: int
    board: int
    local_credential: str


class Stop(msgspec.Struct, frozen=True, tag=True):
    """To a worker: answer what is under way, and end."""


class Ask(msgspec.Struct, frozen=True, tag=True):
    """To a worker: report your metrics."""

    number: int


class Scraped(msgspec.Struct, frozen=True, tag=True):
    """To a worker: the metrics of all, which it has asked for."""

    text: str


class Ready(msgspec.Struct, frozen=True, tag=True):
    """Of a worker: it takes connections."""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """Of a worker: it cannot start, and says why."""

    reason: str


class Report(msgspec.Struct, frozen=True, tag=True):
    """Of a worker: its metrics, as asked by the question *number*."""

    number: int
    families: list[Family]


class Scrape(msgspec.Struct, frozen=True, tag=True):
    """Of a worker: somebody wants the metrics of all."""


Down: TypeAlias = Orders | Stop | Ask | Scraped
Up: TypeAlias = Ready | Refused | Report | Scrape

_encode = msgspec.json.Encoder().encode
_down = msgspec.json.Decoder(Down)
_up = msgspec.json.Decoder(Up)


class Channel:
    """One end of it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> "Channel":
        """The channel over this end of a pair."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=LINE_BYTES_MAX))

    def send(self, message: Down | Up) -> None:
        """Send a message; one to a process that is gone is lost."""
        if not self._writer.is_closing():
            self._writer.write(_encode(message) + b"\n")

    async def flush(self) -> None:
        """Wait until what was sent has left."""
        with contextlib.suppress(OSError):
            await self._writer.drain()

    async def orders(self) -> Down | None:
        """The next message to a worker; None where its supervisor is gone."""
        line = await self._line()
        return _down.decode(line) if line else None

    async def report(self) -> Up | None:
        """The next message of a worker; None where it is gone."""
        line = await self._line()
        return _up.decode(line) if line else None

    async def _line(self) -> bytes:
        try:
            line = await self._reader.readline()
        except OSError:
            return b""
        return line if line.endswith(b"\n") else b""

    def close(self) -> None:
        """Close this end."""
        self._writer.close()
