"""The ledger's file: opening it, making it, its schema and migrations."""

import contextlib
from importlib import resources
from pathlib import Path

import apsw
import structlog

from chatledger.domain.fingerprints import salted_in_sql
from chatledger.domain.ids import new_id
from chatledger.domain.timestamps import now_us
from chatledger.errors import LedgerDamaged, RefusedToStart
from chatledger.settings import Settings
from chatledger.storage.connection import (
    Connection,
    check_sqlite,
    closed_on_failure,
    open_connection,
    open_reader,
    open_writer,
    uri_to_read,
)
from chatledger.storage.paths import Location, check_filesystem, is_file, is_known, put_in_place, remove
from chatledger.storage.sql_errors import NO_DATABASE, UnfinishedTransaction
from chatledger.storage.transactions import immediate
from chatledger.storage.wal import checkpoint

log = structlog.get_logger("chatledger.storage")
LEDGER_APPLICATION_ID = 0x434C4C47  # "CLLG", in the file's header: what `file` and we know a ledger by
ERASES_IN_PLACE = 5
"""The schema from which on erased rows keep their size."""
VACUUM_BELOW_EVENTS = 50_000


def open_ledger_reader(location: Location, settings: Settings) -> Connection:
    """A connection that can only read the ledger, of whatever schema up to ours it is.

    Raises:
        RefusedToStart: it is not there, not ours, of a newer schema, or only a writer can open it now.
        LedgerDamaged: it is no SQLite database, or a damaged one.
    """
    name = Path(location.ledger).name
    try:
        connection = open_reader(location.ledger, location, settings)
        with closed_on_failure(connection):
            _check_is_ledger(connection, name)
    except NO_DATABASE as error:
        raise LedgerDamaged(f"{name} is not an SQLite database, or is damaged; it was left as it is.") from error
    return connection


def open_ledger(location: Location, settings: Settings) -> Connection:
    """Open the ledger for its one writer; make it if neither it nor views of it are there.

    Raises:
        RefusedToStart: the file is not ours, is of a newer schema, is missing beside its views, or lies on a
            network file system; or SQLite is too old. Nothing is changed then.
        LedgerDamaged: SQLite finds the file damaged.
    """
    check_sqlite()
    check_filesystem(location, settings)
    name = Path(location.ledger).name
    try:
        if location.memory:
            connection = open_writer(location.ledger, location, settings, synchronous="full")
        else:
            if not _has_content(location.ledger):
                _make_ledger(location, settings)
            # Look before opening for writing: `journal_mode=wal` would already change a file that is not ours.
            _look_at_ledger(location, settings)
            connection = open_writer(location.ledger, location, settings, synchronous="full")
        with closed_on_failure(connection):
            _migrate(connection, name)
    except NO_DATABASE as error:
        raise LedgerDamaged(f"{name} is not an SQLite database, or is damaged; it was left as it is.") from error
    except (apsw.CantOpenError, apsw.ReadOnlyError, apsw.PermissionsError) as error:
        raise RefusedToStart(f"{name} cannot be opened for writing: check its owner and permissions.") from error
    return connection


def look(location: Location, settings: Settings) -> None:
    """Refuse a file that is no ledger of ours before anything is made beside it, a lock for one.

    Raises:
        RefusedToStart, LedgerDamaged: as `open_ledger`, which looks again.
    """
    if not location.memory and not is_known(location) and _has_content(location.ledger):
        _look_at_ledger(location, settings)


def _look_at_ledger(location: Location, settings: Settings) -> None:
    """Make sure that it is a ledger, and of a schema that we know.

    A restored ledger is not in write-ahead mode until its first start. A power cut in that start leaves a journal, with
    which no reader may open the file: then its header alone has to do, in which that transaction changes the mode.
    """
    try:
        open_ledger_reader(location, settings).close()
    except UnfinishedTransaction:
        name = f"{Path(location.ledger).as_uri()}?immutable=1"
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        connection = open_connection(name, memory=False, flags=flags, busy_timeout_ms=settings.busy_timeout_ms)
        with contextlib.closing(connection):
            _check_is_ledger(connection, Path(location.ledger).name)


def _has_content(name: str) -> bool:
    return is_file(name) and Path(name).stat().st_size > 0


def _make_ledger(location: Location, settings: Settings) -> None:
    """Make a new ledger. It gets its name only once it is whole: a crash before leaves a file to delete."""
    if location.generations():
        raise RefusedToStart(
            f"{Path(location.ledger).name} is missing or empty, but views built from it are here. Bring the ledger "
            f"back, or remove its views to begin a new one."
        )
    unfinished = location.ledger + ".new"
    remove(unfinished)
    connection = open_writer(unfinished, location, settings, synchronous="full")
    _migrate(connection, Path(location.ledger).name)
    checkpoint(connection)
    connection.close()
    put_in_place(unfinished, location.ledger)


def open_copy(name: str, settings: Settings) -> Connection:
    """A file to copy pages into. Without a journal: a copy that was not finished is thrown away."""
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    connection = open_connection(name, memory=False, flags=flags, busy_timeout_ms=settings.busy_timeout_ms)
    connection.pragma("journal_mode", "off")
    connection.pragma("synchronous", "full")
    connection.pragma("fullfsync", True)  # noqa: FBT003
    return connection


def open_unfinished(name: str, settings: Settings, *, identity: tuple[str, int] | None = None) -> Connection:
    """A ledger that does not have its name yet, brought to our schema; a new one of *identity* if it is empty."""
    connection = open_writer(name, Location(name, memory=False), settings, synchronous="full")
    try:
        _migrate(connection, Path(name).name, identity)
    except BaseException:
        connection.close()
        raise
    return connection


def attach_source(connection: Connection, source: Connection) -> None:
    """Attach the file of *source*, to be read only, under the name `source`."""
    connection.execute("ATTACH ? AS source", (uri_to_read(source.filename),))


def close_as_one_file(connection: Connection) -> None:
    """Put all of it into the file itself, synced, and close it.

    Out of write-ahead mode, because a file in that mode cannot be read without one that can be written beside it.
    """
    checkpoint(connection)
    connection.pragma("journal_mode", "delete")
    connection.close()


def _check_is_ledger(connection: Connection, name: str) -> None:
    if connection.pragma("application_id") != LEDGER_APPLICATION_ID:
        raise RefusedToStart(f"{name} is an SQLite file, but not a ledger of chatledger; it was left as it is.")
    _check_schema_number(connection, name)


def _check_schema_number(connection: Connection, name: str) -> int:
    number = connection.pragma("user_version")
    newest = newest_schema()
    if not isinstance(number, int) or number > newest:
        raise RefusedToStart(
            f"{name} has schema {number}; this chatledger knows up to {newest}. Use the newer chatledger."
        )
    return number


def schema_of(connection: Connection) -> int:
    """The number of the schema that an open ledger has."""
    return int(str(connection.pragma("user_version", schema="main")))


def newest_schema() -> int:
    """The number of the ledger's schema today."""
    return _migrations()[-1][0]


def _migrations() -> list[tuple[int, str]]:
    files = (file for file in resources.files("chatledger.storage.schema").iterdir() if file.name.endswith(".sql"))
    return sorted((int(file.name[:4]), file.read_text(encoding="utf-8")) for file in files)


def _migrate(connection: Connection, name: str, identity: tuple[str, int] | None = None) -> None:
    """Bring the schema up to date: each numbered file in one transaction. A new ledger has *identity*, or its own."""
    current = _check_schema_number(connection, name)
    if 0 < current < newest_schema():
        log.info("ledger migrated", schema_before=current, schema=newest_schema())
    if 0 < current < ERASES_IN_PLACE:
        _vacuum_if_small(connection)
    connection.create_scalar_function("salted_fingerprint", salted_in_sql, 3, deterministic=True)
    for number, sql in _migrations():
        if number <= current:
            continue
        with immediate(connection):
            connection.execute(sql)
            connection.pragma("user_version", number)
            if number == 1:
                connection.pragma("application_id", LEDGER_APPLICATION_ID)
                connection.execute("INSERT INTO ledger VALUES (1, ?, ?)", identity or (new_id(), now_us()))


def _vacuum_if_small(connection: Connection) -> None:
    """Write a ledger of an earlier version anew, so that no copy of a row is left that a root page's split has made.

    In a larger one none is left: later pages have overwritten them.
    """
    if int(connection.execute("SELECT coalesce(max(position), 0) FROM events").get) < VACUUM_BELOW_EVENTS:
        connection.pragma("secure_delete", True)  # noqa: FBT003  # without it VACUUM makes such copies itself
        connection.execute("VACUUM")
        connection.pragma("secure_delete", "fast")
