"""A proxy that hands requests over whole and loses their answers."""

import socket
import threading
from typing import Self

from support.wire import Answer, ConnectionGone, Request, Wire

HEAD_END = b"\r\n\r\n"


class LossyProxy:
    """On a port of its own, before the server on *upstream*: every answer is received, kept, and never passed on."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.lost: dict[str, Answer] = {}
        """The answers, by the `x-request-id` that each has."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join()
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(client,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client:
            request = _whole(client)
            if request is None:
                return
            try:
                with Wire(self.upstream) as wire:
                    answer = wire.ask(request)
            except (ConnectionGone, OSError):
                return
            self.lost[answer.headers["x-request-id"]] = answer


def _whole(client: socket.socket) -> Request | None:
    """The one request that comes on *client*."""
    data = b""
    while HEAD_END not in data:
        piece = client.recv(65_536)
        if not piece:
            return None
        data += piece
    head, _, body = data.partition(HEAD_END)
    lengths = [line.partition(b":")[2] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    wanted = int(lengths[0]) if lengths else 0
    while len(body) < wanted:
        piece = client.recv(65_536)
        if not piece:
            return None
        body += piece
    return Request(head + HEAD_END, body)
