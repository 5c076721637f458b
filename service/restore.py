"""A ledger made of a backup, as it was or as of an earlier position, where none is."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from service import backup, database, erasure, ledger, offline, tree
from service.clock import now_us
from service.committer import hold
from service.database import Connection
from service.errors import LedgerDamaged, LedgerLocked, RefusedToStart
from service.events import SESSION_ERASED, Event, decode_payload
from service.files import OwnFiles
from service.location import (
    UNFINISHED,
    Location,
    check_filesystem,
    check_name,
    exclusive,
    put_in_place,
    remove,
    sync_folder,
)
from service.merkle import Frontier
from service.settings import Settings

_BATCH_EVENTS = 10_000
_IDENTITY = "SELECT id, created_at FROM ledger"
_STREAMS = """INSERT INTO main.streams SELECT * FROM source.streams
  WHERE key IN (SELECT stream FROM source.events WHERE version = 1 AND position <= ?) ORDER BY key"""
_EVENTS = "INSERT INTO main.events SELECT * FROM source.events WHERE position > ? AND position <= ? ORDER BY position"
_COMMITMENTS = "INSERT INTO main.commitments SELECT * FROM source.commitments WHERE position <= ?"
# Each event of an erasure has put itself there again; most were finished long ago.
_NO_ERASURES = "DELETE FROM main.erasures"
_ERASURES = "INSERT INTO main.erasures SELECT * FROM source.erasures WHERE position <= ?"
# An answer is made from the events of its command, so it can be given again only where these are.
_ANSWERS = """INSERT INTO main.idempotency SELECT * FROM source.idempotency AS kept
  WHERE EXISTS (SELECT 1 FROM main.events WHERE stream = kept.stream AND version = kept.version) ORDER BY number"""

_LATER_ERASURES = """SELECT s.key, s.tenant_id, s.session_id, e.schema, e.actor, e.request_id, e.payload
  FROM main.streams AS s JOIN source.events AS e ON e.stream = s.key
  WHERE e.position > ? AND e.type = 'session.erased' ORDER BY e.position"""
_INSERT = "INSERT INTO main.events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"

_KEY_USES = "INSERT INTO main.key_uses SELECT * FROM source.key_uses"
COPIED = frozenset(
    {"ledger", "streams", "events", "idempotency", "commitments", "erasures", "tree", "tiles", "key_uses"}
)
"""The ledger's tables as `_copy_to` knows them; the tree's are built from the leaves."""

Progress = Callable[[int, int], None]


class Steps:
    """What is told of a restore while it runs, each time with how much is done and how much there is."""

    def __init__(self, *, copied: Progress, verified: Progress, viewed: Progress) -> None:
        self.copied = copied
        self.verified = verified
        self.viewed = viewed


def restore(settings: Settings, source: Path, steps: Steps, *, to_position: int | None = None) -> Frontier:
    """Put the ledger in *source* where *settings* say, whole or up to *to_position*, and build its views.

    It gets its name only once it is whole, verified and on the disk. A crash before leaves `ledger.db.new`, which
    the next restore or start removes.

    Returns:
        The tree of what was restored.

    Raises:
        RefusedToStart: there is a ledger already, *source* is none, or it does not reach that position.
        LedgerLocked: a server or another command holds the place.
        LedgerDamaged: *source* is not as it must be; nothing was put in place.
    """
    if settings.in_memory:
        raise RefusedToStart("A ledger in memory cannot be reached from another process.")
    location = Location.of(settings)
    database.check_sqlite()
    check_filesystem(location, settings)
    if not source.is_file():
        raise RefusedToStart(f"There is no backup at {source}.")
    check_name(str(source.absolute()))
    OwnFiles.of(location, settings).check(source)  # some of which are removed on the way
    try:
        location.make_folder()
        with exclusive(location):
            found = _restore(location, settings, source, steps, to_position)
    except OSError as error:
        raise RefusedToStart(f"{settings.database_path} cannot be written: {error.strerror}.") from error
    except database.SQLError as error:
        if database.is_damage(error):
            raise LedgerDamaged(f"{source.name} is not an SQLite database, or is damaged.") from error
        raise RefusedToStart(f"{settings.database_path} cannot be written: {error}.") from error
    try:
        with offline.writing(settings, views_progress=steps.viewed):
            pass
    except LedgerLocked:
        pass  # a server that has started since then builds them itself
    return found


def _restore(location: Location, settings: Settings, source: Path, steps: Steps, to_position: int | None) -> Frontier:
    if Path(location.ledger).exists() and Path(location.ledger).stat().st_size:
        raise RefusedToStart(f"There is a ledger at {settings.database_path}; it was left as it is.")
    name, listed = location.ledger + ".new", Path(location.ledger + erasure.LIST)
    erasures = _listed(listed)
    _remove_all(name)
    try:
        with closing(
            database.open_ledger_reader(Location(str(source.absolute()), memory=False), settings)
        ) as connection:
            if to_position is None:
                backup.copy(connection, name, settings, steps.copied)
            else:
                _copy_to(connection, name, settings, to_position, steps.copied)
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
    return found


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
        return len(list(erasure.listed_in(path)))
    except (OSError, msgspec.DecodeError) as error:
        raise RefusedToStart(f"The list of erasures {path.name} cannot be read: {error}.") from error


def _erase_listed(name: str, listed: Path, settings: Settings) -> None:
    """Erase in the copy what was erased behind the backup.

    Before it has its name: no moment may come in which what was erased can be read again.
    """
    with hold(Location(name, memory=False), settings) as committer:
        committer.views.open(committer.ledger)
        erasure.reapply(committer, listed)
    with closing(database.open_unfinished(name, settings)) as connection:
        database.close_as_one_file(connection)


def _copy_to(source: Connection, name: str, settings: Settings, position: int, on_copied: Progress) -> None:
    """Make a ledger of the same identity out of the events up to *position*, one after the other.

    Events cannot be deleted (rule 2), so the later ones are left out rather than taken out of a copy.
    """
    newest = ledger.head(source).position
    if not 0 < position <= newest:
        raise RefusedToStart(f"The backup has positions 1 to {newest}, and no {position}.")
    identity = source.execute(_IDENTITY).fetchone()
    with closing(database.open_unfinished(name, settings, identity=identity)) as target:
        database.attach_source(target, source)
        with database.immediate(target):
            target.execute(_STREAMS, (position,))
        for start in range(0, position, _BATCH_EVENTS):
            end = min(start + _BATCH_EVENTS, position)
            with database.immediate(target):
                target.execute(_EVENTS, (start, end))
            on_copied(end, position)
        with database.immediate(target):
            target.execute(_ANSWERS)
            target.execute(_NO_ERASURES)
            for table, query in (("commitments", _COMMITMENTS), ("erasures", _ERASURES)):
                if database.has_table(source, table):  # an older schema has none
                    target.execute(query, (position,))
            if database.has_table(source, "key_uses"):
                target.execute(_KEY_USES)
            _erase_again(target, position)
        target.execute("DETACH source")
        tree.rebuild(target)
        database.close_as_one_file(target)


def _erase_again(target: Connection, position: int) -> None:
    """Record anew what was erased behind *position*: its payloads are gone from the backup, and stay gone.

    Numbered here, and not by the committer: to that a ledger whose payloads are gone, and not erased, is a damaged one.
    """
    found: list[tuple[Any, ...]] = target.execute(_LATER_ERASURES, (position,)).fetchall()
    time_us = now_us()
    events = [
        Event(
            position=position + number,
            stream=stream,
            tenant_id=tenant_id,
            session_id=session_id,
            version=ledger.version_of(target, stream) + 1,
            type=SESSION_ERASED,
            recorded_at=time_us,
            actor=actor,
            request_id=request_id,
            data=decode_payload(SESSION_ERASED, schema, payload),
        )
        for number, (stream, tenant_id, session_id, schema, actor, request_id, payload) in enumerate(found, start=1)
    ]
    for row in ledger.rows(ledger.seal(events)):
        target.execute(_INSERT, row)
