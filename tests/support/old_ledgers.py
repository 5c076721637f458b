"""Ledgers as earlier versions of chatledger made them: of a schema of before, with rows of today's or rows given."""

import hashlib
from contextlib import closing
from importlib import resources
from pathlib import Path

import apsw

from service import database
from service.merkle import commitment

SINCE = {"tree": 2, "tiles": 2, "commitments": 2, "erasures": 3, "key_uses": 4}
"""The schema that has each table first; those that are not named are of the first one, or of today's."""


def make_old(path: Path, schema: int, source: Path) -> None:
    """Make the file *path* a ledger of *schema*, with the events of the closed ledger *source*."""
    with closing(apsw.Connection(str(path))) as db:
        db.pragma("page_size", database.LEDGER_PAGE_BYTES)
        db.pragma("journal_mode", "wal")
        for number, sql in migrations():
            if number <= schema:
                with db:
                    db.execute(sql)
        db.pragma("application_id", database.LEDGER_APPLICATION_ID)
        db.pragma("user_version", schema)
        db.execute("ATTACH ? AS source", (str(source),))
        with db:
            for table in ("ledger", "streams", "events"):
                db.execute(f"INSERT INTO main.{table} SELECT * FROM source.{table}")
            for table in ("tree", "tiles", "commitments", "key_uses"):
                if SINCE[table] <= schema:
                    db.execute(f"DELETE FROM main.{table}")
                    db.execute(f"INSERT INTO main.{table} SELECT * FROM source.{table}")
        db.execute("DETACH source")


def migrations() -> list[tuple[int, str]]:
    """The number and the text of each schema."""
    files = [file for file in resources.files("service.schema").iterdir() if file.name.endswith(".sql")]
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
