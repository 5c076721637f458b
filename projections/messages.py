"""The table `messages`: each message as the JSON that readers get, so that a page is stored bytes joined."""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from projections.projection import Projection
from service.database import Bulk, Connection
from service.documents import message_document
from service.events import Event, MessageAppended, MessageRemoved, SessionDeleted, SessionErased

# session_id is the session's integer key: with a text id in both indexes a rebuild is three times slower. The
# view `transcript` is for people with a table browser.
TABLES = """
CREATE TABLE messages (
  position   INTEGER PRIMARY KEY,                 -- of its event in the ledger
  session_id INTEGER NOT NULL REFERENCES sessions (key) ON DELETE CASCADE,
  seq        INTEGER NOT NULL,
  id         TEXT    NOT NULL,
  body       TEXT,                                -- JSON; NULL once removed: the id stays taken
  UNIQUE (session_id, seq)
) STRICT;
CREATE VIEW transcript AS
  SELECT s.tenant_id, s.id AS session_id, m.seq, m.id, m.body ->> '$.role' AS role,
    m.body ->> '$.content' AS content, m.body ->> '$.created_at' AS created_at
  FROM messages AS m JOIN sessions AS s ON s.key = m.session_id WHERE m.body IS NOT NULL;
"""

# In this order: new UUIDv7s all go to its end, so that a group of messages changes one or two of its pages.
INDEXES = "CREATE UNIQUE INDEX messages_by_id ON messages (id, session_id)"

_INSERT = Bulk("INSERT INTO messages (position, session_id, seq, id, body)", "(?, ?, ?, ?, CAST(? AS TEXT))")
_REMOVE = "UPDATE messages SET body = NULL WHERE session_id = ? AND id = ?"
_FIND = "SELECT CAST(body AS BLOB) FROM messages WHERE session_id = ? AND id = ? AND body IS NOT NULL"
_KNOWN = """SELECT id, position, body IS NULL FROM messages
  WHERE session_id = ? AND id IN (SELECT value FROM json_each(?))"""
_PAGE_UP = """SELECT CAST(body AS BLOB) FROM messages
  WHERE session_id = ? AND seq > ? AND seq < ? AND body IS NOT NULL ORDER BY seq LIMIT ?"""
_PAGE_DOWN = """SELECT CAST(body AS BLOB) FROM messages
  WHERE session_id = ? AND seq > ? AND seq < ? AND body IS NOT NULL ORDER BY seq DESC LIMIT ?"""

QUERIES = (_FIND, _KNOWN, _PAGE_UP, _PAGE_DOWN)
"""What requests run, for the test that none of them scans a table."""

FIRST = 0
LAST = 2**63 - 1


class KnownMessage(msgspec.Struct, frozen=True):
    """That an id is taken in its session: the position of its event, and whether it was removed since."""

    position: int
    removed: bool


def apply(db: Connection, events: Sequence[Event]) -> None:
    """Add appended messages and blank removed ones; the rows of deleted sessions go with the session's."""
    gone = {event.stream for event in events if isinstance(event.data, (SessionDeleted, SessionErased))}
    appended, removed = [], []
    for event in events:
        data = event.data
        if event.stream in gone:
            continue
        if type(data) is MessageAppended:
            body = message_document(event, data)
            appended.append((event.position, event.stream, data.seq, data.message.id, body))
        elif type(data) is MessageRemoved:
            removed.append((event.stream, data.message_id))
    _INSERT.execute(db, appended)
    db.executemany(_REMOVE, removed)


def find(db: Connection, stream: int, message_id: str) -> bytes | None:
    """The JSON of one message, or None where readers see none."""
    row = db.execute(_FIND, (stream, message_id)).fetchone()
    return None if row is None else row[0]


def known(db: Connection, stream: int, ids: Iterable[str]) -> dict[str, KnownMessage]:
    """Which of *ids* are taken in the session, removed messages included."""
    wanted = msgspec.json.encode(list(ids)).decode()
    rows = db.execute(_KNOWN, (stream, wanted))
    return {row[0]: KnownMessage(position=row[1], removed=bool(row[2])) for row in rows}


def page(
    db: Connection,
    stream: int,
    *,
    after: int = FIRST,
    before: int = LAST,
    limit: int,
    newest_first: bool = False,
) -> Iterator[bytes]:
    """The JSON of up to *limit* messages whose seq lies between *after* and *before*, both exclusive."""
    query = _PAGE_DOWN if newest_first else _PAGE_UP
    return (row[0] for row in db.execute(query, (stream, after, before, limit)))


PROJECTION = Projection(name="messages", version=1, tables=TABLES, apply=apply, indexes=INDEXES)
