"""A ledger made of a backup, as it was or as of an earlier position, where none is."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from chatledger import os_errors
from chatledger.domain.events import (
    MESSAGE_ERASED,
    SESSION_ERASED,
    Event,
    EventData,
    MessageErased,
    decode_payload,
    type_of,
)
from chatledger.domain.timestamps import now_us
from chatledger.errors import LedgerDamaged, LedgerLocked, RefusedToStart
from chatledger.ledger import event_store, tree_store
from chatledger.ledger.merkle import Frontier
from chatledger.maintenance import backup, local_ledger
from chatledger.proofs.signed_heads import missing_key
from chatledger.settings import Settings
from chatledger.storage import ledger_file, sql_errors, transactions
from chatledger.storage.connection import Connection, check_sqlite
from chatledger.storage.files import OwnFiles
from chatledger.storage.paths import (
    UNFINISHED,
    Location,
    check_filesystem,
    check_name,
    exclusive,
    is_file,
    put_in_place,
    remove,
    sync_folder,
)
from chatledger.writing import erasure, erasure_list
from chatledger.writing.committer import hold

MIGRATED = ".migrated"
"""Behind the name of what is being restored: a copy of an older backup, brought to our schema."""
_BATCH_EVENTS = 10_000
_IDENTITY = "SELECT id, created_at FROM ledger"
_STREAMS = """INSERT INTO main.streams SELECT * FROM source.streams
  WHERE key IN (SELECT stream FROM source.events WHERE version = 1 AND position <= ?) ORDER BY key"""
_EVENTS = "INSERT INTO main.events SELECT * FROM source.events WHERE position > ? AND position <= ? ORDER BY position"
_COMMITMENTS = "INSERT INTO main.commitments SELECT * FROM source.commitments WHERE position <= ?"
# Each event of an erasure has put itself there again; most were finished long ago.
_NO_ERASURES = "DELETE FROM main.erasures"
# Each fork has put itself there with its first event.
_NO_FINISHED = """DELETE FROM main.unfinished
  WHERE visible_at <= (SELECT max(version) FROM main.events WHERE events.stream = unfinished.stream)"""
_ERASURES = "INSERT INTO main.erasures SELECT * FROM source.erasures WHERE position <= ?"
# An answer is made from the events of its command, so it can be given again only where these are.
_ANSWERS = """INSERT INTO main.idempotency SELECT * FROM source.idempotency AS kept
  WHERE EXISTS (SELECT 1 FROM main.events WHERE stream = kept.stream AND version = kept.version) ORDER BY number"""

_LATER_ERASURES = """SELECT s.key, s.tenant_id, s.session_id, e.schema, e.actor, e.request_id, e.payload
  FROM main.streams AS s JOIN source.events AS e ON e.stream = s.key
  WHERE e.position > ? AND e.type = 'session.erased' ORDER BY e.position"""
# Of messages in sessions that are not erased as a whole, which have lost their payloads in the backup.
_LATER_ERASURES_OF_MESSAGES = """SELECT s.key, s.tenant_id, s.session_id, e.schema, e.actor, e.request_id, e.payload
  FROM main.streams AS s JOIN source.events AS e ON e.stream = s.key
  WHERE e.position > ? AND e.type = 'message.erased' AND e.payload >= x'01' ORDER BY e.position"""
_INSERT = "INSERT INTO main.events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

_KEY_USES = "INSERT INTO main.key_uses SELECT * FROM source.key_uses"
COPIED = frozenset(
    {
        *("ledger", "streams", "events", "idempotency", "commitments", "tree", "tiles", "key_uses"),
        *("erasures", "erasable", "unfinished"),
    }
)
"""The ledger's tables as `_copy_to` knows them; the tree's are built from the leaves, the last by triggers."""

Progress = Callable[[int, int], None]


class Steps:
    """What is told of a restore while it runs, each time with how much is done and how much there is."""

    def __init__(self, *, copied: Progress, verified: Progress, viewed: Progress) -> None:
        self.copied = copied
        self.verified = verified
        self.viewed = viewed


class Restored(NamedTuple):
    """The tree of what was restored, and what its operator has to do for its signing key, if anything."""

    tree: Frontier
    key_to_do: str


def restore(settings: Settings, source: Path, steps: Steps, *, to_position: int | None = None) -> Restored:
    """Put the ledger in *source* where *settings* say, whole or up to *to_position*, and build its views.

    It gets its name only once it is whole, verified and on the disk. A crash before leaves `ledger.db.new`, which
    the next restore or start removes.

    No key is needed for it: it signs nothing.

    Raises:
        RefusedToStart: there is a ledger already, *source* is none, or it does not reach that position.
        LedgerLocked: a server or another command holds the place.
        LedgerDamaged: *source* is not as it must be; nothing was put in place.
    """
    if settings.in_memory:
        raise RefusedToStart("A ledger in memory cannot be reached from another process.")
    location = Location.of(settings)
    check_sqlite()
    check_filesystem(location, settings)
    _look(location, settings, source, to_position)
    try:
        location.make_folder()
        with exclusive(location):
            found, ledger_id = _restore(location, settings, source, steps, to_position)
    except OSError as error:
        os_errors.refuse(error, location.ledger)
    except sql_errors.SQLError as error:
        if sql_errors.is_damage(error):
            raise LedgerDamaged(f"{source.name} is not an SQLite database, or is damaged.") from error
        sql_errors.refuse(error, location.ledger)
    try:
        with local_ledger.writing(settings, views_progress=steps.viewed):
            pass
    except LedgerLocked:
        pass  # a server that has started since then builds them itself
    return Restored(found, missing_key(location, settings, ledger_id))


def _look(location: Location, settings: Settings, source: Path, to_position: int | None) -> None:
    """Refuse before anything is made: a refusal leaves no folder and no lock.

    Raises:
        RefusedToStart: there is a ledger already, *source* is none, or it does not reach that position.
    """
    _check_free(location, settings)
    check_name(str(source.absolute()))
    OwnFiles.of(location, settings).check(source)  # some of which are removed on the way
    if not is_file(str(source)):
        raise RefusedToStart(f"There is no backup at {source}.")
    with (
        sql_errors.storage_failures_named(str(source)),
        local_ledger.reading_ledger(Location(str(source), memory=False), settings) as connection,
    ):
        _check_position(connection, to_position)


def _check_free(location: Location, settings: Settings) -> None:
    if is_file(location.ledger) and Path(location.ledger).stat().st_size:
        raise RefusedToStart(f"There is a ledger at {settings.database_path}; it was left as it is.")


def _check_position(source: Connection, position: int | None) -> None:
    newest = event_store.head(source).position
    if position is not None and not 0 < position <= newest:
        raise RefusedToStart(f"The backup has positions 1 to {newest}, and no {position}.")


def _restore(
    location: Location, settings: Settings, source: Path, steps: Steps, to_position: int | None
) -> tuple[Frontier, str]:
    """Put the ledger in its place; its tree, and its identity."""
    _check_free(location, settings)
    name, listed = location.ledger + ".new", Path(location.ledger + erasure.LIST)
    erasures = _listed(listed)
    _remove_all(name)
    try:
        with local_ledger.reading_ledger(Location(str(source.absolute()), memory=False), settings) as connection:
            ledger_id = event_store.identity(connection)
            if to_position is None:
                backup.copy(connection, name, settings, steps.copied)
            else:
                with _up_to_date(connection, name, settings) as migrated:
                    _copy_to(migrated, name, settings, to_position, steps.copied)
        if erasures:
            _erase_listed(name, listed, settings)
        found = backup.verified(name, settings, steps.verified)
        # What is left here of another ledger: SQLite would take its write-ahead log for one of this file, and play the
        # events back that are not to be there. The removal is on the disk before the name is.
        remove(location.ledger)
        for generation in location.generations():
            remove(location.views(generation))
        location.remove_unfinished_views()
        sync_folder(location.folder)
        put_in_place(name, location.ledger)
    finally:
        _remove_all(name)
    return found, ledger_id


@contextmanager
def _up_to_date(source: Connection, name: str, settings: Settings) -> Iterator[Connection]:
    """*source*, or a copy of it that has our schema, where it has an older one."""
    if source.pragma("user_version") == ledger_file.newest_schema():
        yield source
        return
    copy = name + MIGRATED
    try:
        backup.copy(source, copy, settings, lambda _done, _total: None)
        with closing(ledger_file.open_ledger_reader(Location(copy, memory=False), settings)) as migrated:
            yield migrated
    finally:
        remove(copy)


def _remove_all(name: str) -> None:
    """Remove an unfinished ledger, and what its erasures needed: views, a lock and a list of its own."""
    location = Location(name, memory=False)
    for generation in location.generations():
        remove(location.views(generation))
    location.remove_unfinished_views()
    for suffix in (".lock", erasure.LIST, erasure.LIST + UNFINISHED):
        Path(name + suffix).unlink(missing_ok=True)
    remove(name)


def _listed(path: Path) -> int:
    """How many erasures are in the list that lies where the ledger is to be.

    Raises:
        RefusedToStart: it cannot be read.
    """
    try:
        return len(list(erasure_list.listed_in(path)))
    except (OSError, msgspec.DecodeError) as error:
        raise RefusedToStart(f"The list of erasures {path.name} cannot be read: {error}.") from error


def _erase_listed(name: str, listed: Path, settings: Settings) -> None:
    """Erase in the copy what was erased behind the backup.

    Before it has its name: no moment may come in which what was erased can be read again.
    """
    with hold(Location(name, memory=False), settings) as committer:
        committer.views.open(committer.ledger)
        erasure.reapply(committer, listed)
    with closing(ledger_file.open_unfinished(name, settings)) as connection:
        ledger_file.close_as_one_file(connection)


def _copy_to(source: Connection, name: str, settings: Settings, position: int, on_copied: Progress) -> None:
    """Make a ledger of the same identity out of the events up to *position*, one after the other.

    Events cannot be deleted (rule 2), so the later ones are left out rather than taken out of a copy.
    """
    _check_position(source, position)
    identity = source.execute(_IDENTITY).fetchone()
    with closing(ledger_file.open_unfinished(name, settings, identity=identity)) as target:
        ledger_file.attach_source(target, source)
        with transactions.immediate(target):
            target.execute(_STREAMS, (position,))
        for start in range(0, position, _BATCH_EVENTS):
            end = min(start + _BATCH_EVENTS, position)
            with transactions.immediate(target):
                target.execute(_EVENTS, (start, end))
            on_copied(end, position)
        with transactions.immediate(target):
            target.execute(_ANSWERS)
            target.execute(_NO_ERASURES)
            target.execute(_COMMITMENTS, (position,))
            target.execute(_ERASURES, (position,))
            target.execute(_KEY_USES)
            target.execute(_NO_FINISHED)
            _erase_again(target, position)
        target.execute("DETACH source")
        tree_store.rebuild(target)
        ledger_file.close_as_one_file(target)


def _erase_again(target: Connection, position: int) -> None:
    """Record anew what was erased behind *position*: its payloads are gone from the backup, and stay gone.

    Numbered here, and not by the committer: to that a ledger whose payloads are gone, and not erased, is a damaged one.
    """
    messages: list[tuple[Any, ...]] = target.execute(_LATER_ERASURES_OF_MESSAGES, (position,)).fetchall()
    sessions: list[tuple[Any, ...]] = target.execute(_LATER_ERASURES, (position,)).fetchall()
    for row in messages:
        data = decode_payload(MESSAGE_ERASED, row[3], row[6])
        if isinstance(data, MessageErased):
            known = tuple(each for each in data.positions if each <= position)
            if known:
                _record(target, row, msgspec.structs.replace(data, positions=known))
    for row in sessions:
        _record(target, row, decode_payload(SESSION_ERASED, row[3], row[6]))


def _record(target: Connection, row: tuple[Any, ...], data: EventData) -> None:
    """Append *data* to the stream of *row*, in the name of whoever did it first."""
    stream, tenant_id, session_id, _schema, actor, request_id, _payload = row
    event = Event(
        position=event_store.head(target).position + 1,
        stream=stream,
        tenant_id=tenant_id,
        session_id=session_id,
        version=event_store.version_of(target, stream) + 1,
        type=type_of(data),
        recorded_at=now_us(),
        actor=actor,
        request_id=request_id,
        data=data,
    )
    for values in event_store.rows(event_store.seal([event])):
        target.execute(_INSERT, values)
