"""Filling views from the ledger: batch after batch, and for a rebuild whole files, on two cores."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import msgspec

from projections import batch
from projections.projection import Projection
from service import database, ledger
from service.database import Connection
from service.errors import ChatledgerError
from service.events import Event
from service.location import Location, remove
from service.settings import Settings

BATCH_EVENTS = 2_000
"""A batch of events and what becomes of it stay in the processor's cache; ten times as many took a fifth longer."""
ASIDE = ".aside"

_TABLES = """
CREATE TABLE views (
  only_row    INTEGER PRIMARY KEY CHECK (only_row = 1),
  ledger_id   TEXT    NOT NULL,
  projections TEXT    NOT NULL,               -- names and versions, as JSON
  position    INTEGER NOT NULL,               -- of the last event that all tables here have
  target      INTEGER NOT NULL,               -- where a batch that is being applied ends
  leaf        BLOB    NOT NULL                -- of that event: the same position of another history is another leaf
) STRICT;
"""
_BEGIN = "INSERT INTO views VALUES (1, ?, ?, 0, 0, x'')"
_COPIED = "SELECT name FROM aside.sqlite_schema WHERE type = 'table' AND name <> 'views' AND name NOT LIKE 'sqlite_%'"

Progress = Callable[[int, int], None]
"""Called with the position reached and the position to reach."""


class ProjectionFailed(ChatledgerError):
    """A projection's `apply` raised: the views cannot follow the ledger until it is mended."""

    def __init__(self, name: str) -> None:
        super().__init__(f"The projection {name!r} failed; the views cannot follow the ledger.")
        self.name = name


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
        except database.SQLError:
            raise
        except Exception as error:
            raise ProjectionFailed(projection.name) from error


def take_to(db: Connection, ledger_db: Connection, projections: Sequence[Projection], *, start: int, end: int) -> None:
    """Bring the tables of *db*, which have seen the events up to *start*, to *end*, in one transaction.

    Raises:
        LedgerDamaged: the events on the way have a gap, or one of them cannot be read.
        ProjectionFailed: a projection of the user's raised.
    """
    try:
        events = ledger.read_after(ledger_db, start, end - start) if in_python(projections) else []
        with database.immediate(db):
            db.execute(batch.TAKE_TO, (end,))
            apply_in_python(db, projections, events)
    except database.SQLError:
        # Where the events themselves are the reason, reading them says which one.
        ledger.read_after(ledger_db, start, end - start)
        raise


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

    def build(self, ledger_db: Connection, progress: Progress | None = None) -> Connection:
        """Fill the file with all events that *ledger_db* has now, and return a connection to it."""
        target = ledger.head(ledger_db).position
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
            if other is not None:
                other.result()
                self._copy(db)
        with database.immediate(db):
            for projection in self._projections:
                db.execute(projection.indexes)
        database.finish_bulk(db, self._location)
        return db

    def _fill_aside(self, projections: Sequence[Projection], ledger_db: Connection, target: int) -> None:
        with closing(database.open_reader(ledger_db.filename, self._location, self._settings)) as reader:
            self._fill(self._name + ASIDE, projections, reader, target, None).close()

    def _fill(
        self,
        name: str,
        projections: Sequence[Projection],
        ledger_db: Connection,
        target: int,
        progress: Progress | None,
    ) -> Connection:
        remove(name) if not self._location.memory else None
        db = database.open_views(name, self._location, self._settings, ledger_db)
        database.prepare_bulk(db, self._location)
        with database.immediate(db):
            db.execute(_TABLES)
            for projection in projections:
                db.execute(projection.tables)
            db.execute(_BEGIN, (ledger.identity(ledger_db), versions_of(self._projections)))
        batch.prepare_advance(db, projections)
        for start in range(0, target, BATCH_EVENTS):
            if self._stopped.is_set():
                break
            end = min(start + BATCH_EVENTS, target)
            take_to(db, ledger_db, projections, start=start, end=end)
            if progress is not None:
                progress(end, target)
        return db

    def _copy(self, db: Connection) -> None:
        """Copy the tables that were filled aside."""
        name = self._name + ASIDE
        db.execute("ATTACH ? AS aside", (name,))
        with database.immediate(db):
            for projection in self._projections:
                if projection.aside:
                    db.execute(projection.tables)
            for (table,) in db.execute(_COPIED).fetchall():
                db.execute(f'INSERT INTO main."{table}" SELECT * FROM aside."{table}"')
        db.execute("DETACH aside")
        remove(name)
