"""The views file: all read models in one SQLite file that knows how far it has come; disposable.

The views can be behind the ledger, never ahead of it: the ledger commits first, and whatever the views lack they
take from it. What cannot be trusted is not repaired but built anew, in a new file (docs/architecture.md).
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from projections import feed, messages, sessions
from projections.projection import Projection
from service import database, ledger
from service.database import Connection
from service.errors import ChatledgerError, LedgerDamaged
from service.events import Event
from service.ledger import Head
from service.location import BUILDING, Location, put_in_place, remove
from service.settings import Settings

BUILT_IN = (sessions.PROJECTION, messages.PROJECTION, feed.PROJECTION)
BATCH_EVENTS = 10_000
CHECKED_BYTES_MAX = 64 * 1024 * 1024
"""Views up to this size are checked whole at each start, which takes well under a second. In larger ones damage
is met when a damaged page is read, and they are built anew then."""

_TABLES = """
CREATE TABLE views (
  only_row    INTEGER PRIMARY KEY CHECK (only_row = 1),
  ledger_id   TEXT    NOT NULL,
  projections TEXT    NOT NULL,               -- names and versions, as JSON
  position    INTEGER NOT NULL,               -- of the last event that all tables here have
  leaf        BLOB    NOT NULL                -- of that event: the same position of another history is another leaf
) STRICT;
"""
_ADVANCE = "UPDATE views SET position = ?, leaf = ?"

Progress = Callable[[int, int], None]
"""Called with the position reached and the position to reach."""


class ViewsOutOfStep(ChatledgerError):
    """Events were applied that do not continue the views; nothing was changed."""


class ProjectionFailed(ChatledgerError):
    """A projection's `apply` raised: the views cannot follow the ledger until it is mended."""

    def __init__(self, name: str) -> None:
        super().__init__(f"The projection {name!r} failed; the views cannot follow the ledger.")
        self.name = name


class Views:
    """The views of one ledger, held by its one writer. Not for use from two threads at a time."""

    def __init__(self, location: Location, settings: Settings, projections: Sequence[Projection] = ()) -> None:
        self.projections = (*BUILT_IN, *projections)
        self.generation = max(location.generations(), default=0)
        self.position = 0
        self._location = location
        self._settings = settings
        self._db: Connection | None = None

    @property
    def db(self) -> Connection:
        """The writer's own connection: it sees what it has not committed yet."""
        if self._db is None:
            raise ViewsOutOfStep("the views are closed")
        return self._db

    @property
    def name(self) -> str:
        """The name that readers open."""
        return self._location.views(self.generation)

    def open(self, ledger_db: Connection, progress: Progress | None = None) -> str | None:
        """Open the newest views and catch up; build them anew where they cannot be used.

        Returns:
            Why they were built anew, or None if they were not.
        """
        self._discard([number for number in self._location.generations() if number < self.generation])
        self._location.remove_unfinished_views()
        reason = self._try_open(ledger_db) if self.generation else "there were no views"
        if reason is None:
            self.catch_up(ledger_db, progress)
        else:
            self.rebuild(ledger_db, progress)
        return reason

    def _try_open(self, ledger_db: Connection) -> str | None:
        """Open the current generation; why it cannot be used, or None."""
        try:
            db = database.open_views(self.name, self._location, self._settings)
        except database.SQLError:
            return "the views could not be opened"
        try:
            reason = self._distrust(db, ledger_db)
        except database.SQLError:
            reason = "the views were damaged"
        if reason is not None:
            db.close()
            return reason
        self._db = db
        return None

    def _distrust(self, db: Connection, ledger_db: Connection) -> str | None:
        if Path(self.name).stat().st_size <= CHECKED_BYTES_MAX and db.execute("PRAGMA quick_check(1)").get != "ok":
            return "the views were damaged"
        row = db.execute("SELECT ledger_id, projections, position, leaf FROM views").fetchone()
        if row is None:
            return "the views were damaged"
        ledger_id, projections, position, leaf = row
        if ledger_id != ledger.identity(ledger_db):
            return "the views were those of another ledger"
        if projections != self._versions():
            return "the projections have changed"
        if position and ledger.leaf_at(ledger_db, position) != leaf:
            return "the views were ahead of the ledger"
        self.position = position
        return None

    def _versions(self) -> str:
        versions = {projection.name: projection.version for projection in self.projections}
        return msgspec.json.encode(versions).decode()

    def apply(self, events: Sequence[Event], head: Head) -> None:
        """Bring the tables from where they are to *head* with *events*, in one transaction.

        Raises:
            ViewsOutOfStep: *events* do not begin right behind the views' position or do not end at *head*.
        """
        if events[0].position != self.position + 1 or events[-1].position != head.position:
            raise ViewsOutOfStep(f"views at {self.position} were given events from {events[0].position}")
        with database.immediate(self.db):
            self._apply(self.db, events, head)
        self.position = head.position

    def _apply(self, db: Connection, events: Sequence[Event], head: Head) -> None:
        for projection in self.projections:
            try:
                projection.apply(db, events)
            except database.SQLError:
                raise
            except Exception as error:
                raise ProjectionFailed(projection.name) from error
        db.execute(_ADVANCE, (head.position, head.leaf))

    def catch_up(self, ledger_db: Connection, progress: Progress | None = None) -> None:
        """Apply whatever the ledger has and the views lack."""
        target = ledger.head(ledger_db).position
        while self.position < target:
            events = ledger.read_after(ledger_db, self.position, BATCH_EVENTS)
            self.apply(events, _head_of(ledger_db, events))
            if progress is not None:
                progress(self.position, target)

    def rebuild(self, ledger_db: Connection, progress: Progress | None = None) -> None:
        """Build a new views file from the ledger alone and put it in the place of the present one.

        It gets its name only once it is whole and on the disk: a crash before leaves a file to delete.
        """
        generation = self.generation + 1
        building = self._location.views(generation) + BUILDING
        db = self._build(building, ledger_db, progress)
        old = self._db
        if self._location.memory:
            # A database in memory cannot be renamed, nor need it be: it is given its name from the start.
            self._db = db
        else:
            db.close()
            put_in_place(building, self._location.views(generation))
            self._db = database.open_views(self._location.views(generation), self._location, self._settings)
        self.generation = generation
        self.position = ledger.head(ledger_db).position
        if old is not None:
            old.close()
        self._discard([number for number in self._location.generations() if number < generation])

    def _build(self, building: str, ledger_db: Connection, progress: Progress | None) -> Connection:
        name = self._location.views(self.generation + 1) if self._location.memory else building
        db = database.open_views(name, self._location, self._settings)
        database.prepare_bulk(db, self._location)
        with database.immediate(db):
            db.execute(_TABLES)
            for projection in self.projections:
                db.execute(projection.tables)
            row = (ledger.identity(ledger_db), self._versions())
            db.execute("INSERT INTO views VALUES (1, ?, ?, 0, x'')", row)
        position, target = 0, ledger.head(ledger_db).position
        while position < target:
            events = ledger.read_after(ledger_db, position, BATCH_EVENTS)
            with database.immediate(db):
                self._apply(db, events, _head_of(ledger_db, events))
            position = events[-1].position
            if progress is not None:
                progress(position, target)
        with database.immediate(db):
            for projection in self.projections:
                db.execute(projection.indexes)
        database.finish_bulk(db, self._location)
        return db

    def _discard(self, generations: Sequence[int]) -> None:
        for generation in generations:
            remove(self._location.views(generation))

    def close(self) -> None:
        """Checkpoint and close."""
        if self._db is not None:
            if not self._location.memory:
                database.checkpoint(self._db)
            self._db.close()
            self._db = None


def _head_of(ledger_db: Connection, events: Sequence[Event]) -> Head:
    if not events:
        raise LedgerDamaged("The ledger ends before the position of its newest event.")
    position = events[-1].position
    return Head(position, ledger.leaf_at(ledger_db, position) or b"")
