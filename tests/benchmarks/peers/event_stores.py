"""Event stores of other people, asked over standard input. Runs among the peers' packages.

`python event_stores.py eventsourcing|umadb FOLDER BODIES SECONDS`: for each line `single`, `batch` or `read` on
standard input it does just that for as many seconds, and says how many events a second it was. BODIES has one payload
a line.
"""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, cycle
from pathlib import Path
from typing import Protocol
from uuid import UUID, uuid4

BATCH_EVENTS = 1_000
UMADB_THREADS = 64
SESSION_EVENTS = 20
START_TIMEOUT_S = 30
TYPE = "message.appended"


class Store(Protocol):
    """What is measured of a store."""

    threads: int

    def append(self, bodies: list[bytes]) -> None:
        """Keep events with these payloads, durably, all or nothing."""

    def read(self) -> Iterator[int]:
        """Read all events from the first on, and say of how many each piece was."""


class EventSourcing:
    """The recorder of `eventsourcing` by itself, without its domain model: a WAL, synced at each commit."""

    threads = 1

    def __init__(self, folder: Path) -> None:
        from eventsourcing.persistence import StoredEvent  # noqa: PLC0415  # only one of the two is wanted
        from eventsourcing.sqlite import SQLiteApplicationRecorder, SQLiteDatastore  # noqa: PLC0415

        self._event = StoredEvent
        self._recorder = SQLiteApplicationRecorder(SQLiteDatastore(db_name=str(folder / "events.db")))
        self._recorder.create_table()
        self._streams = self._places()

    @staticmethod
    def _places() -> Iterator[tuple[UUID, int]]:
        while True:
            session = uuid4()
            yield from ((session, version) for version in range(1, SESSION_EVENTS + 1))

    def append(self, bodies: list[bytes]) -> None:
        """Keep them as stored events."""
        self._recorder.insert_events([self._event(*next(self._streams), TYPE, body) for body in bodies])

    def read(self) -> Iterator[int]:
        """As notifications, a thousand at a time."""
        position = 1
        while found := self._recorder.select_notifications(position, BATCH_EVENTS):
            yield len(found)
            position = found[-1].id + 1


class UmaDB:
    """The client of `umadb`, to its own server in a process of its own."""

    threads = UMADB_THREADS

    def __init__(self, url: str) -> None:
        from umadb import Client, Event  # noqa: PLC0415

        self._client, self._event = Client(url, batch_size=BATCH_EVENTS), Event
        self._count = count()

    def append(self, bodies: list[bytes]) -> None:
        """Keep them, each tagged with its session."""
        events = [
            self._event(TYPE, body, [f"session:{next(self._count) // SESSION_EVENTS}"], uuid4()) for body in bodies
        ]
        self._client.append(events)

    def read(self) -> Iterator[int]:
        """All that the server sends."""
        for _ in self._client.read():
            yield 1


@contextmanager
def umadb(folder: Path) -> Iterator[UmaDB]:
    """UmaDB's server, which its Python package brings along, and a client."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [str(Path(sys.executable).with_name("umadb")), "--listen", address, "--db-path", str(folder / "uma.db")]
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield _connect(f"http://{address}")
    finally:
        server.terminate()
        server.wait()


def _connect(url: str) -> UmaDB:
    until_s = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            return UmaDB(url)
        except Exception:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.05)


def append_speed(store: Store, bodies: list[bytes], size: int, threads: int, seconds: float) -> float:
    """Appends of *size* events, one after the other in each of *threads*."""
    done = [0] * threads
    failures: list[BaseException] = []
    until_s = time.perf_counter() + seconds

    def work(number: int) -> None:
        coming = cycle(bodies)
        try:
            while time.perf_counter() < until_s:
                store.append([next(coming) for _ in range(size)])
                done[number] += size
        except Exception as error:  # noqa: BLE001  # it is raised again below
            failures.append(error)

    started_s = time.perf_counter()
    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failures:
        raise failures[0]
    return sum(done) / (time.perf_counter() - started_s)


def read_speed(store: Store, seconds: float) -> float:
    """From the first event on, over again if there are few."""
    events, started_s = 0, time.perf_counter()
    look_at = BATCH_EVENTS
    while True:
        for size in store.read():
            events += size
            if events >= look_at:  # not at each event: some stores hand out one at a time
                look_at = events + BATCH_EVENTS
                if (took_s := time.perf_counter() - started_s) > seconds:
                    return events / took_s


def answer(store: Store, bodies: list[bytes], seconds: float) -> None:
    """Do what standard input asks for."""
    for line in sys.stdin:
        match line.strip():
            case "single":
                speed = append_speed(store, bodies, 1, store.threads, seconds)
            case "batch":
                speed = append_speed(store, bodies, BATCH_EVENTS, 1, seconds)
            case _:
                speed = read_speed(store, seconds)
        print(speed, flush=True)  # noqa: T201


def main() -> None:
    """Open the store that was named."""
    kind, folder, bodies, seconds = sys.argv[1:]
    payloads = Path(bodies).read_bytes().splitlines()
    if kind == "umadb":
        with umadb(Path(folder)) as store:
            answer(store, payloads, float(seconds))
    else:
        answer(EventSourcing(Path(folder)), payloads, float(seconds))


if __name__ == "__main__":
    main()
