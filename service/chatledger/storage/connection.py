"""Connections to SQLite, with their pragmas.

Nothing outside of this package may open a database file, its `-wal` or its `-shm`, by any means: closing such a handle
drops SQLite's POSIX locks (https://www.sqlite.org/howtocorrupt.html section 2.2), and an acknowledged commit was
lost that way in a trial.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import apsw

from chatledger.errors import RefusedToStart
from chatledger.settings import Settings
from chatledger.storage import file_access
from chatledger.storage.paths import Location
from chatledger.storage.sql_errors import UnfinishedTransaction
from chatledger.storage.wal import enable_autocheckpoint, set_wal_size_limit

Connection = apsw.Connection
SQLiteValue: TypeAlias = int | float | bytes | str | None
CACHE_KIB = 64 * 1024
LEDGER_PAGE_BYTES = 8192  # half of what pages of 4096 leave empty behind rows of some 600 bytes
STATEMENTS_CACHED = 512  # a group's statements come in 64 lengths each, see Bulk
SQLITE_VERSION_MIN = (3, 51, 3)  # before it: the WAL-reset bug, https://www.sqlite.org/wal.html
PROGRESS_STEPS = 20_000  # SQLite's virtual-machine steps between two looks at a read's deadline: under 1 ms


def configure_sqlite() -> None:
    """Have SQLite not count its memory: for that, all threads take one lock at each allocation.

    It costs the two lanes of a rebuild a fifth. SQLite takes it only before it starts, and `import apsw` starts it.
    Where somebody has a connection open already, it stays as it is: slower, and as right.
    """
    if not apsw.connections():
        apsw.shutdown()
        apsw.config(apsw.SQLITE_CONFIG_MEMSTATUS, False)  # noqa: FBT003
        apsw.initialize()


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


def open_connection(name: str, *, memory: bool, flags: int, busy_timeout_ms: int) -> Connection:
    """A connection with what all of ours have in common; in a file, or in this process's memory."""
    if memory:
        name, flags = f"file:{name}?vfs=memdb", apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        flags |= apsw.SQLITE_OPEN_URI
    connection = apsw.Connection(name, flags=flags, statementcachesize=STATEMENTS_CACHED)
    with closed_on_failure(connection):
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
def closed_on_failure(connection: Connection) -> Iterator[None]:
    """Whoever keeps the error does not keep the connection open, and with it its locks."""
    try:
        yield
    except BaseException:
        connection.close()
        raise


def open_writer(
    name: str, location: Location, settings: Settings, *, synchronous: str, page_bytes: int = LEDGER_PAGE_BYTES
) -> Connection:
    """A connection for a writer, whose commits are synced as *synchronous* says."""
    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | apsw.SQLITE_OPEN_URI
    connection = open_connection(name, memory=location.memory, flags=flags, busy_timeout_ms=settings.busy_timeout_ms)
    with closed_on_failure(connection):
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
        enable_autocheckpoint(connection, settings)
        set_wal_size_limit(connection, "main", pages=settings.wal_checkpoint_pages)
    return connection


def open_reader(name: str, location: Location, settings: Settings) -> Connection:
    """A connection that can only read, to the ledger or to views that exist.

    Where SQLite cannot have its files beside it, because the file lies on read-only media, it is read without locks.

    Raises:
        RefusedToStart: there is no such file, or it cannot be read where it lies.
        UnfinishedTransaction: only a writer can open it now.
    """
    try:
        return open_to_read(name, location, settings)
    except (apsw.CantOpenError, apsw.ReadOnlyError) as error:
        if not location.memory and file_access.is_read_without_locks(name):
            return open_to_read(uri_to_read(name), location, settings, flags=apsw.SQLITE_OPEN_URI)
        if has_unfinished_transaction(name, error):
            raise UnfinishedTransaction(Path(name).name) from error
        reason = file_access.why_unreadable(name, str(error))
        raise RefusedToStart(f"{Path(name).name} cannot be opened for reading: {reason}.") from error


def open_to_read(name: str, location: Location, settings: Settings, *, flags: int = 0) -> Connection:
    """As `open_reader`, with whatever SQLite raises."""
    connection = open_connection(
        name,
        memory=location.memory,
        flags=flags | apsw.SQLITE_OPEN_READONLY,
        busy_timeout_ms=settings.busy_timeout_ms,
    )
    with closed_on_failure(connection):
        connection.pragma("query_only", True)  # noqa: FBT003
        connection.pragma("schema_version")  # SQLite opens the file only now
    return connection


def has_unfinished_transaction(name: str, error: apsw.Error) -> bool:
    """Whether *error* says that a journal has to be played back, which whoever writes to the file next does."""
    code: int = getattr(error, "extendedresult", 0)  # APSW's types do not know it
    return code == apsw.SQLITE_READONLY_ROLLBACK and not file_access.is_read_only(name)


def uri_to_read(name: str) -> str:
    """How to attach the file *name* to be read, so that it is opened as `open_reader` would."""
    immutable = "&immutable=1" if file_access.is_read_without_locks(name) else ""
    return f"{Path(name).as_uri()}?mode=ro{immutable}"


def open_to_checkpoint(name: str, location: Location, settings: Settings) -> Connection:
    """A connection that writes nothing, for checkpoints while another one writes."""
    flags = apsw.SQLITE_OPEN_READWRITE
    return open_connection(name, memory=location.memory, flags=flags, busy_timeout_ms=settings.busy_timeout_ms)


def open_memory() -> Connection:
    """A private database in memory: views of a few events that one puts there."""
    connection = apsw.Connection(":memory:")
    connection.pragma("foreign_keys", True)  # noqa: FBT003
    return connection


def has_table(connection: Connection, name: str) -> bool:
    """Whether there is a table of that name."""
    query = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?)"
    return bool(connection.execute(query, (name,)).get)


def limit_rows(connection: Connection, bytes_max: int) -> None:
    """Have statements fail that meet or make a text, a blob or a row of more than *bytes_max* bytes."""
    connection.limit(apsw.SQLITE_LIMIT_LENGTH, bytes_max)
