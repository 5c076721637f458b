"""The bytes of each event and schema, for ever; and the bytes that a leaf is made of."""

import hashlib
import hmac
import json
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from chatledger.domain import events
from chatledger.domain.events import (
    Event,
    EventData,
    ForkedFrom,
    ItemAppended,
    ItemRevised,
    KeyCreated,
    KeyRevoked,
    Message,
    MessageAppended,
    MessageErased,
    MessageRemoved,
    MessageRevised,
    RetentionSet,
    SessionChanges,
    SessionCreated,
    SessionDeleted,
    SessionErased,
    SessionHeld,
    SessionReleased,
    SessionRestored,
    SessionTruncated,
    SessionUpdated,
    SigningRotated,
    UnknownEvent,
    decode_payload,
    encode_payload,
    type_of,
)
from chatledger.ledger import event_store, merkle

GOLDEN: list[tuple[str, int, bytes, EventData]] = [
    ("session.created", 1, b"{}", SessionCreated()),
    (
        "session.created",
        1,
        (
            b'{"user_id":"u-1","title":"Caf\xc3\xa9","traits":{"plan":"pro","n":1.50},'
            b'"forked_from":{"session_id":"s-0","version":3},"created_at":"2024-05-15T15:00:00.000000Z"}'
        ),
        SessionCreated(
            user_id="u-1",
            title="Caf\u00e9",
            traits=Raw(b'{"plan":"pro","n":1.50}'),
            forked_from=ForkedFrom("s-0", 3),
            created_at="2024-05-15T15:00:00.000000Z",
        ),
    ),
    (
        "message.appended",
        1,
        b'{"seq":1,"message":{"role":"user","content":"Hello","id":"m-1"}}',
        MessageAppended(1, Message(role="user", content=Raw(b'"Hello"'), id="m-1")),
    ),
    (
        "message.appended",
        1,
        (
            b'{"seq":7,"message":{"role":"assistant","content":null,"name":"bot","tool_calls":[{"id":"c1",'
            b'"type":"function","function":{"name":"f","arguments":"{}"}}],"tool_call_id":null,"parent_id":"m-1",'
            b'"metadata":{"t":1e400},"refusal":null,"audio":{"id":"a"},"function_call":null,"annotations":[],'
            b'"id":"m-2","created_at":"2024-05-15T15:00:00.000001Z"}}'
        ),
        MessageAppended(
            7,
            Message(
                role="assistant",
                content=Raw(b"null"),
                name="bot",
                tool_calls=Raw(b'[{"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}}]'),
                tool_call_id=None,
                parent_id="m-1",
                metadata=Raw(b'{"t":1e400}'),
                refusal=None,
                audio=Raw(b'{"id":"a"}'),
                function_call=Raw(b"null"),
                annotations=Raw(b"[]"),
                id="m-2",
                created_at="2024-05-15T15:00:00.000001Z",
            ),
        ),
    ),
    (
        "session.updated",
        1,
        b'{"changes":{"title":"New","user_id":null,"traits":{"a":null},"archived":true}}',
        SessionUpdated(SessionChanges(title="New", user_id=None, traits=Raw(b'{"a":null}'), archived=True)),
    ),
    ("session.updated", 1, b'{"changes":{"title":null}}', SessionUpdated(SessionChanges(title=None))),
    ("message.removed", 1, b'{"message_id":"m-1"}', MessageRemoved("m-1")),
    ("session.deleted", 1, b"{}", SessionDeleted()),
    ("session.erased", 1, b'{"reason":"GDPR 17"}', SessionErased("GDPR 17")),
    (
        "key.created",
        1,
        (
            b'{"key_id":"k_0123456789Ab","sha256":"00ff","scopes":["read","write"],"tenant_id":"acme","name":"web",'
            b'"expires_at":"2024-05-15T15:00:00.000001Z"}'
        ),
        KeyCreated("k_0123456789Ab", "00ff", ("read", "write"), "acme", "web", "2024-05-15T15:00:00.000001Z"),
    ),
    ("key.created", 1, b'{"key_id":"k_0","sha256":"00","scopes":[]}', KeyCreated("k_0", "00", ())),
    ("key.revoked", 1, b'{"key_id":"k_0123456789Ab"}', KeyRevoked("k_0123456789Ab")),
    (
        "session.created",
        1,
        b'{"forked_from":{"session_id":"s-0","version":3},"visible_at":3}',
        SessionCreated(forked_from=ForkedFrom("s-0", 3), visible_at=3),
    ),
    (
        "item.appended",
        1,
        b'{"seq":2,"item_id":"rs_1","item":{"type":"reasoning","id":"theirs","n":1.50}}',
        ItemAppended(seq=2, item_id="rs_1", item=Raw(b'{"type":"reasoning","id":"theirs","n":1.50}')),
    ),
    (
        "item.appended",
        1,
        (
            b'{"seq":3,"item_id":"fc_1","item":{"type":"function_call"},"parent_id":null,'
            b'"created_at":"2024-05-15T15:00:00.000001Z","metadata":{"t":1e400}}'
        ),
        ItemAppended(
            seq=3,
            item_id="fc_1",
            item=Raw(b'{"type":"function_call"}'),
            parent_id=None,
            created_at="2024-05-15T15:00:00.000001Z",
            metadata=Raw(b'{"t":1e400}'),
        ),
    ),
    (
        "message.revised",
        1,
        b'{"seq":1,"message":{"role":"user","content":"Hello!","parent_id":"m-0","id":"m-1"}}',
        MessageRevised(1, Message(role="user", content=Raw(b'"Hello!"'), parent_id="m-0", id="m-1")),
    ),
    (
        "item.revised",
        1,
        b'{"seq":3,"item_id":"fc_1","item":{"type":"function_call"},"metadata":null}',
        ItemRevised(seq=3, item_id="fc_1", item=Raw(b'{"type":"function_call"}'), metadata=Raw(b"null")),
    ),
    ("item.revised", 1, b'{"seq":3,"item_id":"fc_1","item":{}}', ItemRevised(seq=3, item_id="fc_1", item=Raw(b"{}"))),
    ("session.truncated", 1, b'{"after_seq":0}', SessionTruncated(0)),
    (
        "message.erased",
        1,
        b'{"message_id":"m-1","seq":1,"positions":[2,5],"reason":"GDPR 17"}',
        MessageErased(message_id="m-1", seq=1, positions=(2, 5), reason="GDPR 17"),
    ),
    (
        "message.erased",
        1,
        b'{"message_id":"m-1","seq":1,"parent_id":null,"positions":[2],"reason":"GDPR 17"}',
        MessageErased(message_id="m-1", seq=1, parent_id=None, positions=(2,), reason="GDPR 17"),
    ),
    ("session.restored", 1, b"{}", SessionRestored()),
    ("session.held", 1, b'{"hold":"case-7","reason":"Smith v. Jones"}', SessionHeld("case-7", "Smith v. Jones")),
    ("session.released", 1, b'{"hold":"case-7"}', SessionReleased("case-7")),
    ("retention.set", 1, b'{"tenant_id":"acme","days":30}', RetentionSet("acme", 30)),
    ("retention.set", 1, b'{"tenant_id":"acme","days":null}', RetentionSet("acme", None)),
    (
        "signing.rotated",
        1,
        b'{"verifier":"chatledger/0+00+AQ==","previous":"chatledger/0+01+AQ==","signature":"AA=="}',
        SigningRotated("chatledger/0+00+AQ==", "chatledger/0+01+AQ==", "AA=="),
    ),
    ("signing.rotated", 1, b'{"verifier":"chatledger/0+00+AQ=="}', SigningRotated("chatledger/0+00+AQ==")),
]
golden = pytest.mark.parametrize(("kind", "schema", "payload", "data"), GOLDEN)


def plain(data: EventData) -> Any:
    """*data* as builtins, with the bytes of its free members: `Raw` compares by identity."""
    return msgspec.to_builtins(data, enc_hook=bytes, builtin_types=(bytes,))


@golden
def test_an_event_is_written_as_its_golden_bytes(kind: str, schema: int, payload: bytes, data: EventData) -> None:
    """The payload of an event of today has exactly these bytes."""
    assert type_of(data) == kind
    assert events.SCHEMAS[kind] == schema, "a new schema: keep the old bytes here and add those of the new one"
    assert encode_payload(data) == payload


@golden
def test_golden_bytes_are_read_as_their_event(kind: str, schema: int, payload: bytes, data: EventData) -> None:
    """Bytes that were written once mean the same for ever."""
    read = decode_payload(kind, schema, payload)
    assert type(read) is type(data)
    assert plain(read) == plain(data)
    assert encode_payload(read) == payload


def test_each_type_and_schema_has_golden_bytes() -> None:
    """No event type, and no schema of one up to today's, is without a golden payload."""
    wanted = {(kind, schema) for kind, newest in events.SCHEMAS.items() for schema in range(1, newest + 1)}
    assert {(kind, schema) for kind, schema, _payload, _data in GOLDEN} == wanted
    assert set(events.SCHEMAS) == set(events.TYPES)


def test_the_order_of_the_types_is_kept() -> None:
    """The feed stores a type as its place in TYPES: a new one goes to the end."""
    assert list(events.TYPES)[:18] == [
        "session.created",
        "message.appended",
        "session.updated",
        "message.removed",
        "session.deleted",
        "session.erased",
        "key.created",
        "key.revoked",
        "item.appended",
        "message.revised",
        "item.revised",
        "session.truncated",
        "message.erased",
        "session.restored",
        "session.held",
        "session.released",
        "retention.set",
        "signing.rotated",
    ]


@pytest.mark.parametrize(
    ("kind", "schema", "payload"),
    [
        pytest.param("session.renamed", 1, b"{}", id="unknown type"),
        pytest.param("session.created", 2, b"{}", id="newer schema"),
        pytest.param("session.created", 0, b"{}", id="schema 0"),
        pytest.param("message.removed", 1, b"{}", id="missing member"),
        pytest.param("message.removed", 1, b'{"message_id":1}', id="member of another type"),
        pytest.param("message.removed", 1, b'{"message_id":', id="no JSON"),
        pytest.param("message.removed", 1, b"\xff", id="no UTF-8"),
        pytest.param("message.appended", 1, b'{"seq":1,"message":{"role":"robot","id":"m"}}', id="unknown role"),
        pytest.param("session.updated", 1, b'{"changes":{"colour":"red"}}', id="unknown change"),
    ],
)
def test_what_cannot_be_understood_is_not_guessed(kind: str, schema: int, payload: bytes) -> None:
    """An unknown type or schema, or a payload of another form, raises `UnknownEvent`."""
    with pytest.raises(UnknownEvent):
        decode_payload(kind, schema, payload)


def test_an_old_payload_is_read_through_its_upcasters(monkeypatch: pytest.MonkeyPatch) -> None:
    """With schemas 2 and 3 made up, bytes of 1 and 2 are taken up step by step, those of 3 as they are."""
    monkeypatch.setitem(events.SCHEMAS, "message.removed", 3)
    monkeypatch.setitem(
        events.UPCASTERS, ("message.removed", 1), lambda payload: payload.replace(b'"message"', b'"msg_id"')
    )
    monkeypatch.setitem(
        events.UPCASTERS,
        ("message.removed", 2),
        lambda payload: payload.replace(b'"msg_id"', b'"message_id"'),
    )
    assert decode_payload("message.removed", 1, b'{"message":"m-1"}') == MessageRemoved("m-1")
    assert decode_payload("message.removed", 2, b'{"msg_id":"m-1"}') == MessageRemoved("m-1")
    assert decode_payload("message.removed", 3, b'{"message_id":"m-1"}') == MessageRemoved("m-1")
    with pytest.raises(UnknownEvent):
        decode_payload("message.removed", 4, b'{"message_id":"m-1"}')


SALT = bytes(range(16))
PAYLOAD = b'{"seq":1,"message":{"role":"user","content":"Hello","id":"m-1"}}'
RECORD = (
    b'{"actor":"open","commitment":"%b","position":17,"recorded_at":1700000000000000,"request_id":null,'
    b'"schema":1,"session":"s-1","tenant":"default","type":"message.appended","version":3}'
)
COMMITMENT = "fb2438f0e0faad26273fc9d5b3700da1b75d1e36890c35547e1e0078529fba34"
LEAF = "9b45af6b0c7665c3dc82e31d507b3708a943b6da5facc11b197e6d5c89958c26"


def event(request_id: str | None = None) -> Event:
    """The event of the golden leaf."""
    return Event(
        position=17,
        stream=4,
        tenant_id="default",
        session_id="s-1",
        version=3,
        type="message.appended",
        recorded_at=1_700_000_000_000_000,
        actor="open",
        request_id=request_id,
        data=decode_payload("message.appended", 1, PAYLOAD),
    )


def test_a_leaf_has_its_golden_bytes() -> None:
    """A fixed salt and event give a fixed leaf, by our code and by the words of the design."""
    committed = merkle.commitment(SALT, PAYLOAD)
    assert committed.hex() == COMMITMENT == hmac.new(SALT, PAYLOAD, hashlib.sha256).hexdigest()
    record = RECORD % COMMITMENT.encode()
    assert event_store.leaf_of(event(), 1, committed).hex() == LEAF == hashlib.sha256(b"\x00" + record).hexdigest()


def test_the_record_of_a_leaf_is_canonical_json() -> None:
    """RFC 8785: names sorted, no white space; so any language can write it."""
    record = RECORD % COMMITMENT.encode()
    assert json.dumps(json.loads(record), sort_keys=True, separators=(",", ":")).encode() == record


def test_a_leaf_covers_the_request_id() -> None:
    """A request id stands in the record as a string."""
    committed = merkle.commitment(SALT, PAYLOAD)
    record = (RECORD % COMMITMENT.encode()).replace(b"null", b'"r-1"')
    assert event_store.leaf_of(event("r-1"), 1, committed) == hashlib.sha256(b"\x00" + record).digest()


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("position", 18),
        ("tenant_id", "other"),
        ("session_id", "s-2"),
        ("version", 4),
        ("type", "message.removed"),
        ("recorded_at", 1),
        ("actor", "import"),
    ],
)
def test_a_leaf_covers_each_member_of_the_envelope(member: str, value: object) -> None:
    """Any other envelope has another leaf."""
    committed = merkle.commitment(SALT, PAYLOAD)
    other = msgspec.structs.replace(event(), **{member: value})
    assert event_store.leaf_of(other, 1, committed).hex() != LEAF


def test_a_sealed_record_has_a_salt_of_its_own() -> None:
    """The same content twice gives two commitments, so nobody can guess a short message from its hash."""
    one, other = event_store.seal([event(), event()])
    assert one.payload == other.payload == PAYLOAD
    assert one.salt != other.salt
    assert one.leaf != other.leaf
    assert one.salt is not None
    assert len(one.salt) == 16
    assert one.leaf == event_store.leaf_of(one.event, one.schema, merkle.commitment(one.salt, PAYLOAD))
