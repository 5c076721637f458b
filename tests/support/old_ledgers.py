"""Ledgers of older schemas: made by the first files of `service/schema` alone, as an older chatledger left them."""

import hashlib
from contextlib import closing
from importlib import resources
from pathlib import Path

import apsw

from chatledger.ledger.merkle import commitment
from chatledger.storage import ledger_file

PAGE_BYTES = 4096
"""Of the first version's files."""
_ERASED = ("payload", "salt")
_READ_ONLY = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI


def older_ledger(newest: Path, path: Path, schema: int) -> None:
    """Make at *path* the ledger of schema number *schema* that has the identity and the events of *newest*.

    A payload that is erased is NULL there, as it was up to schema 4. No Idempotency-Key is copied: another schema has
    kept other columns of them.
    """
    with closing(apsw.Connection(str(path))) as db:
        db.pragma("page_size", PAGE_BYTES)
        db.pragma("journal_mode", "wal")
        for number, sql in migrations():
            if number <= schema:
                with db:
                    db.execute(sql)
        db.pragma("application_id", ledger_file.LEDGER_APPLICATION_ID)
        db.pragma("user_version", schema)
        db.execute("ATTACH ? AS newest", (str(newest),))
        for table in ("tree", "erasures"):  # what the schema or a trigger has put there
            db.execute(f"DELETE FROM main.{table}" if _has(db, table) else "")
        for table in ("ledger", "streams", "events", "tree", "tiles", "commitments", "key_uses"):
            if _has(db, table):
                _copy(db, table)
        if _has(db, "erasures"):
            db.execute("DELETE FROM main.erasures")
        db.execute("DETACH newest")


def older_views(newest: Path, path: Path) -> None:
    """Make at *path* views of other versions of the projections, whose tables are not those of now."""
    path.write_bytes(newest.read_bytes())
    with closing(apsw.Connection(str(path))) as db:
        db.execute("""UPDATE views SET projections = '{"sessions":0,"messages":0,"feed":0}'""")
        db.execute("DROP VIEW IF EXISTS transcript")
        db.execute("ALTER TABLE sessions RENAME COLUMN title TO name")
        db.execute("ALTER TABLE messages RENAME COLUMN payload TO text")


def schema_of(path: Path) -> int:
    """The number that the file says."""
    with closing(apsw.Connection(f"{path.as_uri()}?immutable=1", flags=_READ_ONLY)) as db:
        return int(str(db.pragma("user_version")))


def migrations() -> list[tuple[int, str]]:
    """The number and the text of each schema."""
    files = [file for file in resources.files("chatledger.storage.schema").iterdir() if file.name.endswith(".sql")]
    return sorted((int(file.name[:4]), file.read_text()) for file in files)


def remember_as_before(
    path: Path, key: str, request: bytes, *, stream: int, version: int, positions: str | None
) -> None:
    """Add an Idempotency-Key as schemas before 5 have it: with the plain hash of its request."""
    with closing(apsw.Connection(str(path))) as db:
        db.execute(
            "INSERT INTO idempotency (tenant_id, key, fingerprint, recorded_at, stream, version, positions) "
            "VALUES ('default', ?, ?, 0, ?, ?, ?)",
            (key, hashlib.sha256(request).digest(), stream, version, positions),
        )


def erase_as_before(path: Path, stream: int) -> None:
    """Set the payloads of an erased stream to NULL, as schemas before 5 did, and finish the erasure."""
    with closing(apsw.Connection(str(path))) as db:
        events = db.execute(
            "SELECT position, salt, payload FROM events WHERE stream = ? AND type <> 'session.erased'", (stream,)
        ).fetchall()
        for position, salt, payload in events:
            db.execute("INSERT INTO commitments VALUES (?, ?)", (position, commitment(salt, payload)))
        db.execute(
            "UPDATE events SET payload = NULL, salt = NULL WHERE stream = ? AND type <> 'session.erased'", (stream,)
        )
        db.execute("DELETE FROM erasures")


def _has(db: apsw.Connection, table: str) -> bool:
    return bool(db.execute("SELECT count(*) FROM main.sqlite_schema WHERE name = ?", (table,)).get)


def _copy(db: apsw.Connection, table: str) -> None:
    columns = [name for (name,) in db.execute("SELECT name FROM pragma_table_info(?, 'main')", (table,))]
    values = columns
    if table == "events":
        erased = "position IN (SELECT position FROM newest.commitments)"
        values = [f"CASE WHEN {erased} THEN NULL ELSE {name} END" if name in _ERASED else name for name in columns]
    chosen = f"SELECT {', '.join(values)} FROM newest.{table}"
    order = " ORDER BY position" if table == "events" else ""
    db.execute(f"INSERT INTO main.{table} ({', '.join(columns)}) {chosen}{order}")
