"""SQLite: the only module that opens databases, with their pragmas, migrations and refusals.

Nothing else in this process may open a database file, its `-wal` or its `-shm`, by any means: closing such a handle
drops SQLite's POSIX locks (https://www.sqlite.org/howtocorrupt.html section 2.2), and an acknowledged commit was
lost that way in a trial.
"""

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from itertools import chain
from pathlib import Path
from typing import NoReturn, TypeAlias

import apsw
import structlog

from chatledger import os_errors
from chatledger.domain.fingerprints import salted_in_sql
from chatledger.domain.ids import new_id
from chatledger.domain.timestamps import now_us
from chatledger.errors import (
    ChatledgerError,
    DomainError,
    LedgerDamaged,
    Overloaded,
    RefusedToStart,
    StorageFull,
)
from chatledger.settings import Settings
from chatledger.storage import file_access
from chatledger.storage.paths import Location, check_filesystem, is_file, is_known, put_in_place, remove

log = structlog.get_logger("chatledger.database")

Connection = apsw.Connection
SQLiteValue: TypeAlias = int | float | bytes | str | None
SQLError = apsw.Error
Busy = apsw.BusyError
Damaged = (apsw.CorruptError, apsw.NotADBError)
"""What SQLite raises where the file itself is damaged."""

LEDGER_APPLICATION_ID = 0x434C4C47  # "CLLG", in the file's header: what `file` and we know a ledger by
VIEWS_APPLICATION_ID = 0x434C5657  # "CLVW"
CACHE_KIB = 64 * 1024
BULK_CACHE_KIB = 4 * 1024
"""Of each file while views are filled: a batch and what it changes. What comes next has not been read before, and more
pages than the processor's cache holds only cost time (docs/decisions/0013-projections-in-sql.md)."""
LEDGER_PAGE_BYTES = 8192  # half of what pages of 4096 leave empty behind rows of some 600 bytes
VIEWS_PAGE_BYTES = 8192  # a rebuild takes a fifth less time than with 4096, and an append as long
STATEMENTS_CACHED = 512  # a group's statements come in 64 lengths each, see Bulk
SQLITE_VERSION_MIN = (3, 51, 3)  # before it: the WAL-reset bug, https://www.sqlite.org/wal.html
ERASES_IN_PLACE = 5
"""The schema from which on erased rows keep their size."""
VACUUM_BELOW_EVENTS = 50_000
END_TIMEOUT_MS = 500  # at a stop: how long to wait for readers to let go of the write-ahead log
COPY_PAUSE_S = 0.005
"""Between two looks whether somebody else still copies a write-ahead log back."""
FOREIGN_STEPS_PER_BYTE = 100
"""SQLite's virtual-machine steps that an import may take for each byte of a file: some 150 a row are needed, and a row
has 20 bytes at the least. A file made for it can name one page a million times."""
FOREIGN_STEPS_MIN = 100_000_000
FOREIGN_CHECK_STEPS = 100_000
PROGRESS_STEPS = 20_000  # SQLite's virtual-machine steps between two looks at a read's deadline: under 1 ms

_PERMISSIONS = "Check the owner and the permissions of it, of the files beside it and of its folder."
_DAMAGED = "`chatledger verify` says whether the ledger is damaged; views are built anew by `chatledger replay`."
_FAULT = "Where `chatledger verify` finds nothing, it is a fault of chatledger, or of a projection of your own."
_STORAGE = {
    apsw.BusyError: "Another program holds it: end that one, or try again.",
    apsw.CantOpenError: _PERMISSIONS,
    apsw.CorruptError: _DAMAGED,
    apsw.FullError: "Make room on its disk.",
    apsw.IOError: "See what the system says of its disk.",
    apsw.NotADBError: _DAMAGED,
    apsw.PermissionsError: _PERMISSIONS,
    apsw.ReadOnlyError: _PERMISSIONS,
}
"""The errors of SQLite that are the storage's and not ours, each with what to do."""

# What SQLite says of a file that it opens: of the statements that open one, none can be wrong in itself, so that
# its plain SQLITE_ERROR is about the file too ("unsupported file format").
_NO_DATABASE = (apsw.NotADBError, apsw.CorruptError, apsw.SQLError)


class CommitFailed(ChatledgerError):
    """A COMMIT failed. Its `__cause__` is SQLite's error; whether it happened is not known.

    After a failed sync the transaction may be in the file or not: a crash image taken then does contain it.
    """

    def __init__(self) -> None:
        super().__init__("A commit failed; whether it happened is not known.")


def _forget_statistics() -> None:
    """Have SQLite not count its memory: for that, all threads take one lock at each allocation.

    It costs the two lanes of a rebuild a fifth. SQLite takes it only before it starts, and `import apsw` starts it.
    Where somebody has a connection open already, it stays as it is: slower, and as right.
    """
    if not apsw.connections():
        apsw.shutdown()
        apsw.config(apsw.SQLITE_CONFIG_MEMSTATUS, False)  # noqa: FBT003
        apsw.initialize()


_forget_statistics()


class UnfinishedTransaction(RefusedToStart):
    """A power cut has left a journal beside the file: whoever may write to it plays it back by opening it."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} has an unfinished transaction; the next start of the server finishes it.")


def check_sqlite() -> None:
    """Refuse an SQLite that can lose a commit.

    Raises:
        RefusedToStart: this SQLite is older than 3.51.3.
    """
    version = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
    if version < SQLITE_VERSION_MIN:
        raise RefusedToStart(
            f"SQLite {apsw.sqlite_lib_version()} has the WAL-reset bug, which can lose commits; "
            f"3.51.3 or newer is needed (pip install --upgrade apsw)."
        )


def _open(name: str, *, memory: bool, flags: int, busy_timeout_ms: int) -> Connection:
    if memory:
        name, flags = f"file:{name}?vfs=memdb", apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        flags |= apsw.SQLITE_OPEN_URI
    connection = apsw.Connection(name, flags=flags, statementcachesize=STATEMENTS_CACHED)
    with _closed_on_failure(connection):
        connection.set_busy_timeout(busy_timeout_ms)
        connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
        connection.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)
        # Else a statement with `LIMIT ?` is prepared anew for each other value that is bound, four times its own time,
        # in case a better plan is found: https://www.sqlite.org/queryplanner-ng.html#qpstab
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        connection.pragma("trusted_schema", False)  # noqa: FBT003
        connection.pragma("cache_size", -CACHE_KIB)
    return connection


@contextmanager
def _closed_on_failure(connection: Connection) -> Iterator[None]:
    """Whoever keeps the error does not keep the connection open, and with it its locks."""
    try:
        yield
    except BaseException:
        connection.close()
        raise


def _open_writer(
    name: str, location: Location, settings: Settings, *, synchronous: str, page_bytes: int = LEDGER_PAGE_BYTES
) -> Connection:
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
    connection = _open(name, memory=location.memory, flags=flags, busy_timeout_ms=settings.busy_timeout_ms)
    with _closed_on_failure(connection):
        connection.pragma("page_size", page_bytes)
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", synchronous)
        connection.pragma("fullfsync", True)  # noqa: FBT003  # on macOS a plain fsync stops in the disk's cache
        connection.pragma("foreign_keys", True)  # noqa: FBT003
        connection.pragma("recursive_triggers", True)  # noqa: FBT003
        connection.pragma("temp_store", "memory")
        # From the first row on: a root page that splits otherwise leaves copies of its rows (docs/decisions/0022).
        # What is attached later has it too.
        connection.pragma("secure_delete", "fast")
        checkpoint_by_itself(connection, settings)
        limit_log(connection, "main", pages=settings.wal_checkpoint_pages)
    return connection


def limit_log(connection: Connection, schema: str, *, pages: int) -> None:
    """Have a write-ahead log that begins anew cut to twice *pages*, if a long read has let it grow beyond.

    Twice, because the log is a little longer than its limit as a rule, and cutting it would only make it grow again.
    """
    page_bytes = int(connection.pragma("page_size", schema=schema))
    connection.pragma("journal_size_limit", 2 * pages * page_bytes, schema=schema)


def open_reader(name: str, location: Location, settings: Settings) -> Connection:
    """A connection that can only read, to the ledger or to views that exist.

    Where SQLite cannot have its files beside it, because the file lies on read-only media, it is read without locks.

    Raises:
        RefusedToStart: there is no such file, or it cannot be read where it lies.
        UnfinishedTransaction: only a writer can open it now.
    """
    try:
        return _open_to_read(name, location, settings)
    except (apsw.CantOpenError, apsw.ReadOnlyError) as error:
        if not location.memory and file_access.is_read_without_locks(name):
            return _open_to_read(_uri_to_read(name), location, settings, flags=apsw.SQLITE_OPEN_URI)
        if _has_unfinished_transaction(name, error):
            raise UnfinishedTransaction(Path(name).name) from error
        reason = file_access.why_unreadable(name, str(error))
        raise RefusedToStart(f"{Path(name).name} cannot be opened for reading: {reason}.") from error


def _open_to_read(name: str, location: Location, settings: Settings, *, flags: int = 0) -> Connection:
    connection = _open(
        name,
        memory=location.memory,
        flags=flags | apsw.SQLITE_OPEN_READONLY,
        busy_timeout_ms=settings.busy_timeout_ms,
    )
    with _closed_on_failure(connection):
        connection.pragma("query_only", True)  # noqa: FBT003
        connection.pragma("schema_version")  # SQLite opens the file only now
    return connection


def _has_unfinished_transaction(name: str, error: apsw.Error) -> bool:
    """Whether *error* says that a journal has to be played back, which whoever writes to the file next does."""
    code: int = getattr(error, "extendedresult", 0)  # APSW's types do not know it
    return code == apsw.SQLITE_READONLY_ROLLBACK and not file_access.is_read_only(name)


def _uri_to_read(name: str) -> str:
    """How to attach the file *name* to be read, so that it is opened as `open_reader` would."""
    immutable = "&immutable=1" if file_access.is_read_without_locks(name) else ""
    return f"{Path(name).as_uri()}?mode=ro{immutable}"


def open_ledger_reader(location: Location, settings: Settings) -> Connection:
    """A connection that can only read the ledger, of whatever schema up to ours it is.

    Raises:
        RefusedToStart: it is not there, not ours, of a newer schema, or only a writer can open it now.
        LedgerDamaged: it is no SQLite database, or a damaged one.
    """
    name = Path(location.ledger).name
    try:
        connection = open_reader(location.ledger, location, settings)
        with _closed_on_failure(connection):
            _check_is_ledger(connection, name)
    except _NO_DATABASE as error:
        raise LedgerDamaged(f"{name} is not an SQLite database, or is damaged; it was left as it is.") from error
    return connection


def open_foreign(path: Path, settings: Settings, *, row_bytes_max: int) -> Connection:
    """A connection to somebody else's SQLite file, for an import, that can change nothing but temporary tables.

    What a file from elsewhere may hold is kept from acting (https://www.sqlite.org/security.html section 1): no view,
    trigger or function of its schema runs, no text or row of more than *row_bytes_max* bytes is made, and it may not
    cost more work than a file of its size can be worth.

    Raises:
        RefusedToStart: it is no database, in use, or only its own program can open it.
    """
    location = Location(str(path), memory=False)
    try:
        connection = _open_to_read(str(path), location, settings)
    except _NO_DATABASE as error:
        raise RefusedToStart(f"{path.name} is not an SQLite database, or is damaged.") from error
    except (apsw.CantOpenError, apsw.ReadOnlyError) as error:
        # Never without locks: its own program may write to it.
        if _has_unfinished_transaction(str(path), error):
            raise RefusedToStart(
                f"{path.name} has an unfinished transaction; open it with its own program first."
            ) from error
        reason = file_access.why_unreadable(str(path), str(error))
        raise RefusedToStart(f"{path.name} cannot be opened for reading: {reason}.") from error
    except apsw.BusyError as error:
        raise RefusedToStart(f"{path.name} is in use by another program: stop that first.") from error
    with _closed_on_failure(connection):
        connection.pragma("query_only", False)  # noqa: FBT003  # temporary tables; the file is open for reading alone
        connection.pragma("cell_size_check", True)  # noqa: FBT003
        connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_VIEW, 0)
        connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
        limit_rows(connection, row_bytes_max)
        _limit_work(connection, FOREIGN_STEPS_MIN + FOREIGN_STEPS_PER_BYTE * path.stat().st_size)
    return connection


def _limit_work(connection: Connection, steps_max: int) -> None:
    """Have the statements of *connection* end with an interrupt once they have taken *steps_max* steps together."""
    left = steps_max

    def take() -> bool:
        nonlocal left
        left -= FOREIGN_CHECK_STEPS
        return left < 0

    connection.set_progress_handler(take, FOREIGN_CHECK_STEPS)


def open_memory() -> Connection:
    """A private database in memory: views of a few events that one puts there."""
    connection = apsw.Connection(":memory:")
    connection.pragma("foreign_keys", True)  # noqa: FBT003
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
            connection = _open_writer(location.ledger, location, settings, synchronous="full")
        else:
            if not _has_content(location.ledger):
                _make_ledger(location, settings)
            # Look before opening for writing: `journal_mode=wal` would already change a file that is not ours.
            _look_at_ledger(location, settings)
            connection = _open_writer(location.ledger, location, settings, synchronous="full")
        with _closed_on_failure(connection):
            _migrate(connection, name)
    except _NO_DATABASE as error:
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
        connection = _open(name, memory=False, flags=flags, busy_timeout_ms=settings.busy_timeout_ms)
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
    connection = _open_writer(unfinished, location, settings, synchronous="full")
    _migrate(connection, Path(location.ledger).name)
    checkpoint(connection)
    connection.close()
    put_in_place(unfinished, location.ledger)


def open_copy(name: str, settings: Settings) -> Connection:
    """A file to copy pages into. Without a journal: a copy that was not finished is thrown away."""
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    connection = _open(name, memory=False, flags=flags, busy_timeout_ms=settings.busy_timeout_ms)
    connection.pragma("journal_mode", "off")
    connection.pragma("synchronous", "full")
    connection.pragma("fullfsync", True)  # noqa: FBT003
    return connection


def open_unfinished(name: str, settings: Settings, *, identity: tuple[str, int] | None = None) -> Connection:
    """A ledger that does not have its name yet, brought to our schema; a new one of *identity* if it is empty."""
    connection = _open_writer(name, Location(name, memory=False), settings, synchronous="full")
    try:
        _migrate(connection, Path(name).name, identity)
    except BaseException:
        connection.close()
        raise
    return connection


def attach_source(connection: Connection, source: Connection) -> None:
    """Attach the file of *source*, to be read only, under the name `source`."""
    connection.execute("ATTACH ? AS source", (_uri_to_read(source.filename),))


def has_table(connection: Connection, name: str) -> bool:
    """Whether there is a table of that name."""
    query = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?)"
    return bool(connection.execute(query, (name,)).get)


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


def open_views(name: str, location: Location, settings: Settings, ledger: Connection) -> Connection:
    """Make a views file to fill, with the file of *ledger* attached to read from.

    It is disposable, so commits are not synced one by one.
    """
    connection = _open_writer(name, location, settings, synchronous="normal", page_bytes=VIEWS_PAGE_BYTES)
    memory = f"file:{location.ledger}?vfs=memdb&mode=ro"
    try:
        connection.execute("ATTACH ? AS ledger", (memory if location.memory else _uri_to_read(ledger.filename),))
    except apsw.Error:
        connection.close()
        raise
    return connection


def attach_views(ledger: Connection, name: str, location: Location, settings: Settings) -> None:
    """Attach a views file to the ledger's writing connection, so that one transaction writes to both.

    It is no atomic one: SQLite commits the main database first, synced, and then the attached one, which is not
    (https://www.sqlite.org/lang_attach.html). A crash in between leaves the views behind, never ahead.
    """
    ledger.execute("ATTACH ? AS views", (f"file:{name}?vfs=memdb" if location.memory else name,))
    ledger.pragma("journal_mode", "wal", schema="views")
    ledger.pragma("synchronous", "normal", schema="views")
    ledger.pragma("cache_size", -CACHE_KIB, schema="views")
    limit_log(ledger, "views", pages=settings.wal_checkpoint_pages)


def detach_views(ledger: Connection) -> None:
    """Detach the views file again, if there is one."""
    if ledger.execute("SELECT EXISTS (SELECT 1 FROM pragma_database_list WHERE name = 'views')").get:
        ledger.execute("DETACH views")


def prepare_bulk(connection: Connection, location: Location) -> None:
    """Make a views file that nobody reads yet fast to fill: a crash on the way leaves a file to delete."""
    connection.pragma("foreign_keys", False)  # noqa: FBT003  # a table's parent may be filled elsewhere
    for schema in ("main", "ledger"):
        connection.pragma("cache_size", -BULK_CACHE_KIB, schema=schema)
    if location.memory:  # it has no WAL to go back to, and without a journal there is no ROLLBACK
        return
    connection.pragma("journal_mode", "off", schema="main")
    connection.pragma("synchronous", "off", schema="main")


def finish_bulk(connection: Connection, location: Location) -> None:
    """Back to the WAL, and all that was written onto the disk: the checkpoint syncs the whole file."""
    connection.pragma("synchronous", "full", schema="main")
    connection.pragma("journal_mode", "wal", schema="main")
    connection.pragma("application_id", VIEWS_APPLICATION_ID, schema="main")
    if not location.memory:
        checkpoint(connection)
    connection.pragma("synchronous", "normal", schema="main")


def checkpoint(connection: Connection, schema: str = "main") -> None:
    """Copy the whole WAL into the database, sync it and cut the WAL to nothing."""
    connection.wal_checkpoint(schema, mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)


def checkpoint_by_hand(connection: Connection) -> None:
    """No more checkpoints inside commits: the caller sees to them."""
    connection.wal_autocheckpoint(0)


def checkpoint_by_itself(connection: Connection, settings: Settings) -> None:
    """Checkpoints inside commits, as in a connection that was just opened."""
    connection.wal_autocheckpoint(settings.wal_checkpoint_pages)


def pages_written(connection: Connection) -> int:
    """The pages that this connection has written to its write-ahead logs so far."""
    return connection.status(apsw.SQLITE_DBSTATUS_CACHE_WRITE)[0]


def checkpoint_passive(connection: Connection, schema: str) -> int:
    """Copy as much of a write-ahead log into its database as can be without waiting for anybody, and sync it.

    Returns:
        The pages in the log. It begins anew with the next commit if all of them are copied and nobody reads them.
    """
    return connection.wal_checkpoint(schema, mode=apsw.SQLITE_CHECKPOINT_PASSIVE)[0]


def copy_back_beside(name: str, location: Location, settings: Settings, *, passes: int) -> None:
    """The same, *passes* times, with a connection of its own, while another one writes."""
    connection = _open(
        name, memory=location.memory, flags=apsw.SQLITE_OPEN_READWRITE, busy_timeout_ms=settings.busy_timeout_ms
    )
    try:
        for _ in range(passes):
            checkpoint_passive(connection, "main")
    finally:
        connection.close()


def truncate_logs(connection: Connection, schemas: Sequence[str], *, wait_ms: int) -> bool:
    """Copy write-ahead logs into their databases and truncate them; False where a reader is in the way of one.

    What is in a log beyond its new end is in no file any more. SQLite waits up to *wait_ms* for readers that began
    before the copy was whole, and holds the write lock meanwhile; but not for somebody else's copy of the same log
    (https://www.sqlite.org/c3ref/wal_checkpoint_v2.html).
    """
    before = connection.pragma("busy_timeout")
    try:
        for schema in schemas:
            connection.set_busy_timeout(0)
            checkpoint_passive(connection, schema)
            connection.set_busy_timeout(wait_ms)
            checkpoint(connection, schema)
    except apsw.BusyError:
        return False
    finally:
        connection.pragma("busy_timeout", before)
    return True


def checkpoint_at_end(connection: Connection) -> None:
    """As `checkpoint`, of a file that is about to be closed, if nobody reads it just now.

    A log that somebody reads stays, and is a part of its database until the next start: no reason to wait for a reader
    that may go on for hours.
    """
    connection.set_busy_timeout(END_TIMEOUT_MS)
    with contextlib.suppress(apsw.BusyError, apsw.LockedError):
        checkpoint(connection)


@contextmanager
def immediate(connection: Connection) -> Iterator[None]:
    """A write transaction that has its lock from the start; rolled back if the block raises.

    `BEGIN DEFERRED` would fail at its first write, whatever the timeout, once another connection has written
    (SQLITE_BUSY_SNAPSHOT, https://www.sqlite.org/rescode.html).

    Raises:
        CommitFailed: the COMMIT itself failed.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        _roll_back(connection)
        raise
    try:
        connection.execute("COMMIT")
    except BaseException as error:
        _roll_back(connection)
        if isinstance(error, apsw.Error):
            raise CommitFailed from error
        raise


def _roll_back(connection: Connection) -> None:
    # After some errors (full, I/O) SQLite has rolled back by itself, and a second one would be an error.
    if connection.in_transaction:
        connection.execute("ROLLBACK")


@contextmanager
def snapshot(connection: Connection) -> Iterator[None]:
    """A read transaction: all queries of the block see one state."""
    connection.execute("BEGIN")
    try:
        yield
    finally:
        _roll_back(connection)


@contextmanager
def reading_on(connection: Connection) -> Iterator[None]:
    """As `snapshot`, by a statement that is not read to its end, for a file that may be damaged.

    Inside a BEGIN the first damage that is met has SQLite refuse every write, also to temporary tables. Whatever is
    written in the block is committed at once.
    """
    cursor = connection.cursor()
    cursor.execute("SELECT 1 FROM main.sqlite_schema UNION ALL SELECT 1")
    try:
        yield
    finally:
        cursor.close(True)  # noqa: FBT003  # it is meant to be in the middle


@contextmanager
def storage_failures_named(name: str) -> Iterator[None]:
    """Say in one line that the storage fails, where there is no caller to answer but somebody who starts or stops us.

    Args:
        name: The file that it is about, where the error names none: SQLite's never do.

    Raises:
        RefusedToStart: instead of what SQLite or the operating system say.
    """
    try:
        yield
    except CommitFailed as error:
        raise RefusedToStart(
            f"A commit into {name} failed, and whether it was kept is not known: {error.__cause__}. Look at what is "
            f"there before you do it again."
        ) from error
    except tuple(_STORAGE) as error:
        refuse(error, name)
    except OSError as error:
        os_errors.refuse(error, name)


def refuse(error: SQLError, name: str) -> NoReturn:
    """Refuse because of what SQLite says of the file *name*.

    Raises:
        RefusedToStart: always.
    """
    kind = apsw.mapping_extended_result_codes.get(getattr(error, "extendedresult", 0))
    what = f"{error} ({kind})" if kind else str(error)
    remedy = _STORAGE.get(
        type(error),
        "Where `chatledger verify` finds nothing, it is a fault of chatledger or of a projection of your own.",
    )
    raise RefusedToStart(f"SQLite cannot use {name}: {what}. {remedy}") from error


@contextmanager
def autocommit() -> Iterator[None]:
    """Of a statement that is a transaction of its own: an error of the storage may be one of its commit.

    Raises:
        CommitFailed: whether the statement's changes were kept is not known.
    """
    try:
        yield
    except (apsw.FullError, apsw.IOError) as error:
        raise CommitFailed from error


def limit_rows(connection: Connection, bytes_max: int) -> None:
    """Have statements fail that meet or make a text, a blob or a row of more than *bytes_max* bytes."""
    connection.limit(apsw.SQLITE_LIMIT_LENGTH, bytes_max)


class Bulk:
    """A statement over many rows at a time: one `VALUES` for up to 64 of them.

    APSW gives Python's interpreter lock back around each step of SQLite, and under load the writer waits some
    80 µs to get it again. One step instead of one for each row halves the time of a group, and a rebuild is
    faster by a third (docs/decisions/0007-many-rows-a-step.md). Of many rows, 256 are one statement.
    """

    ROWS_MAX = 64
    ROWS_MANY = 256  # a text that APSW still keeps in its cache: up to 16 KiB

    def __init__(self, before: str, row: str, after: str = "") -> None:
        """Write SQL as `{before} VALUES {row}, {row} … {after}`."""
        self._statements = [f"{before} VALUES {', '.join([row] * count)} {after}" for count in range(self.ROWS_MAX + 1)]
        self._many = f"{before} VALUES {', '.join([row] * self.ROWS_MANY)} {after}"

    def execute(self, connection: Connection, rows: Sequence[tuple[SQLiteValue, ...]]) -> None:
        """Run the statement for all of *rows*, in order."""
        many = len(rows) - len(rows) % self.ROWS_MANY
        for start in range(0, many, self.ROWS_MANY):
            connection.execute(self._many, list(chain.from_iterable(rows[start : start + self.ROWS_MANY])))
        for start in range(many, len(rows), self.ROWS_MAX):
            part = rows[start : start + self.ROWS_MAX]
            connection.execute(self._statements[len(part)], list(chain.from_iterable(part)))


def is_damage(error: BaseException | None) -> bool:
    """Whether *error* says that the file itself is damaged."""
    return isinstance(error, Damaged)


def is_duplicate_key(error: BaseException | None) -> bool:
    """Whether *error* says that two rows have the same key."""
    return isinstance(error, apsw.ConstraintError)


def is_interrupt(error: BaseException | None) -> bool:
    """Whether *error* says that a progress handler ended the statement."""
    return isinstance(error, apsw.InterruptError)


def is_full(error: BaseException | None) -> bool:
    """Whether *error* is SQLite's word for a full disk: then nothing of a commit was kept."""
    return isinstance(error, apsw.FullError)


def to_domain_error(error: apsw.Error) -> DomainError | None:
    """What a caller may know of SQLite's *error*, or None where it is a fault of ours.

    For errors before the commit: nothing was written.
    """
    if isinstance(error, apsw.FullError):
        return StorageFull()
    if isinstance(error, apsw.InterruptError):
        return Overloaded("The read took longer than its limit and was stopped.")
    if isinstance(error, (apsw.BusyError, apsw.LockedError)):
        return Overloaded("The database is busy.")
    if isinstance(error, (apsw.IOError, apsw.CantOpenError, apsw.ReadOnlyError)):
        return Overloaded("The storage does not answer as it should.", retry_after_s=5)
    return None
