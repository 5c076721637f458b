"""docs/ledger-format.md is enough to check an event with: here it is done by its words, without our code."""

import hashlib
import hmac
import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from chatledger.domain.events import Event
from chatledger.ledger.event_store import leaf_of
from chatledger.ledger.merkle import Frontier, commitment, consistency_proof, entry_hash, inclusion_proof, range_root
from chatledger.proofs.signed_heads import Signer
from chatledger.storage.ledger_file import LEDGER_APPLICATION_ID
from support import documents, independent_verifier
from support.server import Server

PAGE = documents.read("docs/ledger-format.md")
VECTOR = {row[0]: row[1] for row in documents.rows(PAGE, "value")}
SALT = bytes.fromhex(VECTOR["salt"])
TREE = {row[0]: [bytes.fromhex(each) for each in row[1].split()] for row in documents.rows(PAGE, "tree")}
LEAVES = [entry_hash(digit.encode()) for digit in "01234"]
HEAD = {row[0]: row[1] for row in documents.rows(PAGE, "head")}
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
    shown_schema = re.search(r"schema's number, (\d+) today", PAGE)
    assert shown_schema is not None
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as db:
        db.row_factory = sqlite3.Row
        assert db.execute("PRAGMA application_id").fetchone()[0] == LEDGER_APPLICATION_ID == 0x434C4C47
        assert db.execute("PRAGMA user_version").fetchone()[0] == int(shown_schema[1])
        rows = [dict(row) for row in db.execute(EVENTS)]
    assert len(rows) == 3
    for row in rows:
        payload, salt, leaf = row.pop("payload"), row.pop("salt"), row.pop("leaf")
        assert by_the_page(row, salt, payload)[1] == leaf.hex()


def test_the_columns_are_those_of_the_schema() -> None:
    """Each column of the table `events` is in the page."""
    schema = documents.read("service/chatledger/storage/schema/0001_ledger.sql")
    with closing(sqlite3.connect(":memory:")) as db:
        db.executescript(schema)
        columns = [row[1] for row in db.execute("PRAGMA table_info(events)")]
    assert [name for row in documents.rows(PAGE, "column") for name in row[0].split(", ")] == columns


def node(height: int, index: int) -> bytes:
    """The root of a perfect subtree of the page's five leaves."""
    return independent_verifier.root_of(LEAVES[index << height : (index + 1) << height])


def test_the_trees_vectors_follow_from_the_page() -> None:
    """Roots and proofs of the five leaves, by the verifier that was written from the page."""
    roots = [TREE[f"root of {size} {'leaf' if size == 1 else 'leaves'}"][0] for size in range(6)]
    assert [independent_verifier.root_of(LEAVES[:size]) for size in range(6)] == roots
    independent_verifier.verify_inclusion(2, 5, LEAVES[2], TREE["inclusion of leaf 2 in 5"], roots[5])
    independent_verifier.verify_consistency(3, 5, roots[3], roots[5], TREE["consistency of 3 and 5"])


def test_the_trees_vectors_follow_from_the_code() -> None:
    """The service's tree gives the same roots and proofs."""
    for size in range(6):
        frontier = Frontier()
        frontier.append(LEAVES[:size])
        assert [frontier.root()] == TREE[f"root of {size} {'leaf' if size == 1 else 'leaves'}"]
        assert [range_root(node, 0, size)] == [frontier.root()]
    assert inclusion_proof(node, 2, 5) == TREE["inclusion of leaf 2 in 5"]
    assert consistency_proof(node, 3, 5) == TREE["consistency of 3 and 5"]


def test_the_heads_vector_follows_from_the_page() -> None:
    """Key id, form and signature, by the verifier that was written from the page."""
    name = HEAD["verifier key"].split("+", 1)[0]
    text = f"{name}\n5\n{HEAD['root in Base64']}\n\n— {name} {HEAD['key id and signature']}\n"
    head = independent_verifier.verify_checkpoint(text, HEAD["verifier key"])
    assert (head.origin, head.size, [head.root]) == (name, 5, TREE["root of 5 leaves"])


def test_the_heads_vector_follows_from_the_code() -> None:
    """The service signs the same head, to the byte, with the page's seed."""
    name = HEAD["verifier key"].split("+", 1)[0]
    signer = Signer(name, bytes(range(32)))
    assert str(signer.verifier) == HEAD["verifier key"]
    signed = signer.sign(5, TREE["root of 5 leaves"][0]).splitlines()
    assert signed[2] == HEAD["root in Base64"]
    assert signed[4] == f"— {name} {HEAD['key id and signature']}"


def test_a_real_ledger_and_its_bundle_are_what_the_page_says(tmp_path: Path) -> None:
    """The verifier that was written from the page finds nothing wrong in what a server has written and signed."""
    with Server("ledger.db", cwd=tmp_path) as server, server.client() as client:
        messages = [{"role": "user", "content": f"message {number}"} for number in range(300)]
        client.post("/v1/sessions", json={"id": "s", "messages": messages})
        bundle, head = client.get("/v1/sessions/s/proof").text, client.get("/v1/ledger/head").json()
        server.stop()
    found = independent_verifier.verify_ledger(
        tmp_path / "ledger.db", earlier_checkpoint=head["checkpoint"], verifier_key=head["public_key"]
    )
    assert found == (301, bytes.fromhex(head["root"]))
    independent_verifier.verify_bundle(bundle, verifier_key=head["public_key"])
    members = {name for row in documents.rows(PAGE, "member of an event") for name in row[0].split(", ")}
    assert set(json.loads(bundle)["events"][0]) == {*members, *independent_verifier.RECORD}
