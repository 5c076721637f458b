"""A session as of an earlier version: its first events, through the same programs, into a database in memory."""

from chatledger.ledger import event_store
from chatledger.storage import transactions
from chatledger.storage.bulk import Bulk
from chatledger.storage.connection import Connection, open_memory
from chatledger.views import apply_triggers
from chatledger_projections import messages, sessions

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
_ADD_EVENTS = Bulk("INSERT INTO events", "(?, ?, ?, ?, ?, ?, ?)")


def replay(ledger_db: Connection, stream: int, *, to_version: int) -> Connection:
    """Views of one session that have seen its events up to *to_version*; the usual queries read them.

    The caller closes the connection.
    """
    db = open_memory()
    db.execute(_LEDGER)
    apply_triggers.prepare(db, _PROJECTIONS, which=apply_triggers.ALL)
    with transactions.immediate(db):
        db.execute(_ADD_STREAM, (stream, *event_store.owner_of(ledger_db, stream)))
        for rows in event_store.read_stream_rows(ledger_db, stream, to_version=to_version, batch=_BATCH_EVENTS):
            _ADD_EVENTS.execute(db, rows)
        for projection in _PROJECTIONS:
            db.execute(projection.tables)
            db.execute(projection.indexes)
        for projection in _PROJECTIONS:
            db.execute(projection.program)
        for projection in _PROJECTIONS:
            db.execute(projection.settle)
    return db
