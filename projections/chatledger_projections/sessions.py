"""The table `sessions`: the state of each session, also of those that readers do not see."""

from typing import NamedTuple

from chatledger.domain.session import SessionState
from chatledger.storage.connection import Connection, SQLiteValue
from chatledger_projections.projection import Projection

VISIBLE, UNFINISHED, DELETED, ERASED = range(4)
"""The values of `hidden`: 0, or why readers do not see a session."""

TABLES = """
CREATE TABLE sessions (
  key                    INTEGER PRIMARY KEY,       -- the stream's key in the ledger
  tenant_id              TEXT    NOT NULL,
  id                     TEXT    NOT NULL,
  version                INTEGER NOT NULL,
  user_id                TEXT,
  title                  TEXT,
  traits                 TEXT    NOT NULL,          -- JSON
  archived               INTEGER NOT NULL,
  message_count          INTEGER NOT NULL,          -- without removed ones
  last_seq               INTEGER NOT NULL,
  created_at             INTEGER NOT NULL,          -- µs since the epoch, as all times here
  updated_at             INTEGER NOT NULL,
  last_message_at        INTEGER,
  forked_from_session_id TEXT,
  forked_from_version    INTEGER,
  last_position          INTEGER NOT NULL,
  hidden                 INTEGER NOT NULL,          -- 0, or why readers do not see it
  visible_at             INTEGER NOT NULL,          -- the version from which on it is finished
  UNIQUE (tenant_id, id)
) STRICT;
CREATE VIEW live_sessions AS SELECT * FROM sessions WHERE hidden = 0;
"""

# Each event moves its session to another place in both: a rebuild that kept them up would write them over and over.
INDEXES = """
CREATE INDEX sessions_by_activity ON sessions (tenant_id, hidden, archived, last_position);
CREATE INDEX sessions_by_user ON sessions (tenant_id, user_id, hidden, archived, last_position);
CREATE INDEX sessions_by_source ON sessions (tenant_id, forked_from_session_id)
  WHERE forked_from_session_id IS NOT NULL;
"""

# Behind a removal, only the messages know which is the newest that is left.
_SET_LAST_MESSAGE_AT = """UPDATE sessions SET last_message_at = (SELECT coalesce(created_at,
    unixepoch(substr(payload ->> '$.message.created_at', 1, 19)) * 1000000
      + substr(payload ->> '$.message.created_at', 21, 6))
  FROM messages WHERE session_id = sessions.key AND removed = 0 ORDER BY seq DESC LIMIT 1)"""

# Order matters only here: a session is made before its messages are counted, patched in order, and deleted or erased
# last. What an event does to a session is said once more in domain/session.py, for deciding; the tests hold the two
# together. Of an erased session one row is left, which says that it was; its messages go in steps: writing/erasure.py.
PROGRAM = f"""
INSERT INTO sessions
  SELECT stream, tenant_id, session_id, version, payload ->> '$.user_id', payload ->> '$.title',
    coalesce(payload -> '$.traits', '{{}}'), 0, 0, 0,
    coalesce(unixepoch(substr(payload ->> '$.created_at', 1, 19)) * 1000000
      + substr(payload ->> '$.created_at', 21, 6), recorded_at), recorded_at, NULL,
    payload ->> '$.forked_from.session_id', payload ->> '$.forked_from.version', position,
    coalesce(payload ->> '$.visible_at', 1) > version, coalesce(payload ->> '$.visible_at', 1)
  FROM batch JOIN streams ON streams.key = batch.stream WHERE type = 'session.created' AND payload IS NOT NULL;
INSERT INTO session_changes
  SELECT stream, payload -> '$.changes' FROM batch
  WHERE type = 'session.updated' AND payload IS NOT NULL ORDER BY position;
UPDATE sessions SET version = newest.version, updated_at = newest.recorded_at, last_position = newest.position,
    message_count = message_count + counted.appended - counted.removed, last_seq = last_seq + counted.appended,
    hidden = CASE WHEN hidden = {UNFINISHED} AND newest.version >= visible_at THEN {VISIBLE} ELSE hidden END,
    last_message_at = coalesce((SELECT coalesce(unixepoch(substr(payload ->> '$.message.created_at', 1, 19)) * 1000000
        + substr(payload ->> '$.message.created_at', 21, 6), recorded_at)
      FROM batch WHERE batch.position = counted.last_said), last_message_at)
  FROM (SELECT stream, max(position) AS last, sum(type = 'message.appended') AS appended,
      sum(type = 'message.removed') AS removed, max(CASE WHEN type = 'message.appended' THEN position END) AS last_said
    FROM batch GROUP BY stream) AS counted
  JOIN batch AS newest ON newest.position = counted.last
  WHERE sessions.key = counted.stream;
UPDATE sessions SET hidden = CASE newest.type WHEN 'session.deleted' THEN {DELETED} ELSE {VISIBLE} END
  FROM (SELECT stream, type, max(position) FROM batch
    WHERE type IN ('session.deleted', 'session.restored') GROUP BY stream) AS newest
  WHERE sessions.key = newest.stream;
INSERT INTO sessions
  SELECT stream, tenant_id, session_id, version, NULL, NULL, '{{}}', 0, 0, 0, recorded_at, recorded_at,
    NULL, NULL, NULL, position, {ERASED}, 1
  FROM batch JOIN streams ON streams.key = batch.stream WHERE type = 'session.erased'
  ON CONFLICT (key) DO UPDATE SET version = excluded.version, user_id = NULL, title = NULL, traits = '{{}}',
    archived = 0, message_count = 0, last_seq = 0, created_at = excluded.created_at, updated_at = excluded.updated_at,
    last_message_at = NULL, forked_from_session_id = NULL, forked_from_version = NULL,
    last_position = excluded.last_position, hidden = excluded.hidden, visible_at = excluded.visible_at;
"""
CLOSING = f"{_SET_LAST_MESSAGE_AT} WHERE key IN (SELECT stream FROM batch WHERE type = 'message.removed');"
SETTLE = f"{_SET_LAST_MESSAGE_AT} WHERE message_count < last_seq AND hidden < {ERASED}"
HELPERS = """
DROP VIEW IF EXISTS temp.session_changes;
CREATE TEMP VIEW session_changes AS SELECT 0 AS stream, '' AS changes;
CREATE TEMP TRIGGER change_session INSTEAD OF INSERT ON session_changes BEGIN
  UPDATE sessions SET
    title = CASE WHEN json_type(NEW.changes, '$.title') IS NULL THEN title ELSE NEW.changes ->> '$.title' END,
    user_id = CASE WHEN json_type(NEW.changes, '$.user_id') IS NULL THEN user_id ELSE NEW.changes ->> '$.user_id' END,
    archived = CASE WHEN json_type(NEW.changes, '$.archived') IS NULL THEN archived
      ELSE coalesce(NEW.changes ->> '$.archived', 0) END,
    traits = CASE WHEN json_type(NEW.changes, '$.traits') IS NULL THEN traits
      WHEN json_type(NEW.changes, '$.traits') = 'null' THEN '{}'
      ELSE merge_patch(traits, NEW.changes -> '$.traits') END
  WHERE key = NEW.stream;
END;
"""


class Named(NamedTuple):
    """A session as a caller names it: of its tenant, and, where the caller is a user, of that user or not there."""

    tenant_id: str
    session_id: str
    user_id: str | None


NAMED = f"""sessions.tenant_id = ?1 AND sessions.id = ?2 AND (?3 IS NULL OR sessions.user_id = ?3)
  AND sessions.hidden = {VISIBLE}"""
"""The condition on a query's row of `sessions`, where its first values are a `Named`."""

COLUMNS = """key, tenant_id, id, version, user_id, title, CAST(traits AS BLOB), archived, message_count,
  last_seq, created_at, updated_at, last_message_at, forked_from_session_id, forked_from_version, last_position,
  visible_at"""
_FIND = f"SELECT {COLUMNS} FROM sessions WHERE tenant_id = ? AND id = ? AND hidden = {VISIBLE}"
_VERSION = f"SELECT version FROM sessions WHERE {NAMED}"
_PAGE = f"""SELECT {COLUMNS} FROM sessions
  WHERE tenant_id = ?1 AND hidden = {VISIBLE} AND archived = ?4 AND last_position < ?2
  ORDER BY last_position DESC LIMIT ?3"""
_PAGE_OF_USER = f"""SELECT {COLUMNS} FROM sessions
  WHERE tenant_id = ?1 AND user_id = ?5 AND hidden = {VISIBLE} AND archived = ?4 AND last_position < ?2
  ORDER BY last_position DESC LIMIT ?3"""
# Each kind is one range of an index and the two are merged as they are read, so that the cost does not depend on how
# many of the other kind lie between.
_KIND = f"""SELECT {COLUMNS} FROM sessions
  WHERE tenant_id = ?1 AND hidden = {VISIBLE} AND archived = %s AND last_position < ?2"""
_KIND_OF_USER = f"{_KIND} AND user_id = ?4"
_MERGED = "ORDER BY last_position DESC LIMIT ?3"
_PAGE_OF_BOTH = f"{_KIND % 0} UNION ALL {_KIND % 1} {_MERGED}"
_PAGE_OF_BOTH_OF_USER = f"{_KIND_OF_USER % 0} UNION ALL {_KIND_OF_USER % 1} {_MERGED}"
# Deleted and unfinished ones hold copies too; of an erased one nobody knows what it copied.
_FORKS = """WITH RECURSIVE copies (id) AS (
    SELECT id FROM sessions WHERE tenant_id = ?1 AND forked_from_session_id = ?2
    UNION
    SELECT sessions.id FROM copies JOIN sessions ON tenant_id = ?1 AND forked_from_session_id = copies.id)
  SELECT id FROM copies WHERE id <> ?2 ORDER BY id"""
_OF_USER = f"SELECT id FROM sessions WHERE tenant_id = ? AND user_id = ? AND hidden < {ERASED} ORDER BY id"

QUERIES = (_FIND, _VERSION, _PAGE, _PAGE_OF_USER, _PAGE_OF_BOTH, _PAGE_OF_BOTH_OF_USER, _FORKS, _OF_USER)
"""What requests run, for the test that none of them scans a table."""

NEWEST = 2**63 - 1


def find(db: Connection, tenant_id: str, session_id: str) -> SessionState | None:
    """The session, or None where readers see none."""
    row = db.execute(_FIND, (tenant_id, session_id)).fetchone()
    return None if row is None else state_of(row)


def version(db: Connection, named: Named) -> int | None:
    """The session's version, or None where its caller sees none."""
    found: int | None = db.execute(_VERSION, named).get
    return found


def page(
    db: Connection,
    tenant_id: str,
    *,
    user_id: str | None,
    archived: bool | None,
    before_position: int,
    limit: int,
) -> list[SessionState]:
    """Up to *limit* sessions, last active first, whose last event stands before *before_position*: one statement.

    Without *archived* those of both kinds.
    """
    values: tuple[SQLiteValue, ...] = (tenant_id, before_position, limit)
    if archived is None:
        query = _PAGE_OF_BOTH if user_id is None else _PAGE_OF_BOTH_OF_USER
    else:
        query = _PAGE if user_id is None else _PAGE_OF_USER
        values = (*values, archived)
    if user_id is not None:
        values = (*values, user_id)
    return [state_of(row) for row in db.execute(query, values).fetchall()]


def forks(db: Connection, tenant_id: str, session_id: str) -> list[str]:
    """The ids of the sessions that hold copies of a session's messages: its forks, deleted ones too, and theirs."""
    return [found for (found,) in db.execute(_FORKS, (tenant_id, session_id))]


def of_user(db: Connection, tenant_id: str, user_id: str) -> list[str]:
    """The ids of a user's sessions, deleted ones too; erased ones no longer say whose they were."""
    return [found for (found,) in db.execute(_OF_USER, (tenant_id, user_id))]


def state_of(row: tuple) -> SessionState:  # type: ignore[type-arg]
    """The session of a row that begins with COLUMNS."""
    return SessionState(
        stream=row[0],
        tenant_id=row[1],
        session_id=row[2],
        version=row[3],
        user_id=row[4],
        title=row[5],
        traits=row[6],
        archived=bool(row[7]),
        message_count=row[8],
        last_seq=row[9],
        created_at_us=row[10],
        updated_at_us=row[11],
        last_message_at_us=row[12],
        forked_from_session_id=row[13],
        forked_from_version=row[14],
        last_position=row[15],
        visible_at=row[16],
    )


PROJECTION = Projection(
    name="sessions",
    version=3,
    tables=TABLES,
    program=PROGRAM,
    helpers=HELPERS,
    indexes=INDEXES,
    aside=True,
    closing=CLOSING,
    settle=SETTLE,
)
