"""The views file: all read models in one SQLite file that knows how far it has come; disposable.

The views can be behind the ledger, never ahead of it: the ledger commits first, and whatever the views lack they
take from it. What cannot be trusted is not repaired but built anew, in a new file (docs/architecture.md).
"""

from collections.abc import Sequence
from pathlib import Path

from projections import batch, feed, messages, sessions
from projections.build import BATCH_EVENTS, Builder, Progress, take_to, versions_of
from projections.projection import Projection
from service import database, ledger
from service.database import Connection
from service.errors import Overloaded
from service.location import BUILDING, Location, put_in_place, remove
from service.settings import Settings

BUILT_IN = (sessions.PROJECTION, messages.PROJECTION, feed.PROJECTION)
CHECKED_BYTES_MAX = 64 * 1024 * 1024
"""Views up to this size are checked whole at each start, which takes well under a second. In larger ones damage
is met when a damaged page is read, and they are built anew then."""

_TRUST = "SELECT ledger_id, projections, position, leaf FROM views"


class Views:
    """The views of one ledger, attached to its writing connection. Not for use from two threads at a time."""

    def __init__(self, location: Location, settings: Settings, projections: Sequence[Projection] = ()) -> None:
        self.projections = (*BUILT_IN, *projections)
        self.generation = max(location.generations(), default=0)
        self.position = 0
        self._location = location
        self._settings = settings
        self._db: Connection | None = None

    @property
    def db(self) -> Connection:
        """The ledger's writing connection, to which the views are attached: it sees what it has not committed yet.

        Raises:
            Overloaded: they are not.
        """
        if self._db is None:
            raise Overloaded("The views are not open.", retry_after_s=5)
        return self._db

    @property
    def name(self) -> str:
        """The name that readers open."""
        return self._location.views(self.generation)

    def open(self, ledger_db: Connection, progress: Progress | None = None) -> str | None:
        """Attach the newest views and catch up; build them anew where they cannot be used.

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
        """Attach the current generation; why it cannot be used, or None."""
        try:
            self._attach(ledger_db)
            reason = self._distrust(ledger_db)
            if reason is None:
                batch.prepare_append(ledger_db, self.projections)
                return None
        except database.SQLError:
            reason = "the views were damaged"
        self.close()
        return reason

    def _attach(self, ledger_db: Connection) -> None:
        self._db = ledger_db
        database.attach_views(ledger_db, self.name, self._location)

    def _distrust(self, db: Connection) -> str | None:
        small = not self._location.memory and Path(self.name).stat().st_size <= CHECKED_BYTES_MAX
        if small and db.execute("PRAGMA views.quick_check(1)").get != "ok":
            return "the views were damaged"
        row = db.execute(_TRUST).fetchone()
        if row is None:
            return "the views were damaged"
        ledger_id, projections, position, leaf = row
        if ledger_id != ledger.identity(db):
            return "the views were those of another ledger"
        if projections != versions_of(self.projections):
            return "the projections have changed"
        if position and ledger.leaf_at(db, position) != leaf:
            return "the views were ahead of the ledger"
        self.position = position
        return None

    def catch_up(self, ledger_db: Connection, progress: Progress | None = None) -> None:
        """Apply whatever the ledger has and the views lack.

        Raises:
            LedgerDamaged: the events on the way have a gap, or one of them cannot be read.
            ProjectionFailed: a projection of the user's raised.
        """
        target = ledger.head(ledger_db).position
        while self.position < target:
            reached = min(self.position + BATCH_EVENTS, target)
            take_to(self.db, ledger_db, self.projections, start=self.position, end=reached)
            self.position = reached
            if progress is not None:
                progress(reached, target)

    def rebuild(self, ledger_db: Connection, progress: Progress | None = None) -> None:
        """Build a new views file from the ledger alone and put it in the place of the present one.

        It gets its name only once it is whole and on the disk: a crash before leaves a file to delete.
        """
        generation, memory = self.generation + 1, self._location.memory
        name = self._location.views(generation) + ("" if memory else BUILDING)
        built = Builder(name, self._location, self._settings, self.projections).build(ledger_db, progress)
        if memory:  # it has its name from the start, and lives as long as it is open
            self._swap(ledger_db, generation)
            built.close()
        else:
            built.close()
            put_in_place(name, self._location.views(generation))
            self._swap(ledger_db, generation)
        self._discard([number for number in self._location.generations() if number < generation])

    def _swap(self, ledger_db: Connection, generation: int) -> None:
        self.close()
        self.generation = generation
        self._attach(ledger_db)
        batch.prepare_append(ledger_db, self.projections)
        self.position = int(ledger_db.execute("SELECT position FROM views").get)
        self.catch_up(ledger_db)

    def _discard(self, generations: Sequence[int]) -> None:
        for generation in generations:
            remove(self._location.views(generation))

    def close(self) -> None:
        """Checkpoint and detach."""
        db, self._db = self._db, None
        if db is not None:
            database.detach_views(db)

    def forget(self) -> None:
        """The connection that the views are attached to is about to be closed as it is."""
        self._db = None
