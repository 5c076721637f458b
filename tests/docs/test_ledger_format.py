"""docs/ledger-format.md is enough to check an event with: here it is done by its words, without our code."""

import hashlib
import hmac
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from support import documents
from support.server import Server

from service.database import LEDGER_APPLICATION_ID
from service.events import Event
from service.ledger import leaf_of
from service.merkle import commitment

PAGE = documents.read("docs/ledger-format.md")
VECTOR = {row[0]: row[1] for row in documents.rows(PAGE, "value")}
SALT = bytes.fromhex(VECTOR["salt"])
EVENTS = """SELECT actor, position, recorded_at, request_id, schema, session_id AS session, tenant_id AS tenant, type,
  version, payload, salt, leaf FROM events JOIN streams ON streams.key = events.stream ORDER BY position"""


def by_the_page(envelope: dict[str, Any], salt: bytes, payload: bytes) -> tuple[str, str]:
    """The record and the leaf, in hexadecimal, as the page says."""
    members = {**envelope, "commitment": hmac.new(salt, payload, hashlib.sha256).hexdigest()}
    record = json.dumps(members, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return record, hashlib.sha256(b"\x00" + record.encode()).hexdigest()


def test_the_vector_follows_from_the_page() -> None:
    """Commitment, record and leaf, from salt, payload and envelope."""
    envelope = json.loads(VECTOR["record"])
    assert envelope.pop("commitment") == VECTOR["commitment"]
    assert by_the_page(envelope, SALT, VECTOR["payload"].encode()) == (VECTOR["record"], VECTOR["leaf"])


def test_the_vector_follows_from_the_code() -> None:
    """The service's own functions give the same bytes."""
    shown = json.loads(VECTOR["record"])
    event = Event(
        position=shown["position"],
        stream=1,
        tenant_id=shown["tenant"],
        session_id=shown["session"],
        version=shown["version"],
        type=shown["type"],
        recorded_at=shown["recorded_at"],
        actor=shown["actor"],
        request_id=shown["request_id"],
        data=None,
    )
    committed = commitment(SALT, VECTOR["payload"].encode())
    assert committed.hex() == VECTOR["commitment"]
    assert leaf_of(event, shown["schema"], committed).hex() == VECTOR["leaf"]


def test_the_leaves_of_a_real_ledger_follow_from_the_page(tmp_path: Path) -> None:
    """Text of any alphabet, a request id with what JSON escapes, a null; read with Python's own SQLite."""
    with Server("ledger.db", cwd=tmp_path) as server, server.client() as client:
        message = {"role": "user", "content": '¿Qué tal? 你好 \\ " \n', "metadata": {"n": 1.50}}
        client.post("/v1/sessions", json={"id": "s", "messages": [message]}, headers={"X-Request-Id": 'a"b\\c'})
        client.delete("/v1/sessions/s")
        server.stop()
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as db:
        db.row_factory = sqlite3.Row
        assert db.execute("PRAGMA application_id").fetchone()[0] == LEDGER_APPLICATION_ID == 0x434C4C47
        assert db.execute("PRAGMA user_version").fetchone()[0] == 1
        rows = [dict(row) for row in db.execute(EVENTS)]
    assert len(rows) == 3
    for row in rows:
        payload, salt, leaf = row.pop("payload"), row.pop("salt"), row.pop("leaf")
        assert by_the_page(row, salt, payload)[1] == leaf.hex()


def test_the_columns_are_those_of_the_schema() -> None:
    """Each column of the table `events` is in the page."""
    schema = documents.read("service/schema/0001_ledger.sql")
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(schema)
        columns = [row[1] for row in db.execute("PRAGMA table_info(events)")]
    assert [name for row in documents.rows(PAGE, "column") for name in row[0].split(", ")] == columns
