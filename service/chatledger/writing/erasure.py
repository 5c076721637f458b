"""Erasing for good: what follows a `session.erased` or `message.erased` event (rule 9).

The event is committed first, as any other, and with it a row in the table `erasures`. From then on readers see nothing
of it. Then, in steps of one small transaction each, between which others write: the erasure is added to a list beside
the ledger, the rows go from the views, the payloads and salts in the ledger are overwritten with zeros, and the
write-ahead logs are truncated. Then the answer goes out. The ledger is last, because what was made from its payloads
can be made again, and cleared again, only while they are there. Each step can be done twice, so that a crash anywhere
leaves nothing that the next start does not finish (docs/decisions/0022-erasure-in-place.md).

Rows of the views move between pages and leave copies there. Views that are built after the erasure have none: the row
in `erasures` stays until such ones are live.
"""

import enum
import glob
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from chatledger.domain.commands import EraseSession
from chatledger.domain.events import Event, MessageErased, SessionErased
from chatledger.domain.timestamps import format_us
from chatledger.errors import DomainError, ErasurePending
from chatledger.ledger import event_store
from chatledger.ledger.merkle import commitment
from chatledger.storage import transactions, wal
from chatledger.storage.connection import Connection, SQLiteValue
from chatledger.storage.paths import Location
from chatledger.writing import erasure_list
from chatledger.writing.command_group import Submission
from chatledger.writing.committer import Committer
from chatledger.writing.erasure_list import Erasure

LIST = erasure_list.SUFFIX
ROWS_A_STEP = 2_000
"""Each may be in a page of its own: so a step writes 16 MiB at most, some tens of milliseconds."""
BYTES_A_STEP = 8 * 1024 * 1024
TRUNCATE_WAITS_MS = (0, 10, 25, 50)
"""How long the tries to truncate the logs wait for readers, with the write lock held; then the last."""
RETRY_TIMEOUT_MS = 100
"""How long a command waits for readers of what a crash has left to erase, before it goes on with its own work."""
TRY_PAUSE_S = 0.005
"""Between two tries, in which others write."""

_UNFINISHED = "SELECT position, stream FROM erasures WHERE NOT cleared ORDER BY position"
_CLEARED = "SELECT position, stream FROM erasures WHERE cleared ORDER BY position"
_ROWS = """SELECT position, version, length(payload) FROM events
  WHERE stream = ? AND version > ? AND version < ? ORDER BY version LIMIT ?"""
_ROWS_NAMED = """SELECT position, version, length(payload) FROM events
  WHERE position IN (SELECT value FROM json_each(?)) AND version > ? ORDER BY version LIMIT ?"""
# Overwritten before they go: a page that is only freed keeps what was in it.
_OVERWRITE_ROWS = """UPDATE messages SET payload = CAST(zeroblob(octet_length(payload)) AS TEXT)
  WHERE position IN (SELECT value FROM json_each(?)) AND payload IS NOT NULL"""
_DELETE_ROWS = "DELETE FROM messages WHERE position IN (SELECT value FROM json_each(?))"
_TAKE_CONTENT = "UPDATE messages SET removed = 1, payload = NULL WHERE position IN (SELECT value FROM json_each(?))"
# The tree needs the commitment of an event whose payload is gone, to make its leaf from its record again.
_KEEP_COMMITMENTS = """INSERT INTO commitments SELECT position, commitment(salt, payload) FROM events
  WHERE position IN (SELECT value FROM json_each(?)) AND payload >= x'01'"""
_OVERWRITE_PAYLOADS = """UPDATE events SET payload = zeroblob(length(payload)), salt = zeroblob(16)
  WHERE position IN (SELECT value FROM json_each(?)) AND payload >= x'01'"""
_SET_CLEARED = "UPDATE erasures SET cleared = TRUE WHERE position IN (SELECT value FROM json_each(?))"
_FORGET = "DELETE FROM erasures WHERE position IN (SELECT value FROM json_each(?))"
_FORGET_SCRUBBED = """DELETE FROM erasures
  WHERE cleared AND position IN (SELECT value FROM json_each((SELECT scrubbed FROM views)))"""
_IS_SCRUBBED = "SELECT NOT EXISTS (SELECT 1 FROM erasures WHERE position = ?)"
_OLDEST_UNSCRUBBED = (
    """SELECT count(*), min(events.recorded_at) FROM erasures JOIN events USING (position) WHERE cleared"""
)


class State(enum.Enum):
    """How far the erasures are behind a step."""

    MORE = enum.auto()
    """There is another step to do."""
    HELD = enum.auto()
    """A reader holds a write-ahead log, or it is being copied: the last step has to be tried again."""
    DONE = enum.auto()


class _Phase(enum.Enum):
    VIEWS = enum.auto()
    LEDGER = enum.auto()
    LOGS = enum.auto()


class _Work:
    """One erasure that is carried out: the events of *stream* below *version*, or those at *positions*."""

    def __init__(self, position: int, stream: int, version: int, positions: Sequence[int] | None) -> None:
        self.position = position
        self.stream = stream
        self.version = version
        self.positions = positions
        self.phase = _Phase.VIEWS
        self.only_views = False
        self.reached = 0
        """The version up to which the phase is done."""

    def rows(self, db: Connection, limit: int) -> list[tuple[int, int, int | None]]:
        """The position, version and payload's length of the next events to erase."""
        if self.positions is None:
            rows: list[Any] = db.execute(_ROWS, (self.stream, self.reached, self.version, limit)).fetchall()
        else:
            rows = db.execute(_ROWS_NAMED, (_json(self.positions), self.reached, limit)).fetchall()
        return rows

    def end_phase(self) -> None:
        """The phase is done for all of its events."""
        self.phase = _Phase.LEDGER if self.phase is _Phase.VIEWS else _Phase.LOGS
        self.reached = 0


class Eraser:
    """The erasures of one ledger, carried out by its writer in small steps."""

    def __init__(self, committer: Committer, copy_logs: Callable[[], bool] | None = None) -> None:
        """Make it; *copy_logs*, if another thread does that, has the logs copied back and says whether they are."""
        self._committer = committer
        self._copy_logs = copy_logs
        self._works: dict[int, _Work] = {}
        self._listed: set[int] | None = None
        self._tries = 0

    @property
    def unfinished(self) -> list[int]:
        """The positions of the erasures that are recorded and not finished, as far as `step` knows, in order."""
        return sorted(work.position for work in self._works.values() if not work.only_views)

    def step(self) -> State:
        """Do the next step of those that are recorded. For the one writer, between two groups.

        Raises:
            StorageFull, Overloaded, CommitFailed, SQLError, OSError: it could not be done now; call it again later.
        """
        self._committer.catch_up()
        self._load()
        if not self._works:
            return State.DONE
        for phase in (_Phase.VIEWS, _Phase.LEDGER):
            works = [work for work in self._works.values() if work.phase is phase]
            if works:
                self._clear(phase, works)
                return State.MORE
        if not self._truncate():
            return State.HELD
        self._finish()
        return State.MORE

    def clear_views_again(self) -> None:
        """Other views have taken the place of those that were cleared: the next steps clear these too."""
        rows: list[tuple[Any, ...]] = self._committer.ledger.execute(_CLEARED).fetchall()
        for position, stream in rows:
            work = self._works.setdefault(position, self._work(position, stream))
            work.only_views = True
        for work in self._works.values():
            work.phase, work.reached = _Phase.VIEWS, 0

    def note_scrubbed(self) -> None:
        """Forget the erasures of which nothing can be in the live views, once no others are there."""
        committer = self._committer
        if len(committer.location.generations()) > 1:
            committer.views.discard_older()
        with transactions.immediate(committer.ledger):
            committer.ledger.execute(_FORGET_SCRUBBED)

    def _load(self) -> None:
        """Look for erasures that were recorded since, and have them on the list beside the ledger."""
        rows: list[tuple[Any, ...]] = self._committer.ledger.execute(_UNFINISHED).fetchall()
        new = [self._work(position, stream) for position, stream in rows if position not in self._works]
        if not new:
            return
        location = self._committer.location
        if not location.memory:
            _remove_leftovers(location)
            self._list([work.position for work in new])
        self._works.update({work.position: work for work in new})

    def _work(self, position: int, stream: int) -> _Work:
        (record,) = event_store.read_positions(self._committer.ledger, [position])
        data = record.event.data
        return _Work(
            position, stream, record.event.version, data.positions if isinstance(data, MessageErased) else None
        )

    def _list(self, positions: list[int]) -> None:
        db, path = self._committer.ledger, Path(self._committer.location.ledger + LIST)
        ledger_id = event_store.identity(db)
        if self._listed is None:  # a crash may have come between the list and the rest
            self._listed = erasure_list.listed_positions(path, ledger_id, positions)
        listed, self._listed = self._listed, set()
        records = event_store.read_positions(db, [position for position in positions if position not in listed])
        entries = [_entry(record.event, ledger_id) for record in records]
        if entries:
            erasure_list.add(path, entries)

    def _clear(self, phase: _Phase, works: Sequence[_Work]) -> None:
        """One transaction's worth of *works*."""
        db = self._committer.ledger
        rows_left, bytes_left = ROWS_A_STEP, BYTES_A_STEP
        whole: list[int] = []  # of sessions
        single: list[int] = []  # of messages in sessions that go on
        reached: list[tuple[_Work, int, bool]] = []
        for work in works:
            rows = work.rows(db, rows_left)
            count = _fitting([length or 0 for _, _, length in rows], bytes_left, at_least=not reached)
            (whole if work.positions is None else single).extend(position for position, _, _ in rows[:count])
            is_last = count == len(rows) < rows_left
            reached.append((work, rows[count - 1][1] if count else work.reached, is_last))
            rows_left -= count
            bytes_left -= sum(length or 0 for _, _, length in rows[:count])
            if not is_last or rows_left <= 0:
                break
        with transactions.immediate(db):
            if phase is _Phase.VIEWS:
                db.execute(_OVERWRITE_ROWS, (_json([*whole, *single]),))
                db.execute(_DELETE_ROWS, (_json(whole),))
                db.execute(_TAKE_CONTENT, (_json(single),))
            else:
                db.create_scalar_function("commitment", _commitment, 2, deterministic=True)
                db.execute(_KEEP_COMMITMENTS, (_json([*whole, *single]),))
                db.execute(_OVERWRITE_PAYLOADS, (_json([*whole, *single]),))
        for work, version, is_last in reached:
            work.reached = version
            if is_last and work.only_views:
                del self._works[work.position]
            elif is_last:
                work.end_phase()

    def _truncate(self) -> bool:
        """Have nothing in the write-ahead logs; False where a reader or a copy is in the way."""
        if self._committer.location.memory:
            return True
        if self._copy_logs is not None and not self._copy_logs():
            return False
        wait_ms = TRUNCATE_WAITS_MS[min(self._tries, len(TRUNCATE_WAITS_MS) - 1)]
        self._tries += 1
        return wal.truncate_wal(self._committer.ledger, ("main", "views"), wait_ms=wait_ms)

    def _finish(self) -> None:
        done = [position for position, work in self._works.items() if work.phase is _Phase.LOGS]
        with transactions.immediate(self._committer.ledger):
            # What is in memory has no copies that anybody could find.
            query = _FORGET if self._committer.location.memory else _SET_CLEARED
            self._committer.ledger.execute(query, (_json(done),))
        for position in done:
            del self._works[position]
        self._tries = 0


def _fitting(lengths: Sequence[int], bytes_max: int, *, at_least: bool) -> int:
    """How many of the rows, from the first on, have *bytes_max* bytes together; one in any case if *at_least*."""
    total = 0
    for number, length in enumerate(lengths):
        total += length
        if total > bytes_max and (number or not at_least):
            return number
    return len(lengths)


def _json(positions: Sequence[int]) -> str:
    return msgspec.json.encode(positions).decode()


def _commitment(*values: SQLiteValue) -> SQLiteValue:
    salt, payload = values
    if not (isinstance(salt, bytes) and isinstance(payload, bytes)):
        return None
    return commitment(salt, payload)


def _remove_leftovers(location: Location) -> None:
    """Remove what a crash of a restore or a first start has left: whoever holds the ledger knows that none runs."""
    for path in location.folder.glob(f"{glob.escape(Path(location.ledger).name)}.new*"):
        path.unlink(missing_ok=True)


def _entry(event: Event, ledger_id: str) -> Erasure:
    data = event.data
    if not isinstance(data, (SessionErased, MessageErased)):
        raise TypeError("only erasures are listed")
    return Erasure(
        ledger_id=ledger_id,
        tenant=event.tenant_id,
        session=event.session_id,
        message=data.message_id if isinstance(data, MessageErased) else None,
        position=event.position,
        time=format_us(event.recorded_at),
        reason=data.reason,
        actor=event.actor,
    )


def unscrubbed(ledger_db: Connection) -> tuple[int, int]:
    """How many finished erasures may have copies in the views' file, and the µs at which the first was recorded."""
    rows: list[tuple[Any, ...]] = ledger_db.execute(_OLDEST_UNSCRUBBED).fetchall()
    return rows[0][0], rows[0][1] or 0


def is_scrubbed(ledger_db: Connection, position: int) -> bool:
    """Whether the erasure at *position* is finished and no copy can be in the views' file."""
    return bool(ledger_db.execute(_IS_SCRUBBED, (position,)).get)


def finish(committer: Committer, *, wait_ms: int) -> bool:
    """Carry out all erasures that are recorded, where nobody else writes meanwhile.

    Returns:
        Whether all is done. If not, a reader has held a log for *wait_ms*: whoever writes next goes on.

    Raises:
        StorageFull, Overloaded, CommitFailed, SQLError, OSError: as `Eraser.step`.
    """
    eraser = Eraser(committer)
    committer.catch_up()
    eraser.note_scrubbed()
    eraser.clear_views_again()
    until_s = math.inf
    while (state := eraser.step()) is not State.DONE:
        if state is State.HELD:
            until_s = min(until_s, time.monotonic() + wait_ms / 1000)
            if time.monotonic() >= until_s:
                return False
            time.sleep(TRY_PAUSE_S)
    return True


def finish_now(committer: Committer) -> None:
    """As `finish`, where nobody will do it later.

    Raises:
        ErasurePending: somebody reads the files, so that the logs cannot be truncated.
    """
    if not finish(committer, wait_ms=committer.settings.busy_timeout_ms):
        raise ErasurePending


def reapply(committer: Committer, listed: Path) -> int:
    """Erase again in an older copy of the ledger what the list at *listed* says was erased since.

    This is what a restore calls, after the copy has its place and `committer` holds it with its views open, and before
    anybody reads it. *listed* is the list beside the ledger that the copy replaces (`LEDGER.erasures`), or one that was
    kept elsewhere; it may be the one beside the copy. Sessions that the copy does not have, or has erased already, are
    passed over, and so are lines of other ledgers. Each erasure is a new `session.erased` event with the first one's
    reason and actor; its line is added to the list beside the copy. Copy the old lines there first, so that a
    restore of a still older copy finds them.

    Returns:
        How many sessions were erased.

    Raises:
        DomainError, CommitFailed: the storage failed; call it again.
        ErasurePending: somebody reads the files, so that the logs cannot be truncated; call it again.
    """
    ledger_id = event_store.identity(committer.ledger)
    count = 0
    for entry in list(erasure_list.listed_in(listed)):
        stream = event_store.find_stream(committer.ledger, entry.tenant, entry.session)
        if entry.ledger_id != ledger_id or stream is None or event_store.is_erased(committer.ledger, stream):
            continue
        erase(committer, tenant_id=entry.tenant, session_id=entry.session, reason=entry.reason, actor=entry.actor)
        count += 1
    finish_now(committer)
    return count


def erase(committer: Committer, *, tenant_id: str, session_id: str, reason: str, actor: str) -> None:
    """Record the erasure of a session; `finish_now` does the rest, for any number of them at once.

    Raises:
        NotFound: there never was such a session.
    """
    submission = Submission(tenant_id=tenant_id, session_id=session_id, actor=actor, command=EraseSession(reason))
    (outcome,) = committer.commit([submission])
    if isinstance(outcome, DomainError):
        raise outcome
