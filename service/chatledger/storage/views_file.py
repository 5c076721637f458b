"""A views file: opening it, attaching it to the ledger's connection, filling it."""

import apsw

from chatledger.settings import Settings
from chatledger.storage.connection import CACHE_KIB, Connection, open_writer, uri_to_read
from chatledger.storage.paths import Location
from chatledger.storage.wal import checkpoint, set_wal_size_limit

VIEWS_APPLICATION_ID = 0x434C5657  # "CLVW"
BULK_CACHE_KIB = 4 * 1024
"""Of each file while views are filled: a batch and what it changes. What comes next has not been read before, and more
pages than the processor's cache holds only cost time (docs/decisions/0013-projections-in-sql.md)."""
VIEWS_PAGE_BYTES = 8192  # a rebuild takes a fifth less time than with 4096, and an append as long


def open_views(name: str, location: Location, settings: Settings, ledger: Connection) -> Connection:
    """Make a views file to fill, with the file of *ledger* attached to read from.

    It is disposable, so commits are not synced one by one.
    """
    connection = open_writer(name, location, settings, synchronous="normal", page_bytes=VIEWS_PAGE_BYTES)
    memory = f"file:{location.ledger}?vfs=memdb&mode=ro"
    try:
        connection.execute("ATTACH ? AS ledger", (memory if location.memory else uri_to_read(ledger.filename),))
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
    set_wal_size_limit(ledger, "views", pages=settings.wal_checkpoint_pages)


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
