"""Clients that nobody wants, as a process of their own: `python -m support.hostile PORT`, then `on` and `off` by lines.

Idle connections, bodies of a byte a second, large bodies that never end, requests with 10,000 headers.
"""

import contextlib
import selectors
import socket
import sys
import threading

IDLE = 1000
DRIPPING = 50
STUCK = 100
STUCK_BYTES = 1024 * 1024
HEADS_PAUSE_S = 0.1
LIMIT_S = 30

START = b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
HEAD = b"GET /health/live HTTP/1.1\r\n" + b"".join(b"X-%d: 1\r\n" % number for number in range(10_000)) + b"\r\n"


class Crowd:
    """All of them, from `on` to `off`."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle = [self._connect() for _ in range(IDLE)]
        self._dripping = [self._connect() for _ in range(DRIPPING)]
        for connection in self._dripping:
            connection.sendall(START % 1000 + b"{")
        self._stuck = [self._connect() for _ in range(STUCK)]
        for connection in self._stuck:
            with contextlib.suppress(OSError):  # refused in the middle: that is the limit of memory
                connection.sendall(START % (4 * STUCK_BYTES) + b" " * STUCK_BYTES)
        self._over = threading.Event()
        self._threads = [threading.Thread(target=work) for work in (self._drip, self._send_heads, self._stay)]
        for thread in self._threads:
            thread.start()

    def _connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self._port), timeout=LIMIT_S)

    def _drip(self) -> None:
        while not self._over.wait(1):
            for connection in self._dripping:
                with contextlib.suppress(OSError):
                    connection.sendall(b" ")

    def _send_heads(self) -> None:
        while not self._over.wait(HEADS_PAUSE_S):
            with contextlib.suppress(OSError), self._connect() as connection:
                connection.sendall(HEAD)
                connection.recv(1024)

    def _stay(self) -> None:
        """Whoever is thrown out comes again."""
        with selectors.DefaultSelector() as selector:
            for connection in self._idle:
                selector.register(connection, selectors.EVENT_READ)
            while not self._over.is_set():
                for key, _ in selector.select(timeout=0.1):
                    old = key.fileobj
                    selector.unregister(old)
                    assert isinstance(old, socket.socket)
                    old.close()
                    new = self._idle[self._idle.index(old)] = self._connect()
                    selector.register(new, selectors.EVENT_READ)

    def leave(self) -> None:
        """Close everything."""
        self._over.set()
        for thread in self._threads:
            thread.join()
        for connection in (*self._idle, *self._dripping, *self._stuck):
            connection.close()


def main() -> None:
    """Come and go as standard input says; a line for each is printed when it is done."""
    port, crowd = int(sys.argv[1]), None
    for line in sys.stdin:
        if line == "on\n":
            crowd = Crowd(port)
        elif crowd is not None:
            crowd.leave()
        print("done", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
