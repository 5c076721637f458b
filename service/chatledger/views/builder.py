"""Filling views from the ledger: batch after batch, and for a rebuild whole files, on two cores."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import msgspec

from chatledger.domain.events import Event
from chatledger.errors import ChatledgerError
from chatledger.ledger import event_store
from chatledger.settings import Settings
from chatledger.storage import sql_errors, transactions, views_file
from chatledger.storage.connection import Connection, open_reader
from chatledger.storage.paths import Location, remove
from chatledger.views import apply_triggers
from chatledger_projections.projection import Projection, in_words

BATCH_EVENTS = 2_000
"""A batch of events and what becomes of it stay in the processor's cache; ten times as many took a fifth longer."""
ASIDE = ".aside"
LITTLE_EVENTS = 500
"""So many events are applied in some milliseconds: the writer can wait for them, between two groups."""
ROUNDS_MAX = 100
"""Each round takes what came in during the one before, which is less each time; if not, the writer waits for more."""
STOP_STEPS = 1_000_000
"""SQLite's virtual-machine steps between two looks whether to stop: some 20 ms, so that it costs nothing."""

_TABLES = """
CREATE TABLE views (
  only_row    INTEGER PRIMARY KEY CHECK (only_row = 1),
  ledger_id   TEXT    NOT NULL,
  projections TEXT    NOT NULL,               -- names and versions, as JSON
  position    INTEGER NOT NULL,               -- of the last event that all tables here have
  target      INTEGER NOT NULL,               -- where a batch that is being applied ends
  leaf        BLOB    NOT NULL,               -- of that event: the same position of another history is another leaf
  scrubbed    TEXT    NOT NULL                -- the erasures that were finished before, as JSON positions
) STRICT;
"""
_BEGIN = "INSERT INTO views VALUES (1, ?, ?, 0, 0, x'', ?)"
_FINISHED = "SELECT coalesce(json_group_array(position), '[]') FROM erasures WHERE cleared"
_KNOWS_FINISHED = "SELECT EXISTS (SELECT 1 FROM pragma_table_info('erasures') WHERE name = 'cleared')"
_SAME = "SELECT (SELECT position FROM main.views) = (SELECT position FROM aside.views)"
_COPIED = "SELECT name FROM aside.sqlite_schema WHERE type = 'table' AND name <> 'views' AND name NOT LIKE 'sqlite_%'"

Progress = Callable[[int, int], None]
"""Called with the position reached and the position to reach."""


class ProjectionFailed(ChatledgerError):
    """A projection's `apply` raised: the views cannot follow the ledger until it is mended."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(
            f"The projection {name!r} raised {reason}; the views cannot follow the ledger until it is mended."
        )
        self.name = name


class BuildStopped(ChatledgerError):
    """Somebody had a build stopped before its end; its file is to be removed."""

    def __init__(self) -> None:
        super().__init__("The rebuild was stopped before its end.")


class BuildIncomplete(ChatledgerError):
    """The tables that were filled aside are not those of the same events; the file is to be removed."""

    def __init__(self) -> None:
        super().__init__("A part of the new views is missing.")


def versions_of(projections: Sequence[Projection]) -> str:
    """What the views note of the projections that made them."""
    return msgspec.json.encode({projection.name: projection.version for projection in projections}).decode()


def in_python(projections: Sequence[Projection]) -> bool:
    """Whether any of them needs events as values."""
    return any(projection.apply is not None for projection in projections)


def apply_in_python(db: Connection, projections: Sequence[Projection], events: Sequence[Event]) -> None:
    """The part of a batch that projections with a Python `apply` do, inside the caller's transaction.

    Raises:
        ProjectionFailed: one of them raised.
    """
    for projection in projections:
        if projection.apply is None:
            continue
        try:
            projection.apply(db, events)
        except sql_errors.SQLError:
            raise
        except Exception as error:
            raise ProjectionFailed(projection.name, in_words(error)) from error


def take_to(db: Connection, ledger_db: Connection, projections: Sequence[Projection], *, start: int, end: int) -> None:
    """Bring the tables of *db*, which have seen the events up to *start*, to *end*, in one transaction.

    Raises:
        LedgerDamaged: the events on the way have a gap, or one of them cannot be read.
        ProjectionFailed: a projection of the user's raised.
    """
    try:
        events = event_store.read_after(ledger_db, start, end - start) if in_python(projections) else []
        with transactions.immediate(db):
            db.execute(apply_triggers.TAKE_TO, (end,))
            apply_in_python(db, projections, events)
    except sql_errors.SQLError:
        # Where the events themselves are the reason, reading them says which one.
        event_store.read_after(ledger_db, start, end - start)
        raise


def _finished_erasures(ledger_db: Connection) -> str:
    """The positions, as JSON, of the erasures of which nothing can be in a file that is begun now."""
    if not ledger_db.execute(_KNOWS_FINISHED).get:  # a ledger of an older schema, for a check
        return "[]"
    return str(ledger_db.execute(_FINISHED).get)


class Builder:
    """Builds one views file.

    The tables of most bytes are filled in place, the others at the same time aside, in another file by another thread:
    both are SQL alone, and hold no interpreter lock. Then these are copied.
    """

    def __init__(self, name: str, location: Location, settings: Settings, projections: Sequence[Projection]) -> None:
        self._name = name
        self._location = location
        self._settings = settings
        self._projections = projections
        self._stopped = threading.Event()
        self._scrubbed = "[]"

    @property
    def stopped(self) -> bool:
        """Whether it was told to stop, or has failed."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """Have what is under way end with `BuildStopped`, within some milliseconds. Callable from any thread."""
        self._stopped.set()

    def build(
        self, ledger_db: Connection, progress: Progress | None = None, *, target: int | None = None
    ) -> Connection:
        """Fill the file with the events up to *target*, by default all that *ledger_db* has now.

        Returns:
            A connection to it, for this thread.

        Raises:
            BuildStopped: `stop` was called.
            BuildIncomplete: something of it was removed meanwhile.
            LedgerDamaged: the events have a gap, or one of them cannot be read.
            ProjectionFailed: a projection of the user's raised.
        """
        try:
            return self._build(ledger_db, event_store.head(ledger_db).position if target is None else target, progress)
        except sql_errors.SQLError as error:
            if self.stopped and sql_errors.is_interrupt(error):
                raise BuildStopped from error
            raise

    def _build(self, ledger_db: Connection, target: int, progress: Progress | None) -> Connection:
        # Before anything else is read, by either lane.
        self._scrubbed = _finished_erasures(ledger_db)
        here = [projection for projection in self._projections if not projection.aside]
        aside = [projection for projection in self._projections if projection.aside]
        if self._location.memory or not here:
            here, aside = list(self._projections), []
        with ThreadPoolExecutor(1, thread_name_prefix="build") as pool:
            other = pool.submit(self._fill_aside, aside, ledger_db, target) if aside else None
            try:
                db = self._fill(self._name, here, ledger_db, target, progress)
            except BaseException:
                self._stopped.set()
                raise
            try:
                if other is not None:
                    other.result()
                    self._copy(db, aside)
                self._settle(db)
                self._index(db, here)
                views_file.finish_bulk(db, self._location)
            except BaseException:
                db.close()
                raise
        return db

    def _index(self, db: Connection, projections: Sequence[Projection]) -> None:
        # Not while batches are applied, which end by themselves: asking takes the interpreter lock from the other lane.
        db.set_progress_handler(self._stopped.is_set, STOP_STEPS)
        # Each statement by itself: BEGIN IMMEDIATE would read the ledger too, for as long as this takes, and meanwhile
        # nobody could begin its write-ahead log anew.
        for projection in projections:
            db.execute(projection.indexes)

    def _settle(self, db: Connection) -> None:
        for projection in self._projections:
            db.execute(projection.settle)

    def follow(self, db: Connection, ledger_db: Connection, progress: Progress | None = None) -> int:
        """Take *db*, which `build` returned, on until it is `LITTLE_EVENTS` behind at the most, while others append.

        Returns:
            The position that it has reached.

        Raises:
            BuildStopped, LedgerDamaged, ProjectionFailed: as `build`.
        """
        apply_triggers.prepare_advance(db, self._projections)  # all of them: until now some were filled aside
        position = int(db.execute("SELECT position FROM views").get)
        for _ in range(ROUNDS_MAX):
            head = event_store.head(ledger_db).position
            if head - position <= LITTLE_EVENTS:
                break
            self._take_to(db, ledger_db, self._projections, position, head, progress)
            position = head
        return position

    def _take_to(
        self,
        db: Connection,
        ledger_db: Connection,
        projections: Sequence[Projection],
        start: int,
        target: int,
        progress: Progress | None,
    ) -> None:
        for position in range(start, target, BATCH_EVENTS):
            if self.stopped:
                raise BuildStopped
            end = min(position + BATCH_EVENTS, target)
            take_to(db, ledger_db, projections, start=position, end=end)
            if progress is not None:
                progress(end, target)

    def _fill_aside(self, projections: Sequence[Projection], ledger_db: Connection, target: int) -> None:
        with (
            closing(open_reader(ledger_db.filename, self._location, self._settings)) as reader,
            closing(self._fill(self._name + ASIDE, projections, reader, target, None)) as db,
        ):
            self._index(db, projections)

    def _fill(
        self,
        name: str,
        projections: Sequence[Projection],
        ledger_db: Connection,
        target: int,
        progress: Progress | None,
    ) -> Connection:
        if not self._location.memory:
            remove(name)
        db = views_file.open_views(name, self._location, self._settings, ledger_db)
        try:
            views_file.prepare_bulk(db, self._location)
            with transactions.immediate(db):
                db.execute(_TABLES)
                for projection in projections:
                    db.execute(projection.tables)
                db.execute(_BEGIN, (event_store.identity(ledger_db), versions_of(self._projections), self._scrubbed))
            apply_triggers.prepare_advance(db, projections, closing=False)
            self._take_to(db, ledger_db, projections, 0, target, progress)
        except BaseException:
            db.close()
            raise
        return db

    def _copy(self, db: Connection, projections: Sequence[Projection]) -> None:
        """Copy the tables that were filled aside, with their indexes.

        Into an empty table that has the same indexes SQLite copies them as they are, and sorts nothing.
        """
        name = self._name + ASIDE
        # Never made here: a file that somebody has removed meanwhile would be an empty one, and so would its tables.
        db.execute("ATTACH ? AS aside", (f"{Path(name).as_uri()}?mode=rw",))
        if not db.execute(_SAME).get:
            raise BuildIncomplete
        for projection in projections:
            db.execute(projection.tables)
            db.execute(projection.indexes)
        for (table,) in db.execute(_COPIED).fetchall():
            db.execute(f'INSERT INTO main."{table}" SELECT * FROM aside."{table}"')
        db.execute("DETACH aside")
        remove(name)
