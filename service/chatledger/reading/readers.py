"""Reading: short reads on the event loop, the others in a few threads, bounded in number and in time (rule 11).

Each has read-only connections of its own. Why the loop reads at all: docs/decisions/0019-reads.md.
"""

import asyncio
import resource
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

import msgspec
import structlog

from chatledger.errors import Overloaded, RefusedToStart
from chatledger.settings import Settings
from chatledger.storage import sql_errors, transactions
from chatledger.storage.connection import PROGRESS_STEPS, Connection, limit_rows, open_reader
from chatledger.storage.paths import Location

T = TypeVar("T")
log = structlog.get_logger("chatledger.readers")

SHORT_STEPS = 1024
"""SQLite's steps between two looks at a read on the event loop: 25 rows, so that a cold disk is met by as few."""
SHORT_LOOKS_MAX = 50
"""How many looks there are before it is ended and begins anew in a thread: a page of 1000 messages, a millisecond."""
SHORT_BYTES_MAX = 1024 * 1024
"""What it may answer, and the longest row that it may meet."""
SLOW_S = 0.001
"""From when on it is asked whether the disk keeps it."""
REST = 20
"""How many times as long as the disk kept the loop nothing is read there: so it is kept a twentieth of its time."""

_THREAD = getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)  # only Linux tells threads apart


class NotShort(Exception):
    """A short read has found more than it may answer."""


class Live(Protocol):
    """Who knows which views are the live ones: the `Views` themselves, or the `Board` of several workers."""

    @property
    def generation(self) -> int:
        """Their number. Read before each read: whatever was answered by then, they have."""


class LiveViews:
    """A read-only connection to the views of the generation that is current."""

    def __init__(
        self, location: Location, settings: Settings, views: Live, prepare: Callable[[Connection], None]
    ) -> None:
        """*prepare* is called with each connection that is opened."""
        self._location = location
        self._settings = settings
        self._source = views
        self._prepare = prepare
        self._generation = 0
        self._connection: Connection | None = None

    def current(self) -> Connection:
        """The connection, opened where a rebuild has put other views in the place of those that it reads.

        Raises:
            Overloaded: they cannot be opened.
        """
        while self._connection is None or self._source.generation != self._generation:
            generation = self._source.generation
            self.close()
            try:
                opened = open_reader(self._location.views(generation), self._location, self._settings)
            except RefusedToStart as error:
                if generation == self._source.generation:
                    raise Overloaded("The views cannot be opened.") from error
                continue  # a rebuild has put newer ones in their place just now
            self._connection, self._generation = opened, generation
            self._prepare(opened)
        return self._connection

    @property
    def in_transaction(self) -> bool:
        """Whether it is open, with a transaction."""
        return self._connection is not None and self._connection.in_transaction

    def close(self) -> None:
        """Close it, if it is open."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


class Reader:
    """One thread's connections: to the ledger, and to the views of the generation that is current."""

    def __init__(self, location: Location, settings: Settings, views: Live) -> None:
        self._timeout_s = settings.read_timeout_ms / 1000
        self._until = 0.0
        self._ledger: Connection = open_reader(location.ledger, location, settings)
        self._limit(self._ledger)
        self._views = LiveViews(location, settings, views, self._limit)

    def run(self, query: Callable[[Connection, Connection], T]) -> T:
        """Call *query* with the views, in one snapshot, and the ledger."""
        self._until = time.monotonic() + self._timeout_s
        views = self._views.current()
        with transactions.snapshot(self._ledger), transactions.snapshot(views):
            return query(views, self._ledger)

    def _limit(self, connection: Connection) -> None:
        connection.set_progress_handler(lambda: time.monotonic() > self._until, PROGRESS_STEPS)

    @property
    def is_clean(self) -> bool:
        """Whether the next read can begin: a transaction whose end has failed would refuse all of them."""
        return not (self._ledger.in_transaction or self._views.in_transaction)

    def interrupt(self) -> None:
        """Have a read that is under way end now. Callable from another thread."""
        self._until = 0.0

    def close(self) -> None:
        """Close both connections."""
        self._ledger.close()
        self._views.close()


class ShortReader:
    """The event loop's connection to the views, which waits for nobody. Only for that thread.

    In write-ahead mode a reader waits for no writer, but for whoever recovers a log: so it has no busy timeout. Time is
    no measure of a read: where the processor is taken away from it, a thread would be no better off. So its steps are
    counted, and time counts only if blocks were read from a disk meanwhile.
    """

    def __init__(self, location: Location, settings: Settings, views: Live) -> None:
        without_waiting = msgspec.structs.replace(settings, busy_timeout_ms=0)
        self._views = LiveViews(location, without_waiting, views, self._limit)
        self._looks = 0
        self._started = 0.0
        self._rests_until = 0.0
        self._blocks = _blocks_read()

    def run(self, query: Callable[[Connection], T]) -> T | None:
        """Call *query*, which is one statement, with the views; None where that did not end in its time, or failed.

        Raises:
            DomainError: it was *query*'s answer.
        """
        self._started = time.monotonic()
        if self._started < self._rests_until:
            return None
        self._looks = 0
        try:
            return query(self._views.current())
        except (sql_errors.SQLError, NotShort, Overloaded):
            return None  # whatever it is: the same read in a thread waits, ends, or fails by the book
        finally:
            self._disk_keeps_it()

    def _disk_keeps_it(self) -> bool:
        """Whether the disk has kept the read for long; then the loop rests from reading."""
        now = time.monotonic()
        kept_s = now - self._started
        if kept_s < SLOW_S or self._blocks == (blocks := _blocks_read()):
            return False
        self._blocks = blocks
        self._rests_until = now + REST * kept_s
        return True

    def _look(self) -> bool:
        """Whether the read has to end now."""
        self._looks += 1
        return self._looks > SHORT_LOOKS_MAX or self._disk_keeps_it()

    def _limit(self, connection: Connection) -> None:
        connection.set_progress_handler(self._look, SHORT_STEPS)
        limit_rows(connection, SHORT_BYTES_MAX)

    def close(self) -> None:
        """Close the connection."""
        self._views.close()


def _blocks_read() -> int:
    """The blocks that this thread had to read from a disk so far (getrusage(2), ru_inblock)."""
    return resource.getrusage(_THREAD).ru_inblock


class Readers:
    """The pool and the loop's own reader. Queries are functions of (views, ledger) that run in one of its threads."""

    def __init__(self, location: Location, settings: Settings, views: Live, *, on_damage: Callable[[], None]) -> None:
        self._location = location
        self._settings = settings
        self._views = views
        self._on_damage = on_damage
        self._local = threading.local()
        self._all: list[Reader] = []
        self._pool = ThreadPoolExecutor(settings.readers, thread_name_prefix="reader")
        self._short = ShortReader(location, settings, views)
        self._waiting = 0

    @property
    def generation(self) -> int:
        """The number of the live views."""
        return self._views.generation

    @property
    def queue_length(self) -> int:
        """The reads that run or wait."""
        return self._waiting

    async def run_short(
        self, query: Callable[[Connection], T], otherwise: Callable[[Connection, Connection], T] | None = None
    ) -> T:
        """Run *query*, one statement on the views that is short as a rule, on the event loop. It returns no None.

        Where it is not, *otherwise*, which answers the same at any length, is run as by `run`, or else *query* itself.

        Raises:
            Overloaded: as `run`.
        """
        found = self._short.run(query)
        if found is not None:
            return found
        return await self.run(otherwise or (lambda views, _ledger: query(views)))

    async def run(self, query: Callable[[Connection, Connection], T]) -> T:
        """Run *query* with a reader's connections.

        Raises:
            Overloaded: too many reads wait, or this one took too long.
        """
        if self._waiting >= self._settings.queue_reads_max:
            raise Overloaded("The queue of reads is full.")
        self._waiting += 1
        try:
            try:
                reading = asyncio.get_running_loop().run_in_executor(self._pool, self._run, query)
            except RuntimeError as error:  # the pool is shut down, or the system has no room for a thread
                raise Overloaded("No reader can be had.", retry_after_s=5) from error
            return await reading
        finally:
            self._waiting -= 1

    def _reader(self) -> Reader:
        """This thread's own; another one in the place of one whose last read has left it unusable."""
        reader: Reader | None = getattr(self._local, "reader", None)
        if reader is not None and not reader.is_clean:
            self._local.reader = None
            self._all.remove(reader)
            reader.close()
            reader = None
        if reader is None:
            reader = Reader(self._location, self._settings, self._views)
            self._all.append(reader)
            self._local.reader = reader
        return reader

    def _run(self, query: Callable[[Connection, Connection], T]) -> T:
        try:
            return self._reader().run(query)
        except StopIteration as error:  # no future takes it: whoever waits for this one would wait for ever
            raise RuntimeError("a query has ended with StopIteration") from error
        except RefusedToStart as error:
            raise Overloaded("The ledger cannot be opened.", retry_after_s=5) from error
        except sql_errors.SQLError as error:
            if sql_errors.is_damage(error):
                self._on_damage()
                log.exception("views damaged")
                raise Overloaded("The views are damaged and are being built anew.", retry_after_s=5) from error
            refusal = sql_errors.to_domain_error(error)
            if refusal is None:
                raise
            raise refusal from error

    def close(self) -> None:
        """Stop the reads that are still under way and close all connections."""
        for reader in self._all:
            reader.interrupt()
        self._pool.shutdown(cancel_futures=True)
        self._short.close()
        for reader in self._all:
            reader.close()
