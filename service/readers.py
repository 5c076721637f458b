"""Reading: a few threads, each with read-only connections of its own, bounded in number and in time (rule 11)."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

import structlog

from service import database
from service.database import Connection
from service.errors import Overloaded, RefusedToStart
from service.location import Location
from service.settings import Settings

T = TypeVar("T")
log = structlog.get_logger("chatledger.readers")


class Live(Protocol):
    """Who knows which views are the live ones: the `Views` themselves, or the `Board` of several workers."""

    @property
    def generation(self) -> int:
        """Their number. Read before each read: whatever was answered by then, they have."""


class Reader:
    """One thread's connections: to the ledger, and to the views of the generation that is current."""

    def __init__(self, location: Location, settings: Settings, views: Live) -> None:
        self.ledger: Connection = database.open_reader(location.ledger, location, settings)
        self.views: Connection | None = None
        self._generation = 0
        self._source = views
        self._location = location
        self._settings = settings
        self._until = 0.0
        self._limit(self.ledger)

    def run(self, query: Callable[[Connection, Connection], T]) -> T:
        """Call *query* with the views, in one snapshot, and the ledger."""
        self._until = time.monotonic() + self._settings.read_timeout_ms / 1000
        views = self._current()
        with database.snapshot(self.ledger), database.snapshot(views):
            return query(views, self.ledger)

    def _current(self) -> Connection:
        while self.views is None or self._source.generation != self._generation:
            generation = self._source.generation
            if self.views is not None:
                self.views.close()
                self.views = None
            try:
                self.views = database.open_reader(self._location.views(generation), self._location, self._settings)
            except RefusedToStart as error:
                if generation == self._source.generation:
                    raise Overloaded("The views cannot be opened.") from error
                continue  # a rebuild has put newer ones in their place just now
            self._generation = generation
            self._limit(self.views)
        return self.views

    def _limit(self, connection: Connection) -> None:
        connection.set_progress_handler(lambda: time.monotonic() > self._until, database.PROGRESS_STEPS)

    def interrupt(self) -> None:
        """Have a read that is under way end now. Callable from another thread."""
        self._until = 0.0

    def close(self) -> None:
        """Close both connections."""
        self.ledger.close()
        if self.views is not None:
            self.views.close()


class Readers:
    """The pool. Queries are functions of (views, ledger) that run in one of its threads."""

    def __init__(self, location: Location, settings: Settings, views: Live, *, on_damage: Callable[[], None]) -> None:
        self._location = location
        self._settings = settings
        self._views = views
        self._on_damage = on_damage
        self._local = threading.local()
        self._all: list[Reader] = []
        self._pool = ThreadPoolExecutor(settings.readers, thread_name_prefix="reader")
        self._waiting = 0

    @property
    def generation(self) -> int:
        """The number of the live views."""
        return self._views.generation

    @property
    def queue_length(self) -> int:
        """The reads that run or wait."""
        return self._waiting

    async def run(self, query: Callable[[Connection, Connection], T]) -> T:
        """Run *query* with a reader's connections.

        Raises:
            Overloaded: too many reads wait, or this one took too long.
        """
        if self._waiting >= self._settings.queue_reads_max:
            raise Overloaded("The queue of reads is full.")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, self._run, query)
        finally:
            self._waiting -= 1

    def _run(self, query: Callable[[Connection, Connection], T]) -> T:
        try:
            reader: Reader | None = getattr(self._local, "reader", None)
            if reader is None:
                reader = self._local.reader = Reader(self._location, self._settings, self._views)
                self._all.append(reader)
            return reader.run(query)
        except database.SQLError as error:
            if database.is_damage(error):
                log.exception("views damaged")
                self._on_damage()
                raise Overloaded("The views are damaged and are being built anew.", retry_after_s=5) from error
            refusal = database.to_domain_error(error)
            if refusal is None:
                raise
            raise refusal from error

    def close(self) -> None:
        """Stop the reads that are still under way and close all connections."""
        for reader in self._all:
            reader.interrupt()
        self._pool.shutdown(cancel_futures=True)
        for reader in self._all:
            reader.close()
