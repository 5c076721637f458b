"""Transactions: IMMEDIATE for whoever writes, snapshots for whoever reads."""

from collections.abc import Iterator
from contextlib import contextmanager

import apsw

from chatledger.storage.connection import Connection
from chatledger.storage.sql_errors import CommitFailed


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
        roll_back(connection)
        raise
    try:
        connection.execute("COMMIT")
    except BaseException as error:
        roll_back(connection)
        if isinstance(error, apsw.Error):
            raise CommitFailed from error
        raise


def roll_back(connection: Connection) -> None:
    """Roll back, if there is a transaction."""
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
        roll_back(connection)


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
def autocommit() -> Iterator[None]:
    """Of a statement that is a transaction of its own: an error of the storage may be one of its commit.

    Raises:
        CommitFailed: whether the statement's changes were kept is not known.
    """
    try:
        yield
    except (apsw.FullError, apsw.IOError) as error:
        raise CommitFailed from error
