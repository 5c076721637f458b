"""The one writer's work: a group of commands becomes one transaction of the ledger and its views.

Synchronous and for one thread; `writer.py` feeds it while serving, an import feeds it directly.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog

from chatledger.domain.api_keys import KeyRing
from chatledger.errors import DomainError, OutcomeUnknown, Overloaded, RefusedToStart, StorageFull
from chatledger.ledger import api_key_store, event_store, idempotency_store, tree_store
from chatledger.ledger.event_store import Record
from chatledger.ledger.idempotency_store import KeyClock
from chatledger.ledger.merkle import Frontier
from chatledger.proofs.signed_heads import check_no_other_key
from chatledger.settings import Settings
from chatledger.storage import ledger_file, sql_errors, transactions, wal
from chatledger.storage.connection import Connection
from chatledger.storage.file_presence import FilePresence
from chatledger.storage.paths import Location, exclusive
from chatledger.views.apply_triggers import APPEND
from chatledger.views.builder import ProjectionFailed, apply_in_python, in_python
from chatledger.views.live_views import Views
from chatledger.workers.shared_state import Board
from chatledger.writing.command_group import Accepted, Group, Outcome, States, Submission
from chatledger_projections import projection

log = structlog.get_logger("chatledger.committer")

KNOWN_STATES_MAX = 4_000
"""The most session states that are kept from one group to the next; with 64 KiB of traits each at the worst."""

_US_PER_DAY = 24 * 60 * 60 * 1_000_000
_NEVER = -1


@contextmanager
def hold(location: Location, settings: Settings) -> Iterator["Committer"]:
    """The ledger at *location*, opened for its one writer and closed at the end; its views are not opened yet.

    The folder and the ledger are made if they are not there.

    Raises:
        LedgerLocked: a server or another command writes to it.
        RefusedToStart: rule 10, or the storage fails: in the block too, where it is not the answer to a command.
    """
    with sql_errors.storage_failures_named(location.ledger):
        ledger_file.look(location, settings)
        location.make_folder()
        with exclusive(location), opened(location, settings) as committer:
            yield committer


@contextmanager
def opened(location: Location, settings: Settings) -> Iterator["Committer"]:
    """As `hold`, for whoever has the folder, the lock and the names of failures already."""
    check_no_other_key(location, settings)
    committer = Committer(location, settings, Views(location, settings, projection.load(settings.projections)))
    committer.open()
    try:
        yield committer
    finally:
        committer.close()


@contextmanager
def join(location: Location, settings: Settings, board: Board) -> Iterator["Committer"]:
    """The ledger at *location* for one of several workers, whose supervisor holds it; views open and caught up.

    Raises:
        RefusedToStart: rule 10, or the storage fails.
    """
    with sql_errors.storage_failures_named(location.ledger):
        views = Views(location, settings, projection.load(settings.projections), board=board)
        committer = Committer(location, settings, views, board)
        with committer.turn():
            committer.open_beside()
        try:
            yield committer
        finally:
            committer.close()


def _refusal(what: str, error: Exception) -> DomainError:
    """What a caller is told whose command came to nothing because of *error*: a full disk is one, wherever it shows.

    As where the ledger's file still had room for a group and the views' had not: they have to follow before the next.
    """
    cause: BaseException | None = error
    while cause is not None:
        if sql_errors.is_full(cause):
            return StorageFull()
        cause = cause.__cause__
    return Overloaded(what, retry_after_s=5)


class Committer:
    """Holds the ledger's and the views' writing connections."""

    def __init__(self, location: Location, settings: Settings, views: Views, board: Board | None = None) -> None:
        """Make one that is not open yet; with a *board* where other workers write to the same ledger."""
        self.views = views
        self.location = location
        self.settings = settings
        self._ledger: Connection | None = None
        self._files: FilePresence | None = None
        self._missing: str | None = None
        self._states: States = {}
        self.keys = KeyRing()
        # Whether the views are known to be at the ledger's head. Nobody else writes while this process holds
        # the ledger's lock, and if somebody did, the guard on positions would refuse our next event.
        self._in_step = False
        self._next_stream = 1
        self._tree = Frontier()
        self._key_clock = KeyClock(0)
        self._board = board
        self._has_turn = False
        self._changes_seen = _NEVER
        self._keys_counted = _NEVER
        self._keys_said: KeyRing | None = None

    @property
    def is_shared(self) -> bool:
        """Whether other workers write to the same ledger."""
        return self._board is not None

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Write alone: the other workers wait until the block ends, and know of what it did before anybody is told.

        Where there are no others it is nothing. Within a turn it is the same turn.

        Raises:
            Overloaded, StorageFull: what the others have written cannot be read.
        """
        board = self._board
        if board is None or self._has_turn:
            yield
            return
        board.take_turn()
        self._has_turn = True
        try:
            self._begin(board)
            try:
                yield
            finally:
                self._say(board)
        finally:
            self._has_turn = False
            board.give_turn()

    def _begin(self, board: Board) -> None:
        """Take over what others have written since our last turn; all of it, where one of them did not end."""
        unfinished, others = board.is_unfinished, board.changes != self._changes_seen
        board.begin()
        if not (unfinished or others):
            return
        self._changes_seen, self._in_step, self._states = _NEVER, False, {}
        if self._ledger is None or not self.views.is_open:
            return  # whoever needs them opens all anew
        try:
            # Views have their name from the moment on when they are whole, so that the newest are the live ones.
            newest = max(self.location.generations(), default=board.generation) if unfinished else board.generation
            self.views.follow(self.ledger, newest)
            if unfinished or board.keys != self._keys_counted:
                self.keys = api_key_store.read_keys(self.ledger)
                self._keys_counted, self._keys_said = board.keys, None if unfinished else self.keys
        except (sql_errors.SQLError, RefusedToStart) as error:
            self._let_go()
            raise _refusal("The ledger cannot be read.", error) from error

    def _say(self, board: Board) -> None:
        """Let the others know, before the answers go out, that they have to look."""
        self._changes_seen = board.count_change()
        if self.keys is not self._keys_said:
            board.count_keys()
            self._keys_counted, self._keys_said = board.keys, self.keys
        if self.is_open and self.views.is_open:
            board.position, board.generation = self.views.position, self.views.generation
            board.finish()

    @property
    def is_open(self) -> bool:
        """Whether there is a connection to write with."""
        return self._ledger is not None

    @property
    def has_its_files(self) -> bool:
        """Whether the ledger's files were there, behind the last group."""
        return self._missing is None

    @property
    def ledger(self) -> Connection:
        """The ledger's writing connection."""
        if self._ledger is None:
            raise Overloaded("The ledger is closed.")
        return self._ledger

    def open(self) -> None:
        """Open the ledger and look at its tail; the views follow with `views.open`.

        Raises:
            RefusedToStart: rule 10.
        """
        if self._files is not None and self._files.is_replaced:
            raise RefusedToStart("The ledger's file was removed or replaced: bring it back, or start the server again.")
        connection = ledger_file.open_ledger(self.location, self.settings)
        try:
            event_store.check_tail(connection)
            tree_store.open_tree(connection, event_store.head(connection).position)
            keys = api_key_store.read_keys(connection)
            self._key_clock = KeyClock.of(connection)
        except BaseException:
            connection.close()
            raise
        self._ledger, self._in_step, self.keys = connection, False, keys
        self._files = FilePresence(self.location)

    def open_beside(self) -> None:
        """Open both files, where others have them open already. The caller has the turn."""
        self.open()
        try:
            # Looked up within the turn: a name that another worker has removed since would be made anew, and empty.
            newest = max(self.location.generations(), default=0)
            if newest:
                self.views.follow(self.ledger, newest)
                self.views.catch_up(self.ledger)
            else:
                self.views.rebuild(self.ledger)
        except BaseException:
            self._let_go()
            raise
        board = self._board
        if board is not None and board.claim_rebuild():  # what this worker may have left when it died
            try:
                self.views.clean_up()
            finally:
                board.release_rebuild()

    def reopen(self) -> None:
        """Start over with a fresh connection after a commit of unknown outcome; the views catch up with it."""
        if self.location.memory:
            return
        self._let_go()
        self._open_with_views()

    def start_over(self) -> None:
        """Take nothing for granted, behind a fault that may have come anywhere: open both files anew, in a turn.

        What is in memory cannot be opened anew: an open transaction is rolled back, and all else is read again.

        Raises:
            RefusedToStart, Overloaded, StorageFull, SQLError: not now; the next group tries again.
        """
        self._in_step, self._states = False, {}
        if not self.location.memory:
            self._let_go()
        elif self.ledger.in_transaction:
            self.ledger.execute("ROLLBACK")
        with self.turn():
            self._open_again()
            self._follow()

    def _open_with_views(self) -> None:
        """Open both files, or neither: a ledger without views would refuse every command and never look again."""
        self.open()
        try:
            if self.is_shared:  # others may have built newer ones
                self.views.generation = max(self.location.generations(), default=0)
            self.views.open(self.ledger)
        except BaseException:
            self._let_go()
            raise

    def _let_go(self) -> None:
        """Close the connection as it is."""
        connection, self._ledger = self._ledger, None
        if connection is not None:
            self.views.forget()
            connection.close()

    def close(self) -> None:
        """Checkpoint and close both files."""
        connection, self._ledger = self._ledger, None
        if connection is not None:
            with self._alone():
                try:
                    if not self.location.memory:
                        wal.checkpoint_at_end(connection)
                    self.views.close()
                finally:
                    self.views.forget()
                    connection.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Have no other worker write meanwhile."""
        if self._board is None:
            yield
            return
        self._board.take_turn()
        try:
            yield
        finally:
            self._board.give_turn()

    def commit(
        self, submissions: Sequence[Submission], before_write: Callable[[], object] = lambda: None
    ) -> list[Outcome]:
        """Decide each of *submissions* in turn and commit all of their events together.

        A refused one takes no other with it. The outcomes are in the order of the submissions. *before_write* is called
        when all is decided: from then on another thread may have most of the interpreter.

        Raises:
            StorageFull, Overloaded: nothing of the group was written, for a reason of the storage's.
            CommitFailed: nobody knows whether the group was written; `reopen` before anything else.
        """
        self._open_again()
        if self._missing is not None and self._look_for_files() is not None:
            raise Overloaded("The ledger's file was removed or replaced; nothing is written.", retry_after_s=5)
        states, self._states = self._states, {}
        try:
            if not self._in_step or len(states) > KNOWN_STATES_MAX:
                self._follow()
                states, self._next_stream = {}, event_store.next_stream(self.ledger)
                self._tree = tree_store.read(self.ledger)
            self._in_step = False
            group = Group(
                submissions,
                self.ledger,
                self.views,
                next_stream=self._next_stream,
                states=states,
                keyring=self.keys,
            )
            # Decided outside of a transaction: nobody else writes, so nothing that is read here can change.
            decided = [group.decide(submission) for submission in submissions]
            records = event_store.seal(group.events)
            before_write()
            self._write(group, records)
        except sql_errors.SQLError as error:
            refusal = sql_errors.to_domain_error(error)
            if refusal is None:
                raise
            raise refusal from error
        except ProjectionFailed as error:
            raise Overloaded("The views cannot follow the ledger.", retry_after_s=5) from error
        self.views.position = group.position
        # Only now: after a failure the head and the states are read anew.
        self._in_step, self._states = True, group.states
        self._next_stream, self.keys = group.next_stream, group.keyring
        if self._look_for_files() is not None:
            raise OutcomeUnknown("The ledger's file was removed or replaced; this write may be lost.")
        return [found.outcome(records) if isinstance(found, Accepted) else found for found in decided]

    def _look_for_files(self) -> str | None:
        """The name of a file of the ledger that is not there any more; said in the log when it is noticed."""
        found = None if self._files is None else self._files.missing()
        if found != self._missing:
            if found is not None:
                log.error("ledger removed", file=Path(found).name)
            else:
                log.warning("ledger back")
            self._missing = found
        return found

    def _write(self, group: Group, records: Sequence[Record]) -> None:
        """Write a group into the ledger and the views: one transaction, the ledger's file first."""
        grown = self._tree.copy()
        completed = grown.append([record.leaf for record in records])
        rows = [(*row, None) for row in event_store.rows(records)]
        if rows:
            rows[-1] = (*rows[-1][:-1], grown.encode())
        simple = not (completed or group.streams or group.answers or group.finished or in_python(self.views.live))
        if not simple or len(rows) > APPEND.ROWS_MAX:
            with transactions.immediate(self.ledger):
                event_store.write_streams(self.ledger, group.streams)
                APPEND.execute(self.ledger, rows)
                tree_store.extend_tiles(self.ledger, completed)
                apply_in_python(self.ledger, self.views.live, group.events)
                if group.finished:
                    event_store.note_finished(self.ledger, group.finished)
                self._remember(group, records)
        else:
            # One statement is a transaction of its own, and one step instead of three: each costs the writer a wait
            # for the interpreter lock.
            with transactions.autocommit():
                APPEND.execute(self.ledger, rows)
        self._tree = grown

    def _remember(self, group: Group, records: Sequence[Record]) -> None:
        """Keep the answers to new Idempotency-Keys, and forget old ones at twice the pace, so that none pile up."""
        if group.answers:
            time_us = self._key_clock.now_us()
            idempotency_store.remember(self.ledger, group.answers.values(), group.salts(records), now_us=time_us)
            before_us = time_us - self.settings.idempotency_days * _US_PER_DAY
            idempotency_store.prune(self.ledger, before_us=before_us, limit=2 * len(group.answers))

    def _open_again(self) -> None:
        """After a failed `reopen`: try again before each group, so that no restart is needed."""
        if self._ledger is not None and not self.views.is_open and not self.location.memory:
            self._let_go()  # a swap failed, and so did the way back
        if self._ledger is None:
            try:
                self._open_with_views()
            except (RefusedToStart, ProjectionFailed, sql_errors.SQLError, sql_errors.CommitFailed) as error:
                raise _refusal("The ledger cannot be opened.", error) from error

    def catch_up(self) -> None:
        """Bring the views to the ledger's head, outside of any group.

        Raises:
            Overloaded: they cannot follow, or the ledger cannot be opened.
        """
        self._open_again()
        self._follow()

    def _follow(self) -> None:
        try:
            self.views.catch_up(self.ledger)
        except (ProjectionFailed, sql_errors.CommitFailed) as error:
            raise _refusal("The views cannot follow the ledger.", error) from error
