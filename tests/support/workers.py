"""Servers of several workers: who they are, and connections to a certain one of them."""

import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support.server import Server, children
from support.wire import Answer, Request, Wire

WORKERS = {"CHATLEDGER_WORKERS": "2"}
TRIES = 200
WAIT_S = 30
LISTEN = "0A"
"""As /proc/net/tcp says it (include/net/tcp_states.h)."""
_socket_of = re.compile(r"socket:\[(\d+)\]").fullmatch


def pids(server: Server) -> list[int]:
    """The process ids of the workers that live."""
    return children(server.pid)


def until(holds: Callable[[], bool]) -> None:
    """Wait until it holds."""
    end_s = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < end_s, "it never came"
        time.sleep(0.005)


def listening(port: int) -> int:
    """How many workers take connections on *port*."""
    found = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port for fields in found)


class Client:
    """One connection to one worker."""

    def __init__(self, wire: Wire, pid: int) -> None:
        self.pid = pid
        self._wire = wire

    def ask(self, method: str, path: str, document: Any = None, **headers: str) -> Answer:
        """One request, and its answer."""
        return self._wire.ask(Request.of(method, path, document, **headers))

    def get(self, path: str, **headers: str) -> Any:
        """What *path* says; it has to be there."""
        answer = self.ask("GET", path, **headers)
        assert answer.status == 200, answer.body
        return answer.document

    def post(self, path: str, document: Any = None, *, status: int = 201, **headers: str) -> Any:
        """The answer to a POST that has to have *status*."""
        answer = self.ask("POST", path, document, **headers)
        assert answer.status == status, answer.body
        return answer.document

    def close(self) -> None:
        """Close the connection."""
        self._wire.hang_up(rudely=False)


def owner(workers: list[int], wire: Wire) -> int:
    """The worker that has the other end of *wire*, over which something was answered already; 0 if none has."""
    ours, theirs = wire._socket.getsockname()[1], wire._socket.getpeername()[1]
    inode = ""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        ends = tuple(int(field.rpartition(":")[2], 16) for field in fields[1:3])
        if ends == (theirs, ours):
            inode = fields[9]
    for pid in workers:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                match = _socket_of(os.readlink(entry))  # noqa: PTH115  # it points to nothing
            except FileNotFoundError:
                continue
            if match and match[1] == inode:
                return pid
    return 0


@contextmanager
def each(server: Server) -> Iterator[list[Client]]:
    """A connection to each of the workers, in the order of their process ids."""
    workers, found, spare = pids(server), {}, []
    try:
        for _ in range(TRIES):
            wire = Wire(server.port)
            assert wire.ask(Request.of("GET", "/health/live")).status == 200
            pid = owner(workers, wire)
            if pid in found:
                spare.append(wire)
            else:
                found[pid] = Client(wire, pid)
            if len(found) == len(workers):
                break
        assert sorted(found) == workers
        yield [found[pid] for pid in workers]
    finally:
        for wire in spare:
            wire.hang_up(rudely=False)
        for client in found.values():
            client.close()


def at_once(*actions: Callable[[], Any]) -> list[Any]:
    """What *actions* return, each in a thread of its own, begun together."""
    barrier = threading.Barrier(len(actions))

    def act(action: Callable[[], Any]) -> Any:
        barrier.wait()
        return action()

    with ThreadPoolExecutor(len(actions)) as pool:
        return [future.result() for future in [pool.submit(act, action) for action in actions]]
