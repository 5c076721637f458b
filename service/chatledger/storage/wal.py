"""The write-ahead log: checkpoints, its size, its truncation (https://www.sqlite.org/wal.html)."""

import contextlib
from collections.abc import Sequence

import apsw

from chatledger.settings import Settings

END_TIMEOUT_MS = 500  # at a stop: how long to wait for readers to let go of the write-ahead log


def set_wal_size_limit(connection: apsw.Connection, schema: str, *, pages: int) -> None:
    """Have a write-ahead log that begins anew cut to twice *pages*, if a long read has let it grow beyond.

    Twice, because the log is a little longer than its limit as a rule, and cutting it would only make it grow again.
    """
    page_bytes = int(connection.pragma("page_size", schema=schema))
    connection.pragma("journal_size_limit", 2 * pages * page_bytes, schema=schema)


def checkpoint(connection: apsw.Connection, schema: str = "main") -> None:
    """Copy the whole WAL into the database, sync it and cut the WAL to nothing."""
    connection.wal_checkpoint(schema, mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)


def disable_autocheckpoint(connection: apsw.Connection) -> None:
    """No more checkpoints inside commits: the caller sees to them."""
    connection.wal_autocheckpoint(0)


def enable_autocheckpoint(connection: apsw.Connection, settings: Settings) -> None:
    """Checkpoints inside commits, as in a connection that was just opened."""
    connection.wal_autocheckpoint(settings.wal_checkpoint_pages)


def pages_written(connection: apsw.Connection) -> int:
    """The pages that this connection has written to its write-ahead logs so far."""
    return connection.status(apsw.SQLITE_DBSTATUS_CACHE_WRITE)[0]


def checkpoint_passive(connection: apsw.Connection, schema: str) -> int:
    """Copy as much of a write-ahead log into its database as can be without waiting for anybody, and sync it.

    Returns:
        The pages in the log. It begins anew with the next commit if all of them are copied and nobody reads them.
    """
    return connection.wal_checkpoint(schema, mode=apsw.SQLITE_CHECKPOINT_PASSIVE)[0]


def truncate_wal(connection: apsw.Connection, schemas: Sequence[str], *, wait_ms: int) -> bool:
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


def checkpoint_at_end(connection: apsw.Connection) -> None:
    """As `checkpoint`, of a file that is about to be closed, if nobody reads it just now.

    A log that somebody reads stays, and is a part of its database until the next start: no reason to wait for a reader
    that may go on for hours.
    """
    connection.set_busy_timeout(END_TIMEOUT_MS)
    with contextlib.suppress(apsw.BusyError, apsw.LockedError):
        checkpoint(connection)
