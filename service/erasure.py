"""Erasing a session for good: what follows its `session.erased` event (rule 9).

The event is committed first, as any other, and with it a row in the table `erasures`. Then, between two groups: the
erasure is written into a list beside the ledger, the payloads and salts of the session's earlier events go, both files
are written anew, and their write-ahead logs are cut. Each step can be done again, so that a crash anywhere leaves
nothing that the next start does not finish (docs/decisions/0015-erasure.md).
"""

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from projections import feed
from service import database, ledger
from service.clock import format_us
from service.commands import EraseSession
from service.committer import Committer
from service.database import Connection, SQLiteValue
from service.errors import DomainError, ErasurePending
from service.events import SESSION_CREATED, SESSION_UPDATED, SessionErased
from service.files import replacing
from service.group import Submission
from service.location import Location, sync_folder
from service.merkle import commitment

LIST = ".erasures"
"""Behind the ledger's name: the list of what was erased, which a restore of an older copy applies again."""
RETRY_TIMEOUT_MS = 100
"""How long the writer waits for readers of the write-ahead logs when it tries again by itself."""
_ALL = 2**63 - 1

_PENDING = "SELECT position, stream, rewritten FROM erasures ORDER BY position"
_TO_REWRITE = "SELECT EXISTS (SELECT 1 FROM erasures WHERE NOT rewritten)"
# The tree needs the commitment of an event whose payload is gone, to make its leaf from its record again.
_KEEP_COMMITMENTS = """INSERT INTO commitments
  SELECT position, commitment(salt, payload) FROM events
  WHERE stream = ? AND position < ? AND payload IS NOT NULL AND salt IS NOT NULL"""
_REMOVE_PAYLOADS = "UPDATE events SET payload = NULL, salt = NULL WHERE stream = ? AND position < ?"
_REWRITTEN = "UPDATE erasures SET rewritten = TRUE WHERE position = ?"
_DONE = "DELETE FROM erasures WHERE position = ?"

_FORKS = """SELECT s.session_id, e.payload ->> '$.forked_from.session_id'
  FROM events AS e JOIN streams AS s ON s.key = e.stream
  WHERE e.position IN (SELECT value FROM json_each(?)) AND instr(e.payload, '"forked_from"')"""
_USERS = """SELECT s.session_id, e.payload ->> '$.user_id', e.payload ->> '$.changes.user_id',
    e.type = 'session.created' OR json_type(e.payload, '$.changes.user_id') IS NOT NULL
  FROM events AS e JOIN streams AS s ON s.key = e.stream
  WHERE e.position IN (SELECT value FROM json_each(?)) AND e.payload IS NOT NULL ORDER BY e.position"""
POSITIONS_A_READ = 20_000
"""So many events are looked at in one read of the ledger."""


class Erasure(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the list: which session of which ledger was erased, when, why and by whom."""

    ledger_id: str
    tenant: str
    session: str
    position: int
    time: str
    reason: str
    actor: str


def to_rewrite(ledger_db: Connection) -> bool:
    """Whether there is an erasure whose content may still be in the files."""
    return bool(ledger_db.execute(_TO_REWRITE).get)


def finish(committer: Committer, *, wait_ms: int) -> bool:
    """Do what is left to do of every recorded erasure. For the one writer, between two groups.

    Args:
        committer: Open, its views too.
        wait_ms: How long to wait for readers to let go of the write-ahead logs.

    Returns:
        Whether all is done. If not, a reader holds a log; call it again later.

    Raises:
        StorageFull, Overloaded, CommitFailed, SQLError: it could not be done now; call it again later.
    """
    db, location = committer.ledger, committer.location
    pending: list[tuple[Any, ...]] = db.execute(_PENDING).fetchall()
    fresh = [(position, stream) for position, stream, rewritten in pending if not rewritten]
    if fresh:
        committer.catch_up()
        if not location.memory:
            _remove_leftovers(location)
            _list(db, location, [position for position, _ in fresh])
        _remove_payloads(db, fresh)
        if not location.memory:
            # Zeroing what is freed (secure_delete) is not enough: SQLite leaves copies of rows in the unused part of
            # a page when it moves them to another one. A file that is written anew has only what is in its tables.
            for name in (location.ledger, committer.views.name):
                database.write_anew(name, location, committer.settings)
        with database.immediate(db):
            db.executemany(_REWRITTEN, [(position,) for position, _ in fresh])
    if pending and not location.memory:
        if not database.cut_logs(db, wait_ms=wait_ms):
            return False
        sync_folder(location.folder)  # views of before, which are removed, have it too
    if pending:
        with database.immediate(db):
            db.executemany(_DONE, [(position,) for position, _, _ in pending])
    return True


def _remove_leftovers(location: Location) -> None:
    """Remove what a crash of a restore or a first start has left: whoever holds the ledger knows that none runs."""
    for path in location.folder.glob(f"{glob.escape(Path(location.ledger).name)}.new*"):
        path.unlink(missing_ok=True)


def _remove_payloads(db: Connection, erasures: list[tuple[int, int]]) -> None:
    db.create_scalar_function("commitment", _commitment, 2, deterministic=True)
    with database.zeroing(db), database.immediate(db):
        for position, stream in erasures:
            db.execute(_KEEP_COMMITMENTS, (stream, position))
            db.execute(_REMOVE_PAYLOADS, (stream, position))


def _commitment(*values: SQLiteValue) -> SQLiteValue:
    salt, payload = values
    if not (isinstance(salt, bytes) and isinstance(payload, bytes)):
        return None
    return commitment(salt, payload)


def _list(db: Connection, location: Location, positions: list[int]) -> None:
    """Add to the list what is not there yet, and have it on the disk."""
    path = Path(location.ledger + LIST)
    ledger_id = ledger.identity(db)
    listed = {(each.ledger_id, each.tenant, each.session, each.position) for each in listed_in(path)}
    lines = []
    for record in ledger.read_positions(db, positions):
        event = record.event
        if not isinstance(event.data, SessionErased):
            raise TypeError("only erasures are listed")
        if (ledger_id, event.tenant_id, event.session_id, event.position) in listed:
            continue
        line = Erasure(
            ledger_id=ledger_id,
            tenant=event.tenant_id,
            session=event.session_id,
            position=event.position,
            time=format_us(event.recorded_at),
            reason=event.data.reason,
            actor=event.actor,
        )
        lines.append(msgspec.json.encode(line) + b"\n")
    if not lines:
        return
    # Written anew, not added to: of a write at the end a power cut may leave the line's end without its beginning.
    text = path.read_bytes() if path.exists() else b""
    with replacing(path) as file:
        file.write(text[: text.rfind(b"\n") + 1])
        file.write(b"".join(lines))


def listed_in(path: Path) -> Iterator[Erasure]:
    """The erasures in the list at *path*, the oldest first; none where there is no such file.

    Raises:
        msgspec.DecodeError: a whole line of it is none of ours.
    """
    text = path.read_bytes() if path.exists() else b""
    for line in text[: text.rfind(b"\n") + 1].splitlines():
        yield msgspec.json.decode(line, type=Erasure)


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
        ErasurePending: somebody reads the files, so that the logs cannot be cut; call it again.
    """
    ledger_id = ledger.identity(committer.ledger)
    count = 0
    for entry in list(listed_in(listed)):
        stream = ledger.find_stream(committer.ledger, entry.tenant, entry.session)
        if entry.ledger_id != ledger_id or stream is None or ledger.is_erased(committer.ledger, stream):
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


def finish_now(committer: Committer) -> None:
    """As `finish`, where nobody will do it later.

    Raises:
        ErasurePending: somebody reads the files, so that the logs cannot be cut.
    """
    if not finish(committer, wait_ms=committer.settings.busy_timeout_ms):
        raise ErasurePending


def positions_of(views_db: Connection, tenant_id: str, event_type: str) -> list[int]:
    """Where a tenant's events of one type are."""
    return feed.positions(views_db, tenant_id, after=0, limit=_ALL, event_type=event_type)


def forks_among(ledger_db: Connection, positions: list[int]) -> list[tuple[str, str]]:
    """Of the `session.created` events at *positions* those of forks: (the fork, its source)."""
    rows: list[tuple[Any, ...]] = ledger_db.execute(_FORKS, (msgspec.json.encode(positions).decode(),)).fetchall()
    return [(fork, source) for fork, source in rows]


def copies_of(session_id: str, forks: list[tuple[str, str]]) -> list[str]:
    """Which of *forks* hold copies of a session: its forks, and theirs."""
    found = {session_id}
    while more := {fork for fork, source in forks if source in found} - found:
        found |= more
    return sorted(found - {session_id})


def sessions_of_user(views_db: Connection, ledger_db: Connection, tenant_id: str, user_id: str) -> list[str]:
    """The ids of a user's sessions, deleted ones too; erased ones no longer say whose they were."""
    places = [place for kind in (SESSION_CREATED, SESSION_UPDATED) for place in positions_of(views_db, tenant_id, kind)]
    owners: dict[str, str | None] = {}
    places.sort()
    for start in range(0, len(places), POSITIONS_A_READ):
        wanted = msgspec.json.encode(places[start : start + POSITIONS_A_READ]).decode()
        for session_id, made_for, changed_to, says in ledger_db.execute(_USERS, (wanted,)):
            if says:
                owners[session_id] = made_for or changed_to
    return sorted(session_id for session_id, owner in owners.items() if owner == user_id)
