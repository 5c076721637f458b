"""All rows of a database, to compare two of them; and the leaves of a ledger, computed a second time."""

import hashlib
import hmac
import json
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

from chatledger.storage.connection import Connection
from chatledger.storage.paths import Location
from chatledger.views.builder import Builder
from chatledger.views.live_views import BUILT_IN
from support.store import Store

Rows: TypeAlias = list[tuple[object, ...]]


def dump(connection: Connection) -> dict[str, Rows]:
    """Every row of the views' tables, in an order that depends on their values only."""
    attached = connection.execute("SELECT EXISTS (SELECT 1 FROM pragma_database_list WHERE name = 'views')").get
    return rows_of(connection, "views" if attached else "main")


def rows_of(connection: Connection, schema: str) -> dict[str, Rows]:
    """Every row of the tables of one of the connection's files."""
    names = connection.execute(
        f"SELECT name FROM {schema}.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
    ).fetchall()
    return {name: _rows(connection, schema, name) for (name,) in names}


def _rows(connection: Connection, schema: str, name: str) -> Rows:
    # From the schema. What `views` notes of a batch that is under way, or of its building, is no reader's business.
    columns = ", ".join(
        column
        for (column,) in connection.execute("SELECT name FROM pragma_table_info(?, ?)", (name, schema))
        if (name, column) not in {("views", "target"), ("views", "scrubbed")}
    )
    return sorted(connection.execute(f'SELECT {columns} FROM {schema}."{name}"').fetchall(), key=repr)


def dump_rebuilt(store: Store, folder: Path) -> dict[str, Rows]:
    """The rows of views that are built anew from *store*'s ledger, into a file in *folder*."""
    name = str(folder / "again.db")
    location = Location(name, memory=False)
    projections = (*BUILT_IN, *store.projections)
    with closing(Builder(name, location, store.settings, projections).build(store.ledger)) as built:
        return rows_of(built, "main")


def leaf(record: dict[str, object], *, salt: bytes, payload: bytes) -> bytes:
    """The leaf of an event by the words of the design, without our own code."""
    commitment = hmac.new(salt, payload, hashlib.sha256).hexdigest()
    text = json.dumps({**record, "commitment": commitment}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(b"\x00" + text.encode()).digest()


def wrong_leaves(ledger: Connection) -> list[int]:
    """The positions of the events whose leaf is not that of their row."""
    rows = ledger.execute("""SELECT e.position, e.version, e.type, e.schema, e.recorded_at, e.actor,
      e.request_id, s.tenant_id, s.session_id, e.salt, e.payload, e.leaf
      FROM events AS e JOIN streams AS s ON s.key = e.stream WHERE e.payload >= x'01'""")
    names = (
        "position",
        "version",
        "type",
        "schema",
        "recorded_at",
        "actor",
        "request_id",
        "tenant",
        "session",
    )
    return [
        row[0] for row in rows if leaf(dict(zip(names, row, strict=False)), salt=row[9], payload=row[10]) != row[11]
    ]
