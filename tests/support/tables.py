"""All rows of a database, to compare two of them; and the leaves of a ledger, computed a second time."""

import hashlib
import hmac
import json
from pathlib import Path
from typing import TypeAlias

from projections.views import Views
from service.database import Connection
from service.location import Location
from support.store import Store

Rows: TypeAlias = list[tuple[object, ...]]


def dump(connection: Connection) -> dict[str, Rows]:
    """Every table's rows, in an order that depends on their values only."""
    names = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
    ).fetchall()
    return {name: _rows(connection, name) for (name,) in names}


def _rows(connection: Connection, name: str) -> Rows:
    return sorted(connection.execute(f'SELECT * FROM "{name}"').fetchall(), key=repr)  # from the schema


def dump_rebuilt(store: Store, folder: Path) -> dict[str, Rows]:
    """The rows of views that are built anew from *store*'s ledger, into a file in *folder*."""
    again = Views(Location(str(folder / "again.db"), memory=False), store.settings, store.projections)
    again.rebuild(store.ledger)
    try:
        return dump(again.db)
    finally:
        again.close()


def leaf(record: dict[str, object], *, salt: bytes, payload: bytes) -> bytes:
    """The leaf of an event by the words of the design, without our own code."""
    commitment = hmac.new(salt, payload, hashlib.sha256).hexdigest()
    text = json.dumps({**record, "commitment": commitment}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(b"\x00" + text.encode()).digest()


def wrong_leaves(ledger: Connection) -> list[int]:
    """The positions of the events whose leaf is not that of their row."""
    rows = ledger.execute("""SELECT e.position, e.version, e.type, e.schema, e.recorded_at, e.actor,
      e.request_id, s.tenant_id, s.session_id, e.salt, e.payload, e.leaf
      FROM events AS e JOIN streams AS s ON s.key = e.stream WHERE e.payload IS NOT NULL""")
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
