"""A second verifier, written from docs/ledger-format.md alone: it shares no line and no import with the service.

Two verifiers that agree on what is wrong are worth more than one, and a page from which the second could be written is
precise enough. It reads a *closed copy* of a ledger: never a file that this process has open in any other way.
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

APPLICATION_ID = 0x434C4C47
SCHEMAS = {2, 3, 4, 5}
ERASES_MESSAGES = 5
HASH_BYTES = 32
SALT_BYTES = 16
KEY_ID_BYTES = 4
SIGNATURE_BYTES = 64
TILE_HASHES = 256
ED25519 = b"\x01"
ERASURE = "session.erased"
MESSAGE_ERASURE = "message.erased"
ERASABLE = {"message.appended", "message.revised", "item.appended", "item.revised"}
"""The types of events that a `message.erased` may name."""
TYPES: dict[str, dict[str, type]] = {
    "session.created": {},
    "message.appended": {"seq": int, "message": dict},
    "session.updated": {"changes": dict},
    "message.removed": {"message_id": str},
    "session.deleted": {},
    ERASURE: {"reason": str},
    "key.created": {"key_id": str, "sha256": str, "scopes": list},
    "key.revoked": {"key_id": str},
    "item.appended": {"seq": int, "item_id": str, "item": dict},
    "message.revised": {"seq": int, "message": dict},
    "item.revised": {"seq": int, "item_id": str, "item": dict},
    "session.truncated": {"after_seq": int},
    MESSAGE_ERASURE: {"message_id": str, "seq": int, "positions": list, "reason": str},
    "session.restored": {},
    "session.held": {"hold": str, "reason": str},
    "session.released": {"hold": str},
    "retention.set": {"tenant_id": str},
    "signing.rotated": {"verifier": str},
}
"""The members that a payload of each type has to have."""
RECORD = (
    "actor",
    "commitment",
    "position",
    "recorded_at",
    "request_id",
    "schema",
    "session",
    "tenant",
    "type",
    "version",
)
BUNDLE = {"format", "public_key", "checkpoint", "events"}
EVENT_OF_BUNDLE = {*RECORD, "payload", "salt", "proof"}

Json = dict[str, Any]


class Wrong(Exception):
    """What is wrong, and at which position, where it is at one."""

    def __init__(self, position: int | None, why: str) -> None:
        self.position = position
        self.why = why
        super().__init__(why if position is None else f"position {position}: {why}")


# ---------------------------------------------------------------- the tree


def hash_of_node(left: bytes, right: bytes) -> bytes:
    """RFC 6962, section 2.1."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def fold(frontier: Sequence[bytes]) -> bytes:
    """The root, from the roots of the perfect subtrees, the largest first."""
    if not frontier:
        return hashlib.sha256(b"").digest()
    root = frontier[-1]
    for left in reversed(frontier[:-1]):
        root = hash_of_node(left, root)
    return root


def layers_of(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """By height, the roots of all perfect subtrees that the leaves make up; the leaves are height 0."""
    layers = [list(leaves)]
    while len(layers[-1]) > 1:
        below = layers[-1]
        pairs = range(0, len(below) - 1, 2)
        layers.append([hash_of_node(below[at], below[at + 1]) for at in pairs])
    return layers


def frontier_of(leaves: Sequence[bytes]) -> list[bytes]:
    """The roots of the perfect subtrees that the leaves make up, the largest first."""
    return [layer[-1] for layer in reversed(layers_of(leaves)) if len(layer) % 2]


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root of the tree over the leaves."""
    return fold(frontier_of(leaves))


def tiles_of(leaves: Sequence[bytes]) -> dict[tuple[int, int], bytes]:
    """By level and number, the tiles that a ledger of these leaves has in its table."""
    layers = layers_of(leaves)
    found = {}
    for level in range(1, (len(layers) - 1) // 8 + 1):
        hashes = layers[8 * level]
        for first in range(0, len(hashes), TILE_HASHES):
            found[level, first // TILE_HASHES] = b"".join(hashes[first : first + TILE_HASHES])
    return found


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """RFC 9162, section 2.1.3.2: the leaf with that number, from 0, is in the tree.

    Raises:
        Wrong: it does not follow.
    """
    if not 0 <= index < size:
        raise Wrong(None, f"leaf {index} of {size}")
    _check_hashes([leaf, root, *proof])
    at, last, found = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise Wrong(None, "the inclusion proof is too long")
        if at % 2 or at == last:
            found = hash_of_node(sibling, found)
            while at % 2 == 0 and at:
                at, last = at >> 1, last >> 1
        else:
            found = hash_of_node(found, sibling)
        at, last = at >> 1, last >> 1
    if last:
        raise Wrong(None, "the inclusion proof is too short")
    if found != root:
        raise Wrong(None, "the inclusion proof leads to another root")


def verify_consistency(  # noqa: C901, PLR0912  # the RFC's steps, in its order
    first: int, second: int, root_1: bytes, root_2: bytes, proof: Sequence[bytes]
) -> None:
    """RFC 9162, section 2.1.4.2: the tree of `first` leaves is where the tree of `second` leaves began.

    Raises:
        Wrong: it does not follow.
    """
    if not 0 < first <= second:
        raise Wrong(None, f"a tree of {first} leaves before one of {second}")
    _check_hashes([root_1, root_2, *proof])
    if first == second:
        if proof or root_1 != root_2:
            raise Wrong(None, "two trees of one size are one tree, which needs no proof")
        return
    path = list(proof)
    if first & (first - 1) == 0:
        path.insert(0, root_1)
    if not path:
        raise Wrong(None, "the consistency proof is empty")
    at, last = first - 1, second - 1
    while at % 2:
        at, last = at >> 1, last >> 1
    old = new = path[0]
    for hashed in path[1:]:
        if last == 0:
            raise Wrong(None, "the consistency proof is too long")
        if at % 2 or at == last:
            old, new = hash_of_node(hashed, old), hash_of_node(hashed, new)
            while at % 2 == 0 and at:
                at, last = at >> 1, last >> 1
        else:
            new = hash_of_node(new, hashed)
        at, last = at >> 1, last >> 1
    if last:
        raise Wrong(None, "the consistency proof is too short")
    if (old, new) != (root_1, root_2):
        raise Wrong(None, "the consistency proof leads to other roots")


def _check_hashes(hashes: Iterable[bytes]) -> None:
    if any(len(each) != HASH_BYTES for each in hashes):
        raise Wrong(None, f"a hash that is not of {HASH_BYTES} bytes")


# ---------------------------------------------------------------- the signed head


@dataclass(frozen=True)
class Checkpoint:
    """A signed head, taken apart; nothing about its signature is checked yet."""

    origin: str
    size: int
    root: bytes
    signed: bytes
    key_id: bytes
    signature: bytes


def parse_checkpoint(text: str) -> Checkpoint:
    """Take a signed head apart.

    Raises:
        Wrong: it has another form.
    """
    found = re.fullmatch("([^\n]+)\n(0|[1-9][0-9]*)\n([^\n]+)\n\n((?:\u2014 [^\n ]+ [^\n ]+\n)+)", text)
    if found is None:
        raise Wrong(None, "the head has another form")
    origin, size, root, lines = found.groups()
    ours = [line.split(" ")[2] for line in lines.splitlines() if line.split(" ")[1] == origin]
    if len(ours) != 1:
        raise Wrong(None, f"{len(ours)} signatures of the head by {origin}")
    signature = ours[0]
    root_bytes, signature_bytes = decoded(root), decoded(signature)
    if len(root_bytes) != HASH_BYTES or len(signature_bytes) != KEY_ID_BYTES + SIGNATURE_BYTES:
        raise Wrong(None, "the head's root or signature has another length")
    signed = text[: text.index("\n\n") + 1].encode()
    return Checkpoint(
        origin, int(size), root_bytes, signed, signature_bytes[:KEY_ID_BYTES], signature_bytes[KEY_ID_BYTES:]
    )


def key_id_of(name: str, public_key: bytes) -> bytes:
    """The four bytes by which a signature names its key."""
    return hashlib.sha256(name.encode() + b"\x0a" + ED25519 + public_key).digest()[:KEY_ID_BYTES]


def parse_verifier_key(text: str) -> tuple[str, bytes]:
    """The name and the 32 bytes of a verifier key.

    Raises:
        Wrong: it has another form, or its id is not that of its name and bytes.
    """
    name, *rest = text.split("+", 2)
    if len(rest) != 2 or not name:
        raise Wrong(None, "the verifier key has another form")
    typed = decoded(rest[1])
    if typed[:1] != ED25519 or len(typed) != 1 + HASH_BYTES:
        raise Wrong(None, "the verifier key is not one of Ed25519")
    if rest[0] != key_id_of(name, typed[1:]).hex():
        raise Wrong(None, "the verifier key's id is not that of its name and bytes")
    return name, typed[1:]


def verify_checkpoint(text: str, verifier_key: str | None) -> Checkpoint:
    """Take a signed head apart and, given the key, check its signature.

    Raises:
        Wrong: its form, name, key id or signature is.
    """
    head = parse_checkpoint(text)
    if verifier_key is None:
        return head
    name, public_key = parse_verifier_key(verifier_key)
    if name != head.origin:
        raise Wrong(None, f"the head is one of {head.origin}, the key one of {name}")
    if head.key_id != key_id_of(name, public_key):
        raise Wrong(None, "the head is signed by another key")
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(head.signature, head.signed)
    except InvalidSignature as error:
        raise Wrong(None, "the head's signature is wrong") from error
    return head


def decoded(text: str) -> bytes:
    """The bytes of Base64 with padding, in the one way in which they can be written.

    Raises:
        Wrong: it is not that.
    """
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Wrong(None, f"not Base64: {text!r}") from error
    if base64.b64encode(found).decode() != text:
        raise Wrong(None, f"Base64 with bits to spare: {text!r}")
    return found


# ---------------------------------------------------------------- an event


def commitment_of(salt: bytes, payload: bytes) -> bytes:
    """The commitment of an event that is not erased."""
    return hmac.new(salt, payload, hashlib.sha256).digest()


def record_of(members: Mapping[str, Any]) -> bytes:
    """The ten members as in RFC 8785. All strings are ASCII, for which Python's own JSON writes the same.

    Raises:
        Wrong: a string is not ASCII.
    """
    ten = {name: members[name] for name in RECORD}
    if any(isinstance(value, str) and not value.isascii() for value in ten.values()):
        raise Wrong(members["position"], "a string of the record is not ASCII")
    return json.dumps(ten, sort_keys=True, separators=(",", ":")).encode()


def leaf_of(record: bytes) -> bytes:
    """RFC 6962, section 2.1."""
    return hashlib.sha256(b"\x00" + record).digest()


def check_payload(position: int, kind: str, payload: bytes) -> None:
    """The payload is a JSON object in UTF-8 with the members of its type.

    Raises:
        Wrong: it is not.
    """
    try:
        found = json.loads(payload.decode("utf-8"))
    except ValueError as error:
        raise Wrong(position, "the payload is not JSON in UTF-8") from error
    if not isinstance(found, dict) or any(type(found.get(name)) is not form for name, form in TYPES[kind].items()):
        raise Wrong(position, f"the payload is not one of {kind}")
    if "message" in TYPES[kind] and not all(type(found["message"].get(name)) is str for name in ("id", "role")):
        raise Wrong(position, "the message has no id or no role")


# ---------------------------------------------------------------- the proof bundle


def verify_bundle(text: str, *, verifier_key: str | None = None) -> Json:
    """Check a proof bundle, with the key that it names itself unless another is given, and return it.

    Raises:
        Wrong: it is not one, or something in it does not follow.
    """
    try:
        bundle = json.loads(text, object_pairs_hook=_without_twins)
    except ValueError as error:
        raise Wrong(None, f"the bundle is not JSON: {error}") from error
    if not isinstance(bundle, dict) or set(bundle) != BUNDLE or bundle["format"] != "chatledger-bundle-v1":
        raise Wrong(None, "the bundle has another form")
    strings = isinstance(bundle["public_key"], str) and isinstance(bundle["checkpoint"], str)
    if not strings or not isinstance(bundle["events"], list) or not bundle["events"]:
        raise Wrong(None, "the bundle has another form")
    if verifier_key is not None and bundle["public_key"] != verifier_key:
        raise Wrong(None, "the bundle names another key")
    head = verify_checkpoint(bundle["checkpoint"], bundle["public_key"])
    position, first = 0, bundle["events"][0]
    for version, event in enumerate(bundle["events"], 1):
        _check_form(event, version)
        if (event["tenant"], event["session"]) != (first["tenant"], first["session"]):
            raise Wrong(event["position"], "an event of another session")
        if event["version"] != version:
            raise Wrong(event["position"], f"version {event['version']} where {version} comes next")
        if event["position"] <= position:
            raise Wrong(event["position"], f"it comes after position {position}")
        position = event["position"]
        _check_event_of_bundle(event, head)
    return bundle


def _check_form(event: object, version: int) -> None:
    if not isinstance(event, dict) or set(event) != EVENT_OF_BUNDLE:
        raise Wrong(None, f"event {version} of the bundle has other members")
    numbers = all(type(event[name]) is int for name in ("position", "recorded_at", "schema", "version"))
    strings = all(type(event[name]) is str for name in ("actor", "commitment", "session", "tenant", "type"))
    nullable = all(event[name] is None or type(event[name]) is str for name in ("payload", "request_id", "salt"))
    proof = isinstance(event["proof"], list) and all(type(each) is str for each in event["proof"])
    if not (numbers and strings and nullable and proof):
        raise Wrong(None, f"a member of event {version} of the bundle has another type")


def _check_event_of_bundle(event: Json, head: Checkpoint) -> None:
    position = event["position"]
    if event["type"] not in TYPES or event["schema"] != 1:
        raise Wrong(position, f"no such type: {event['type']} {event['schema']}")
    if (event["payload"] is None) != (event["salt"] is None):
        raise Wrong(position, "half an erasure")
    if event["payload"] is not None:
        salt, payload = _from_hex(position, event["salt"], SALT_BYTES), event["payload"].encode()
        check_payload(position, event["type"], payload)
        if commitment_of(salt, payload).hex() != event["commitment"]:
            raise Wrong(position, "the commitment is not that of payload and salt")
    _from_hex(position, event["commitment"], HASH_BYTES)
    proof = [decoded(each) for each in event["proof"]]
    try:
        verify_inclusion(position - 1, head.size, leaf_of(record_of(event)), proof, head.root)
    except Wrong as wrong:
        raise Wrong(position, wrong.why) from wrong


def _from_hex(position: int, text: str, length: int) -> bytes:
    if re.fullmatch(f"[0-9a-f]{{{2 * length}}}", text) is None:
        raise Wrong(position, f"not {length} bytes in hexadecimal")
    return bytes.fromhex(text)


def _without_twins(pairs: list[tuple[str, Any]]) -> Json:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member is there twice")
    return found


# ---------------------------------------------------------------- the ledger


EVENTS = """SELECT position, stream, version, type, schema, recorded_at, actor, request_id, payload, salt, leaf,
  tenant_id AS tenant, session_id AS session
  FROM events LEFT JOIN streams ON streams.key = events.stream ORDER BY position"""


def verify_ledger(
    path: Path | str, *, earlier_checkpoint: str | None = None, verifier_key: str | None = None
) -> tuple[int, bytes]:
    """Check a closed copy of a ledger, against an earlier head where there is one; return its size and root.

    Raises:
        Wrong: the first thing that is wrong, in the order of positions.
    """
    earlier = None if earlier_checkpoint is None else verify_checkpoint(earlier_checkpoint, verifier_key)
    try:
        with closing(opened(Path(path))) as db:
            return _verify(db, earlier)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise Wrong(None, f"SQLite cannot read it: {error}") from error


def opened(path: Path) -> sqlite3.Connection:
    """A connection that only reads, and makes no file beside the ledger where no WAL lies there."""
    wal = path.with_name(path.name + "-wal").exists()
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro{'' if wal else '&immutable=1'}", uri=True)
    db.row_factory = sqlite3.Row
    db.execute("BEGIN")
    return db


def _verify(db: sqlite3.Connection, earlier: Checkpoint | None) -> tuple[int, bytes]:
    _check_file(db)
    (ledger_id,) = _only_row(db, "SELECT id FROM ledger")
    if re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", str(ledger_id)) is None:
        _wrong_tree("the ledger's id is not a UUID")
    leaves = _verify_events(db)
    frontier = frontier_of(leaves)
    if tuple(_only_row(db, "SELECT size, frontier FROM tree")) != (len(leaves), b"".join(frontier)):
        _wrong_tree("the stored frontier is not that of the leaves")
    stored = {(row[0], row[1]): row[2] for row in db.execute("SELECT level, number, hashes FROM tiles")}
    if stored != tiles_of(leaves):
        _wrong_tree("the stored tiles are not those of the leaves")
    if earlier is not None:
        if earlier.origin != f"chatledger/{ledger_id}":
            _wrong_tree("the head is one of another ledger")
        if earlier.size > len(leaves):
            _wrong_tree(f"the head is one of {earlier.size} events, and {len(leaves)} are there")
        if root_of(leaves[: earlier.size]) != earlier.root:
            _wrong_tree(f"the first {earlier.size} events are not those of the head")
    return len(leaves), fold(frontier)


def _wrong_tree(why: str) -> NoReturn:
    raise Wrong(None, why)


def _check_file(db: sqlite3.Connection) -> None:
    found = [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
    if found[0] != APPLICATION_ID or found[1] not in SCHEMAS:
        raise Wrong(None, f"not a ledger of this format: {found}")
    if (damage := [row[0] for row in db.execute("PRAGMA integrity_check")]) != ["ok"]:
        raise Wrong(None, f"SQLite's own check: {damage}")


def _only_row(db: sqlite3.Connection, query: str) -> sqlite3.Row:
    rows = db.execute(query).fetchall()
    if len(rows) != 1:
        raise Wrong(None, f"{len(rows)} rows where one belongs: {query}")
    return rows[0]


def _verify_events(db: sqlite3.Connection) -> list[bytes]:
    """Check each event by itself and return the leaves."""
    kept = {row[0]: row[1] for row in db.execute("SELECT position, commitment FROM commitments")}
    allowed = _erasures(db)
    versions: dict[int, int] = {}
    leaves: list[bytes] = []
    for row in db.execute(EVENTS):
        position, event = len(leaves) + 1, dict(row)
        if event["position"] != position:
            raise Wrong(position, "no event is there")
        _check_envelope(event)
        version = versions[event["stream"]] = versions.get(event["stream"], 0) + 1
        if event["version"] != version:
            raise Wrong(position, f"version {event['version']} where {version} comes next")
        if version > allowed.ended.get(event["stream"], version):
            raise Wrong(position, "it follows the erasure of its session")
        event["commitment"] = _commitment(event, kept, allowed).hex()
        if leaf_of(record_of(event)) != event["leaf"]:
            raise Wrong(position, "the leaf is not that of the record")
        leaves.append(event["leaf"])
    return leaves


@dataclass(frozen=True)
class Erasures:
    """What the ledger's own events permit to be erased."""

    ended: Mapping[int, int]
    """By stream, the version of its `session.erased`."""
    positions: frozenset[int]
    """The events that a `message.erased` of their stream names."""


def _erasures(db: sqlite3.Connection) -> Erasures:
    """Read the erasing events, and hold the table of what may be erased against them."""
    ended = dict(db.execute("SELECT stream, min(version) FROM events WHERE type = ? GROUP BY stream", (ERASURE,)))
    places = {row[0]: (row[1], row[2]) for row in db.execute("SELECT position, stream, type FROM events")}
    named: set[int] = set()
    rows = db.execute("SELECT position, stream, payload FROM events WHERE type = ?", (MESSAGE_ERASURE,))
    for position, stream, payload in rows.fetchall():
        if payload is None or not any(payload):
            continue  # its session was erased since
        check_payload(position, MESSAGE_ERASURE, payload)
        for wanted in json.loads(payload)["positions"]:
            place = places.get(wanted)
            if type(wanted) is not int or place is None or wanted >= position:
                raise Wrong(position, f"it erases {wanted!r}, which is no earlier event")
            if place[0] != stream or place[1] not in ERASABLE:
                raise Wrong(position, f"it erases {wanted}, which is no message of its session")
            named.add(wanted)
    schema = db.execute("PRAGMA user_version").fetchone()[0]
    if schema >= ERASES_MESSAGES:
        table = {row[0] for row in db.execute("SELECT position FROM erasable")}
        if missing := named - table:
            raise Wrong(min(missing), "it is to be erased, and the table `erasable` does not have it")
    return Erasures(ended, frozenset(named))


def _check_envelope(event: Json) -> None:
    position = event["position"]
    if event["tenant"] is None or event["session"] is None:
        raise Wrong(position, "its stream does not exist")
    strings = all(type(event[name]) is str for name in ("actor", "session", "tenant", "type"))
    numbers = all(type(event[name]) is int for name in ("recorded_at", "schema", "version"))
    request_id = event["request_id"] is None or type(event["request_id"]) is str
    blobs = all(event[name] is None or type(event[name]) is bytes for name in ("payload", "salt", "leaf"))
    if not (strings and numbers and request_id and blobs):
        raise Wrong(position, "a value has another type")
    if event["type"] not in TYPES or event["schema"] != 1:
        raise Wrong(position, f"no such type: {event['type']} {event['schema']}")


def _commitment(event: Json, kept: Mapping[int, bytes], allowed: Erasures) -> bytes:
    position, payload, salt = event["position"], event["payload"], event["salt"]
    if (payload is None) != (salt is None):
        raise Wrong(position, "half an erasure")
    if payload is not None and payload[:1] != b"\0":
        if len(salt) != SALT_BYTES:
            raise Wrong(position, f"a salt of {len(salt)} bytes")
        check_payload(position, event["type"], payload)
        return commitment_of(salt, payload)
    if payload is not None and (any(payload) or salt != bytes(SALT_BYTES)):
        raise Wrong(position, "a payload that begins with a zero and has another byte, or its salt has")
    ended = allowed.ended.get(event["stream"])
    if event["type"] == ERASURE or not (ended is not None or position in allowed.positions):
        raise Wrong(position, "erased, and no later event of its stream says so")
    if type(kept.get(position)) is not bytes or len(kept[position]) != HASH_BYTES:
        raise Wrong(position, "erased, and its commitment is not there")
    return kept[position]
