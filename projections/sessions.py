"""The table `sessions`: the state of each session that readers can see."""

from collections.abc import Sequence

import msgspec

from projections.projection import Projection
from service.database import Bulk, Connection
from service.events import Event
from service.state import SessionState, Tally, evolve, tally

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
  UNIQUE (tenant_id, id)
) STRICT;
CREATE INDEX sessions_by_activity ON sessions (tenant_id, archived, last_position);
CREATE INDEX sessions_by_user ON sessions (tenant_id, user_id, archived, last_position);
"""

_COLUMNS = """key, tenant_id, id, version, user_id, title, CAST(traits AS BLOB), archived, message_count,
  last_seq, created_at, updated_at, last_message_at, forked_from_session_id, forked_from_version, last_position"""
_LOAD = f"SELECT {_COLUMNS} FROM sessions WHERE key IN (SELECT value FROM json_each(?))"
_FIND = f"SELECT {_COLUMNS} FROM sessions WHERE tenant_id = ? AND id = ?"
_PAGE = f"""SELECT {_COLUMNS} FROM sessions WHERE tenant_id = ? AND archived = ? AND last_position < ?
  ORDER BY last_position DESC LIMIT ?"""
_PAGE_OF_USER = f"""SELECT {_COLUMNS} FROM sessions
  WHERE tenant_id = ? AND user_id = ? AND archived = ? AND last_position < ?
  ORDER BY last_position DESC LIMIT ?"""
_SAVE = Bulk(
    "INSERT INTO sessions",
    "(?, ?, ?, ?, ?, ?, CAST(? AS TEXT), ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    """ON CONFLICT (key) DO UPDATE SET version = excluded.version, user_id = excluded.user_id, title = excluded.title,
    traits = excluded.traits, archived = excluded.archived, message_count = excluded.message_count,
    last_seq = excluded.last_seq, updated_at = excluded.updated_at, last_message_at = excluded.last_message_at,
    last_position = excluded.last_position""",
)
# For the runs of message events that most are: no need to read the row first.
_COUNT = Bulk(
    "WITH counted (key, version, count, last_seq, last_message_at, updated_at, last_position) AS (",
    "(?, ?, ?, ?, ?, ?, ?)",
    """) UPDATE sessions SET version = counted.version, message_count = message_count + counted.count,
    last_seq = coalesce(counted.last_seq, sessions.last_seq),
    last_message_at = coalesce(counted.last_message_at, sessions.last_message_at),
    updated_at = counted.updated_at, last_position = counted.last_position
    FROM counted WHERE sessions.key = counted.key""",
)
_DELETE = "DELETE FROM sessions WHERE key = ?"

QUERIES = (_FIND, _PAGE, _PAGE_OF_USER)
"""What requests run, for the test that none of them scans a table."""

NEWEST = 2**63 - 1


def apply(db: Connection, events: Sequence[Event]) -> None:
    """Fold each session's events into its row; a deleted session's row goes, and its messages with it."""
    runs: dict[int, list[Event]] = {}
    for event in events:
        runs.setdefault(event.stream, []).append(event)
    counted, folded = [], {}
    for stream, run in runs.items():
        found = tally(run)
        if found is None:
            folded[stream] = run
        else:
            counted.append(_tally_row(stream, found))
    _COUNT.execute(db, counted)
    _fold(db, folded)


def _fold(db: Connection, runs: dict[int, list[Event]]) -> None:
    known = _load(db, [stream for stream, run in runs.items() if run[0].version > 1])
    saved, deleted = [], []
    for stream, run in runs.items():
        state = evolve(known.get(stream), run)
        if state is not None:
            saved.append(_row(state))
        elif stream in known:
            deleted.append((stream,))
    _SAVE.execute(db, saved)
    db.executemany(_DELETE, deleted)


def find(db: Connection, tenant_id: str, session_id: str) -> SessionState | None:
    """The session, or None where readers see none."""
    row = db.execute(_FIND, (tenant_id, session_id)).fetchone()
    return None if row is None else _state(row)


def page(
    db: Connection,
    tenant_id: str,
    *,
    user_id: str | None,
    archived: bool | None,
    before_position: int,
    limit: int,
) -> list[SessionState]:
    """Up to *limit* sessions, last active first, whose last event stands before *before_position*.

    Without *archived* both kinds are read and merged: each is one range of an index, so that the cost does not
    depend on how many of the other kind lie between.
    """
    found: list[SessionState] = []
    for kind in (False, True) if archived is None else (archived,):
        if user_id is None:
            rows = db.execute(_PAGE, (tenant_id, kind, before_position, limit))
        else:
            rows = db.execute(_PAGE_OF_USER, (tenant_id, user_id, kind, before_position, limit))
        found.extend(_state(row) for row in rows)
    found.sort(key=lambda state: state.last_position, reverse=True)
    return found[:limit]


def _load(db: Connection, streams: list[int]) -> dict[int, SessionState]:
    rows = db.execute(_LOAD, (msgspec.json.encode(streams).decode(),)) if streams else ()
    return {row[0]: _state(row) for row in rows}


def _state(row: tuple) -> SessionState:  # type: ignore[type-arg]  # a row of _COLUMNS
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
    )


def _tally_row(stream: int, found: Tally) -> tuple[int | None, ...]:
    return (
        stream,
        found.version,
        found.appended - found.removed,
        found.last_seq,
        found.last_message_at_us,
        found.updated_at_us,
        found.last_position,
    )


def _row(state: SessionState) -> tuple[int | str | bytes | None, ...]:
    return (
        state.stream,
        state.tenant_id,
        state.session_id,
        state.version,
        state.user_id,
        state.title,
        state.traits,
        state.archived,
        state.message_count,
        state.last_seq,
        state.created_at_us,
        state.updated_at_us,
        state.last_message_at_us,
        state.forked_from_session_id,
        state.forked_from_version,
        state.last_position,
    )


PROJECTION = Projection(name="sessions", version=1, tables=TABLES, apply=apply)
