"""A batch: the events that the views have not seen yet, as the SQL of projections reads them.

All programs of the projections run inside one statement of SQLite: an INSERT into the temporary view `advance`, or, for
new events, into `append`. So a whole batch costs the writer one step, in which it does not hold Python's interpreter
lock, whether it is one event or ten thousand (docs/decisions/0013-projections-in-sql.md).
"""

from collections.abc import Sequence

from chatledger.domain.events import SCHEMAS, upcast
from chatledger.domain.json_text import merge_patch
from chatledger.storage.bulk import Bulk
from chatledger.storage.connection import Connection, SQLiteValue
from chatledger_projections.projection import Projection

ALL = "TRUE"
"""For views that begin empty and get all events at once."""
NEW = "e.position > (SELECT position FROM views) AND e.position <= (SELECT target FROM views)"
"""What lies between the position that the views have reached and the one that they are taken to."""

_IS_KNOWN = " OR ".join(f"(e.type = '{name}' AND e.schema <= {number})" for name, number in SCHEMAS.items())
_IS_CURRENT = " OR ".join(f"(e.type = '{name}' AND e.schema = {number})" for name, number in SCHEMAS.items())
# One test as a rule. The type of an event is only looked at once schemas differ.
_SAME_SCHEMA = f"e.schema = {next(iter(SCHEMAS.values()))}" if len(set(SCHEMAS.values())) == 1 else _IS_CURRENT

# The one place that says of an event that it is erased: a payload whose first byte is zero (rule 9). JSON functions
# refuse it, and NULL is what programs expect.
_PAYLOAD = f"""CASE WHEN e.payload < x'01' THEN NULL WHEN {_SAME_SCHEMA} THEN CAST(e.payload AS TEXT)
      ELSE CAST(upcast(e.type, e.schema, e.payload) AS TEXT) END"""

# The ledger's and the views' tables are in two files, of which either may be the connection's main one: their names are
# distinct, so none names its file.
_BATCH = f"""
DROP VIEW IF EXISTS temp.batch;
CREATE TEMP VIEW batch AS
  SELECT e.position, e.stream, e.version, e.type, e.recorded_at, {_PAYLOAD} AS payload
  FROM events AS e WHERE {{which}};
"""
_CHECK = f"""
  SELECT RAISE(ABORT, 'the batch is not a run of known events') WHERE NEW.position - (SELECT position FROM views)
    <> (SELECT count(*) FROM events AS e WHERE {NEW} AND ({_IS_KNOWN}));
"""
_ADVANCE = """
DROP VIEW IF EXISTS temp.advance;
CREATE TEMP VIEW advance AS SELECT position FROM views;
CREATE TEMP TRIGGER advance_views INSTEAD OF INSERT ON advance BEGIN
  UPDATE views SET target = NEW.position;
  {check}
  {programs}
  UPDATE views SET position = NEW.position, leaf = (SELECT leaf FROM events WHERE position = NEW.position);
END;
"""
_APPEND = """
DROP VIEW IF EXISTS temp.append;
CREATE TEMP VIEW append AS SELECT *, x'' AS frontier FROM events;
CREATE TEMP TRIGGER append_event INSTEAD OF INSERT ON append BEGIN
  INSERT INTO events VALUES (NEW.position, NEW.stream, NEW.version, NEW.type, NEW.schema, NEW.recorded_at, NEW.actor,
    NEW.request_id, NEW.payload, NEW.salt, NEW.leaf);
  UPDATE tree SET size = NEW.position, frontier = NEW.frontier WHERE NEW.frontier IS NOT NULL;
  {follow}
END;
"""
_FOLLOW = "INSERT INTO advance SELECT NEW.position WHERE NEW.frontier IS NOT NULL;"
TAKE_TO = "INSERT INTO advance VALUES (?)"
"""Takes the views to a position."""
APPEND = Bulk("INSERT INTO append", f"({', '.join('?' * 12)})")
"""Appends events to the ledger: rows as `events` has them, with the tree's frontier behind the last one and NULL behind
the others. With the last one the tree grows, and the views are taken to its position."""


def prepare(db: Connection, projections: Sequence[Projection], *, which: str) -> None:
    """Give *db*, which reads the ledger and writes the views, the temporary view `batch` and what the programs need.

    Args:
        db: A connection to both.
        projections: Those whose helpers are made.
        which: The condition on `events AS e` that makes the batch: `ALL` or `NEW`.
    """
    db.create_scalar_function("merge_patch", _merge_patch, 2, deterministic=True)
    db.create_scalar_function("upcast", _upcast, 3, deterministic=True)
    db.execute(_BATCH.format(which=which))
    for projection in projections:
        db.execute(projection.helpers)


def prepare_advance(db: Connection, projections: Sequence[Projection], *, closing: bool = True) -> None:
    """Make `batch` and `advance`: a position inserted there is the one that the views are taken to, in one step.

    Without *closing* for a rebuild, which settles at its end what depends on several projections.
    """
    prepare(db, projections, which=NEW)
    programs = "\n".join(projection.program for projection in projections)
    if closing:
        programs += "\n".join(projection.closing for projection in projections)
    db.execute(_ADVANCE.format(check=_CHECK, programs=programs))


def prepare_append(db: Connection, projections: Sequence[Projection]) -> None:
    """Make `append` too: events inserted there are in the ledger and in the views, in one step."""
    prepare_advance(db, projections)
    db.execute(_APPEND.format(follow=_FOLLOW))


def prepare_append_alone(db: Connection) -> None:
    """Make `append` for events that go into the ledger alone: the views, which are not attached, follow later."""
    db.execute(_APPEND.format(follow=""))


def _merge_patch(*values: SQLiteValue) -> SQLiteValue:
    target, patch = values
    return bytes(merge_patch(str(target).encode(), str(patch).encode())).decode()


def _upcast(*values: SQLiteValue) -> SQLiteValue:
    type_name, schema, payload = values
    if not (isinstance(type_name, str) and isinstance(schema, int) and isinstance(payload, bytes)):
        return None
    return upcast(type_name, schema, payload)
