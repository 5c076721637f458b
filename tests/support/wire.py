"""HTTP/1.1 on a bare socket: requests that can be left at any stage, and answers read to their last byte."""

import json
import re
import socket
import struct
from dataclasses import dataclass
from typing import Any, Self

TIMEOUT_S = 60
PIECE_BYTES = 65_536
_length = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE).search


class ConnectionGone(Exception):
    """The other side has closed before its answer was whole."""


@dataclass(frozen=True)
class Answer:
    """A whole answer. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        """The body's JSON."""
        return json.loads(self.body)

    @property
    def version(self) -> int | None:
        """The session's version, by the entity tag."""
        tag = self.headers.get("etag")
        return None if tag is None else int(tag.strip('"'))


@dataclass(frozen=True)
class Request:
    """A request, in the two parts that a client can stop behind."""

    head: bytes
    body: bytes

    @classmethod
    def of(cls, method: str, path: str, document: Any = None, **headers: str) -> "Request":
        """With *document* as JSON; `_` in a header's name stands for `-`."""
        body = b"" if document is None else json.dumps(document).encode()
        fields = {"host": "127.0.0.1", **{name.replace("_", "-"): value for name, value in headers.items()}}
        if document is not None:
            fields |= {"content-type": "application/json", "content-length": str(len(body))}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return cls(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode(), body)


class Wire:
    """One connection, kept open from one request to the next. A context manager."""

    def __init__(self, port: int, *, timeout_s: float = TIMEOUT_S) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data: bytes) -> None:
        """Send some bytes."""
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise ConnectionGone from error

    def receive(self, count: int = PIECE_BYTES) -> bytes:
        """Up to *count* bytes; none at the end."""
        try:
            return self._socket.recv(count)
        except OSError as error:
            raise ConnectionGone from error

    def ask(self, request: Request) -> Answer:
        """Send the whole of *request* and wait for the whole answer.

        Raises:
            ConnectionGone: the connection ended before.
        """
        self.send(request.head + request.body)
        return self.read_answer()

    def read_answer(self) -> Answer:
        """The whole answer.

        Raises:
            ConnectionGone: the connection ended before.
        """
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more()
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        found = _length(head)
        wanted = int(found[1]) if found else 0
        while len(body) < wanted:
            body += self._more()
        fields = (line.partition(":") for line in lines[1:])
        return Answer(int(lines[0].split()[1]), {name.lower(): value.strip() for name, _, value in fields}, body)

    def _more(self) -> bytes:
        piece = self.receive()
        if not piece:
            raise ConnectionGone
        return piece

    def hang_up(self, *, rudely: bool) -> None:
        """Close; *rudely* by a reset, so that the other side's next byte fails at once."""
        if rudely:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def ask(port: int, method: str, path: str, document: Any = None, **headers: str) -> Answer:
    """One request on a connection of its own."""
    with Wire(port) as wire:
        return wire.ask(Request.of(method, path, document, **headers))
