"""The views file: all read models in one SQLite file that knows how far it has come; disposable.

The views can be behind the ledger, never ahead of it: the ledger commits first, and whatever the views lack they
take from it. What cannot be trusted is not repaired but built anew, in a new file (docs/architecture.md).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from chatledger.errors import ChatledgerError, Overloaded, SettingsError
from chatledger.ledger import event_store
from chatledger.settings import Settings
from chatledger.storage import sql_errors, views_file
from chatledger.storage.connection import Connection
from chatledger.storage.paths import BUILDING, Location, put_in_place, remove, sync_folder
from chatledger.views import apply_triggers
from chatledger.views.builder import BATCH_EVENTS, Builder, Progress, ProjectionFailed, take_to, versions_of
from chatledger.workers.shared_state import Board
from chatledger_projections import messages, sessions, tenant_events
from chatledger_projections.projection import Projection

BUILT_IN = (sessions.PROJECTION, messages.PROJECTION, tenant_events.PROJECTION)
_BESIDE = ".beside"
CHECKED_BYTES_MAX = 64 * 1024 * 1024
"""Views up to this size are checked whole at each start, which takes well under a second. In larger ones damage
is met when a damaged page is read, and they are built anew then."""

ANEW_FROM = 2
"""To build views anew takes a third of the time, event for event, of having them follow."""

_TRUST = "SELECT ledger_id, projections, position, leaf FROM views"


class RebuildOvertaken(ChatledgerError):
    """Views that were built beside the live ones are of a generation whose turn it is not: others took their place."""

    def __init__(self, built: int, live: int) -> None:
        super().__init__(f"Views of generation {built} were built, but the live ones are of generation {live} by now.")


class Views:
    """The views of one ledger, attached to its writing connection. Not for use from two threads at a time."""

    def __init__(
        self,
        location: Location,
        settings: Settings,
        projections: Sequence[Projection] = (),
        *,
        board: Board | None = None,
    ) -> None:
        self.projections = (*BUILT_IN, *projections)
        names = [projection.name for projection in self.projections]
        if twins := {name for name in names if names.count(name) > 1}:
            raise SettingsError(f"CHATLEDGER_PROJECTIONS names a projection {min(twins)!r}, and there is one already.")
        self.generation = max(location.generations(), default=0)
        self.position = 0
        self._location = location
        self._settings = settings
        self._board = board
        self._db: Connection | None = None
        self._left = False

    @property
    def live(self) -> Sequence[Projection]:
        """The projections that take new events together with the ledger: all, or none while they are left behind."""
        return () if self._left else self.projections

    @property
    def are_built_in(self) -> bool:
        """Whether there are no projections of one's own, which may refuse an event."""
        return self.projections == BUILT_IN

    def is_to_blame(self, error: BaseException) -> bool:
        """Whether *error*, of a group that was not committed, is of a projection of one's own."""
        of_sql = isinstance(error, sql_errors.SQLError) and sql_errors.to_domain_error(error) is None
        failed = isinstance(error.__cause__, ProjectionFailed) or (of_sql and not sql_errors.is_damage(error))
        return failed and not self.are_built_in

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
    def is_open(self) -> bool:
        """Whether they are attached."""
        return self._db is not None

    def beside(self, generation: int) -> str:
        """The name under which *generation* is built while the one before is live: not that of `rebuild`.

        So a rebuild beside that does not stop at once is in nobody's way.
        """
        return self._location.views(generation) + _BESIDE + BUILDING

    @property
    def name(self) -> str:
        """The name that readers open."""
        return self._location.views(self.generation)

    def open(self, ledger_db: Connection, progress: Progress | None = None) -> str | None:
        """Attach the newest views and catch up; build them anew where they cannot be used.

        Returns:
            Why they were built anew, or None if they were not.
        """
        self.clean_up()
        reason = self._try_open(ledger_db) if self.generation else "there were no views"
        if reason is None:
            self.catch_up(ledger_db, progress)
        else:
            self.rebuild(ledger_db, progress)
        return reason

    def clean_up(self) -> None:
        """Remove what was left of a rebuild, or of older generations."""
        self._discard([number for number in self._location.generations() if number < self.generation])
        self._location.remove_unfinished_views()

    def follow(self, ledger_db: Connection, generation: int) -> None:
        """Attach the views that another worker has made the live ones, and see how far others have taken them."""
        if self._db is None or generation != self.generation:
            self.close()
            self._attach(ledger_db, generation)
            apply_triggers.prepare_append(ledger_db, self.projections)
            self.generation = generation
        self.position = self._reached(ledger_db)

    def _try_open(self, ledger_db: Connection) -> str | None:
        """Attach the current generation; why it cannot be used, or None."""
        try:
            self._attach(ledger_db, self.generation)
            reason = self.distrust(ledger_db, schema="views", name=self.name)
            if reason is None:
                self.position = self._reached(ledger_db)
                apply_triggers.prepare_append(ledger_db, self.projections)
                return None
        except sql_errors.SQLError:
            reason = "the views were damaged"
        self.close()
        return reason

    def _attach(self, ledger_db: Connection, generation: int) -> None:
        self._db = ledger_db
        views_file.attach_views(ledger_db, self._location.views(generation), self._location, self._settings)

    def _reached(self, db: Connection) -> int:
        return int(db.execute("SELECT position FROM views").get)

    def distrust(self, db: Connection, *, schema: str, name: str) -> str | None:
        """Why the views in the file *name* must not be used, or None; they and the ledger are *db*'s."""
        small = not self._location.memory and Path(name).stat().st_size <= CHECKED_BYTES_MAX
        if small and db.execute(f"PRAGMA {schema}.quick_check(1)").get != "ok":
            return "the views were damaged"
        row = db.execute(_TRUST).fetchone()
        if row is None:
            return "the views were damaged"
        ledger_id, projections, position, leaf = row
        if ledger_id != event_store.identity(db):
            return "the views were those of another ledger"
        if projections != versions_of(self.projections):
            return "the projections have changed"
        if position and event_store.leaf_at(db, position) != leaf:
            return "the views were ahead of the ledger"
        return None

    def catch_up(self, ledger_db: Connection, progress: Progress | None = None) -> None:
        """Apply whatever the ledger has and the views lack.

        Raises:
            LedgerDamaged: the events on the way have a gap, or one of them cannot be read.
            ProjectionFailed: a projection of the user's raised.
        """
        if self._left:
            self.position = event_store.head(ledger_db).position
            return
        for position in self._taken(ledger_db, self.position, progress):
            self.position = position

    @contextmanager
    def left_behind(self, ledger_db: Connection, progress: Progress | None = None) -> Iterator[None]:
        """For the block, have new events go into the ledger alone; behind it the views follow.

        For many events that nobody has to read before the last one is there. They take less work so: those of a
        batch are larger, and where most of the ledger is new, the views are built anew, on two cores. If the block
        raises, the views stay detached, and whoever opens them next has them catch up, as after a crash.

        Within the block the tables of the views cannot be read: only sessions can be made.
        """
        reached = self._reached(ledger_db)
        self.close()
        apply_triggers.prepare_append_alone(ledger_db)
        self._db, self._left = ledger_db, True
        try:
            yield
        finally:
            self._db, self._left = None, False
        if event_store.head(ledger_db).position > ANEW_FROM * reached:
            self.rebuild(ledger_db, progress)
        else:
            self._attach(ledger_db, self.generation)
            apply_triggers.prepare_append(ledger_db, self.projections)
            self.position = reached
            self.catch_up(ledger_db, progress)

    def _taken(self, ledger_db: Connection, start: int, progress: Progress | None = None) -> Iterator[int]:
        """Take the attached views from *start* to the ledger's head; each position on the way, once they have it."""
        target = event_store.head(ledger_db).position
        while start < target:
            reached = min(start + BATCH_EVENTS, target)
            take_to(self.db, ledger_db, self.projections, start=start, end=reached)
            start = reached
            yield reached
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
            # Told to readers first: nothing came since, and a reader that opens the old name later would find nothing.
            self.generation = generation
            self._swap(ledger_db, generation)
            built.close()
        else:
            built.close()
            put_in_place(name, self._location.views(generation))
            try:
                self._swap(ledger_db, generation)
            except BaseException:
                self._give_up(ledger_db, generation)
                raise
        self.discard_older()

    def take_over(self, ledger_db: Connection, name: str, generation: int) -> None:
        """Put the closed file *name*, in which the next generation was built beside, in the place of the live views.

        What it lacks it is given here. Readers learn of it once it has all that the live views have, so that none goes
        back in time. If anything fails, the live views stay.

        Raises:
            RebuildOvertaken: the live views are not those beside which it was built.
        """
        if generation != self.generation + 1:
            raise RebuildOvertaken(generation, self.generation)
        Path(name).replace(self._location.views(generation))
        try:
            self._swap(ledger_db, generation)
        except BaseException:
            self._give_up(ledger_db, generation)
            try:
                self._attach(ledger_db, self.generation)
                apply_triggers.prepare_append(ledger_db, self.projections)
            except sql_errors.SQLError:
                self._db = None  # they are not open: the next group opens all anew
            raise

    def _give_up(self, ledger_db: Connection, generation: int) -> None:
        """Detach and remove views that could not take the place of the live ones."""
        self._db = None
        with suppress(sql_errors.SQLError):
            views_file.detach_views(ledger_db)
        with suppress(OSError):  # then it stays, and is the newest one at the next start
            remove(self._location.views(generation))

    def _swap(self, ledger_db: Connection, generation: int) -> None:
        self.close()
        self._attach(ledger_db, generation)
        apply_triggers.prepare_append(ledger_db, self.projections)
        positions = [self._reached(ledger_db)]
        positions += self._taken(ledger_db, positions[0])
        self.position, self.generation = positions[-1], generation
        if self._board is not None:
            # Before the old file goes, and before anything is answered that only the new one has.
            self._board.generation = generation

    def discard_older(self) -> None:
        """Remove the generations before the live one, which has its name for good first."""
        if not self._location.memory:
            sync_folder(self._location.folder)
        self._discard([number for number in self._location.generations() if number < self.generation])

    def _discard(self, generations: Sequence[int]) -> None:
        for generation in generations:
            remove(self._location.views(generation))

    def close(self) -> None:
        """Detach them."""
        db, self._db = self._db, None
        if db is not None:
            views_file.detach_views(db)

    def forget(self) -> None:
        """The connection that the views are attached to is about to be closed as it is."""
        self._db = None
