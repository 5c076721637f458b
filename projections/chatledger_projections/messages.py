"""The table `messages`: each message as its event holds it, so that a page is stored bytes joined."""

from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

import msgspec

from chatledger.domain.documents import message_document
from chatledger.domain.session import SessionState
from chatledger.storage.connection import Connection
from chatledger_projections import sessions
from chatledger_projections.projection import Projection
from chatledger_projections.sessions import Named

# session_id is the session's integer key: with a text id in both indexes a rebuild is three times slower. The
# view `transcript` is for people with a table browser.
TABLES = """
CREATE TABLE messages (
  position   INTEGER PRIMARY KEY,                 -- of its event in the ledger
  session_id INTEGER NOT NULL REFERENCES sessions (key) ON DELETE CASCADE
             DEFERRABLE INITIALLY DEFERRED,       -- a message may come in the batch in which its session ends
  removed    INTEGER NOT NULL,                    -- 1 once readers no longer see it
  seq        INTEGER NOT NULL,
  id         TEXT    NOT NULL,
  created_at INTEGER,                             -- µs since the epoch; NULL where the message itself says it
  payload    TEXT,                                -- of its event, as stored; NULL once removed: the id stays taken
  UNIQUE (session_id, removed, seq)               -- so that nobody passes over many that were removed
) STRICT;
CREATE VIEW live_messages AS
  SELECT m.* FROM messages AS m JOIN sessions AS s ON s.key = m.session_id WHERE s.hidden = 0 AND m.removed = 0;
CREATE VIEW transcript AS
  SELECT s.tenant_id, s.id AS session_id, m.seq, m.id, m.payload ->> '$.message.role' AS role,
    m.payload ->> '$.message.content' AS content, coalesce(m.payload ->> '$.message.created_at',
    strftime('%Y-%m-%dT%H:%M:%S', m.created_at / 1000000, 'unixepoch') || printf('.%06dZ', m.created_at % 1000000))
    AS created_at
  FROM messages AS m JOIN sessions AS s ON s.key = m.session_id WHERE s.hidden = 0 AND m.removed = 0;
"""

# In this order: new UUIDv7s all go to its end, so that a group of messages changes one or two of its pages.
INDEXES = "CREATE UNIQUE INDEX messages_by_id ON messages (id, session_id)"

# How a payload ends whose id is a UUID, or as long as one, which is nearly all: `seq` is its first member, the message
# its last, and the id that one's last unless it says when it was made. An id has no quotes (domain/ids.py), nor needs
# it a backslash: what has one there is something else. The other way, through JSON, takes twice as long.
_END = "CAST(substr(CAST(payload AS BLOB), -46) AS TEXT)"
_IS_PLAIN = f"""{_END} GLOB ',"id":"*"}}}}' AND instr(substr({_END}, 8), '"') = 37"""
_ID = "CAST(substr(CAST(payload AS BLOB), -39, 36) AS TEXT)"

# All others are looked for only where the first statement has not taken all there are.
PROGRAM = f"""
INSERT INTO messages
  SELECT position, stream, 0, CAST(substr(payload, 8, 20) AS INTEGER), {_ID}, recorded_at, payload
  FROM batch WHERE type = 'message.appended' AND {_IS_PLAIN} ORDER BY position;
INSERT INTO messages
  SELECT position, stream, 0, payload ->> '$.seq', payload ->> '$.message.id',
    CASE WHEN payload ->> '$.message.created_at' IS NULL THEN recorded_at END, payload
  FROM batch WHERE changes() < (SELECT count(*) FROM batch WHERE type = 'message.appended' AND payload IS NOT NULL)
    AND type = 'message.appended' AND payload IS NOT NULL AND NOT ({_IS_PLAIN}) ORDER BY position;
UPDATE messages SET removed = 1, payload = NULL
  FROM (SELECT stream, payload ->> '$.message_id' AS message_id FROM batch
    WHERE type = 'message.removed' AND payload IS NOT NULL) AS gone
  WHERE messages.session_id = gone.stream AND messages.id = gone.message_id;
"""

# The same document as `message_document` makes, inside SQLite: a page of them is one step instead of one for each, and
# the interpreter lock is given back once (docs/decisions/0019-reads.md). Of a blob, because `substr` counts a text's
# characters; the small parts are joined first, because each `||` copies; by `date` and `time`, because `strftime` takes
# longer than both. ?4 is what `_middle` returns.
_TEXT = """substr(CAST(payload AS BLOB), 19 + length(seq), octet_length(payload) - 20 - length(seq)) || (?4 || seq ||
  coalesce(',"created_at":"' || date(created_at / 1000000, 'unixepoch') || 'T'
    || time(created_at / 1000000, 'unixepoch') || '.' || substr(1000000 + created_at % 1000000, 2) || 'Z"}', '}'))"""
_OF_SESSION = "FROM messages WHERE session_id = sessions.key AND removed = 0"
_ROWS = f"SELECT payload, seq, created_at {_OF_SESSION}"
_JOINED = f"SELECT group_concat({_TEXT})"
_UP = f"{_ROWS} AND seq > ?6 AND seq < ?7 ORDER BY seq LIMIT ?5"
_DOWN = f"{_ROWS} AND seq > ?6 AND seq < ?7 ORDER BY seq DESC LIMIT ?5"
# The numbers of a session's messages have no gap but those of removed ones: where there are none, nobody has to look.
_MORE = f"""CASE WHEN message_count = last_seq THEN min(last_seq, ?7 - 1) - ?6 > ?5
  ELSE (SELECT TRUE {_OF_SESSION} AND seq > ?6 AND seq < ?7 ORDER BY seq LIMIT 1 OFFSET ?5) IS NOT NULL END"""
_NEWEST = f"""{_ROWS} AND seq > CASE WHEN message_count = last_seq
    THEN last_seq - ?5 ELSE coalesce((SELECT seq {_OF_SESSION} ORDER BY seq DESC LIMIT 1 OFFSET ?5), 0) END
  ORDER BY seq LIMIT ?5"""
_AT_ONCE = f"FROM sessions WHERE {sessions.NAMED}"
_UP_AT_ONCE = f"SELECT version, CAST(({_JOINED} FROM ({_UP})) AS BLOB), {_MORE} {_AT_ONCE}"
_DOWN_AT_ONCE = f"SELECT version, CAST(({_JOINED} FROM ({_DOWN})) AS BLOB), {_MORE} {_AT_ONCE}"
_NEWEST_AT_ONCE = f"SELECT {sessions.COLUMNS}, CAST(({_JOINED} FROM ({_NEWEST})) AS BLOB) {_AT_ONCE}"
_FIND = f"""SELECT version, (SELECT CAST({_TEXT} AS BLOB) {_OF_SESSION} AND messages.id = ?5) {_AT_ONCE}"""

_DOCUMENT = "SELECT CAST(payload AS BLOB), created_at FROM messages"
_KNOWN = """SELECT id, position, removed FROM messages
  WHERE session_id = ? AND id IN (SELECT value FROM json_each(?))"""
_PAGE_UP = f"{_DOCUMENT} WHERE session_id = ? AND removed = 0 AND seq > ? AND seq < ? ORDER BY seq LIMIT ?"
_PAGE_DOWN = f"{_DOCUMENT} WHERE session_id = ? AND removed = 0 AND seq > ? AND seq < ? ORDER BY seq DESC LIMIT ?"

# When each of the newest messages was made; the message itself says it where the row does not.
_NEWEST_MADE = """SELECT id, coalesce(created_at, unixepoch(substr(payload ->> '$.message.created_at', 1, 19)) * 1000000
    + substr(payload ->> '$.message.created_at', 21, 6))
  FROM messages WHERE session_id = ? AND removed = 0 ORDER BY seq DESC LIMIT ?"""

QUERIES = (_UP_AT_ONCE, _DOWN_AT_ONCE, _NEWEST_AT_ONCE, _FIND, _KNOWN, _PAGE_UP, _PAGE_DOWN, _NEWEST_MADE)
"""What requests run, for the test that none of them scans a table."""

FIRST = 0
LAST = 2**63 - 1


class KnownMessage(msgspec.Struct, frozen=True):
    """That an id is taken in its session: the position of its event, and whether it was removed since."""

    position: int
    removed: bool


class Page(NamedTuple):
    """The JSON of messages of a session at its version, joined by commas, and whether there are more behind them."""

    version: int
    documents: bytes
    more: bool


def _middle(named: Named) -> str:
    """What stands between a message as it was given and its `seq`. The id is that of a session that is there."""
    return f',"session_id":"{named.session_id}","seq":'


def find(db: Connection, named: Named, message_id: str) -> tuple[int, bytes | None] | None:
    """The session's version and the JSON of one message, None where readers see none; None without the session."""
    found: tuple[int, bytes | None] | None = db.execute(_FIND, (*named, _middle(named), message_id)).get
    return found


def known(db: Connection, stream: int, ids: Iterable[str]) -> dict[str, KnownMessage]:
    """Which of *ids* are taken in the session, removed messages included."""
    wanted = msgspec.json.encode(list(ids)).decode()
    rows = db.execute(_KNOWN, (stream, wanted))
    return {row[0]: KnownMessage(position=row[1], removed=bool(row[2])) for row in rows}


def newest_visible_us(db: Connection, stream: int, *, passing_over: Collection[str]) -> int | None:
    """When the newest of a session's messages was made, but for those *passing_over*; None where there is no other."""
    rows = db.execute(_NEWEST_MADE, (stream, 1 + len(passing_over)))
    return next((made_us for message_id, made_us in rows if message_id not in passing_over), None)


def page(
    db: Connection,
    session: SessionState,
    *,
    after: int = FIRST,
    before: int = LAST,
    limit: int,
    newest_first: bool = False,
) -> Iterator[bytes]:
    """The JSON of up to *limit* messages whose seq lies between *after* and *before*, both exclusive."""
    query = _PAGE_DOWN if newest_first else _PAGE_UP
    rows = db.execute(query, (session.stream, after, before, limit))
    session_id = session.session_id
    return (message_document(row[0], session_id=session_id, created_at_us=row[1]) for row in rows)


def page_at_once(
    db: Connection, named: Named, *, after: int, before: int, limit: int, newest_first: bool
) -> Page | None:
    """What `page` finds with this *limit*, and whether it has more, in one statement; None without the session."""
    query = _DOWN_AT_ONCE if newest_first else _UP_AT_ONCE
    row = db.execute(query, (*named, _middle(named), limit, after, before)).get
    return None if row is None else Page(row[0], row[1] or b"", bool(row[2]))


def newest_at_once(db: Connection, named: Named, limit: int) -> tuple[SessionState, bytes] | None:
    """The session with the JSON of its newest messages, oldest first, joined by commas; None without the session."""
    row = db.execute(_NEWEST_AT_ONCE, (*named, _middle(named), limit)).get
    return None if row is None else (sessions.state_of(row), row[-1] or b"")


PROJECTION = Projection(name="messages", version=3, tables=TABLES, program=PROGRAM, indexes=INDEXES)
