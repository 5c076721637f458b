"""Somebody else's SQLite file, for an import."""

from pathlib import Path

import apsw

from chatledger.errors import RefusedToStart
from chatledger.settings import Settings
from chatledger.storage import file_access
from chatledger.storage.connection import (
    Connection,
    closed_on_failure,
    has_unfinished_transaction,
    limit_rows,
    open_to_read,
)
from chatledger.storage.paths import Location
from chatledger.storage.sql_errors import NO_DATABASE

FOREIGN_STEPS_PER_BYTE = 100
"""SQLite's virtual-machine steps that an import may take for each byte of a file: some 150 a row are needed, and a row
has 20 bytes at the least. A file made for it can name one page a million times."""
FOREIGN_STEPS_MIN = 100_000_000
FOREIGN_CHECK_STEPS = 100_000


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
        connection = open_to_read(str(path), location, settings)
    except NO_DATABASE as error:
        raise RefusedToStart(f"{path.name} is not an SQLite database, or is damaged.") from error
    except (apsw.CantOpenError, apsw.ReadOnlyError) as error:
        # Never without locks: its own program may write to it.
        if has_unfinished_transaction(str(path), error):
            raise RefusedToStart(
                f"{path.name} has an unfinished transaction; open it with its own program first."
            ) from error
        reason = file_access.why_unreadable(str(path), str(error))
        raise RefusedToStart(f"{path.name} cannot be opened for reading: {reason}.") from error
    except apsw.BusyError as error:
        raise RefusedToStart(f"{path.name} is in use by another program: stop that first.") from error
    with closed_on_failure(connection):
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
