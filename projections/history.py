"""A session as of an earlier version: its first events, through the same programs, into a database in memory."""

from projections import batch, messages, sessions
from service import database, ledger
from service.database import Connection

_PROJECTIONS = (sessions.PROJECTION, messages.PROJECTION)
_BATCH_EVENTS = 1_000

# Of the ledger's tables, the columns that the view `batch` reads.
_LEDGER = """
CREATE TABLE streams (key INTEGER PRIMARY KEY, tenant_id TEXT NOT NULL, session_id TEXT NOT NULL) STRICT;
CREATE TABLE events (
  position INTEGER PRIMARY KEY, stream INTEGER NOT NULL, version INTEGER NOT NULL, type TEXT NOT NULL,
  schema INTEGER NOT NULL, recorded_at INTEGER NOT NULL, payload BLOB
) STRICT;
"""
_ADD_STREAM = "INSERT INTO streams VALUES (?, ?, ?)"
_ADD_EVENTS = database.Bulk("INSERT INTO events", "(?, ?, ?, ?, ?, ?, ?)")


def replay(ledger_db: Connection, stream: int, *, to_version: int) -> Connection:
    """Views of one session that have seen its events up to *to_version*; the usual queries read them.

    The caller closes the connection.
    """
    db = database.open_memory()
    db.execute(_LEDGER)
    batch.prepare(db, _PROJECTIONS, which=batch.ALL)
    with database.immediate(db):
        db.execute(_ADD_STREAM, (stream, *ledger.owner_of(ledger_db, stream)))
        for rows in ledger.read_stream_rows(ledger_db, stream, to_version=to_version, batch=_BATCH_EVENTS):
            _ADD_EVENTS.execute(db, rows)
        for projection in _PROJECTIONS:
            db.execute(projection.tables)
            db.execute(projection.indexes)
        for projection in _PROJECTIONS:
            db.execute(projection.program)
        for projection in _PROJECTIONS:
            db.execute(projection.settle)
    return db
