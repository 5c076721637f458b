"""The JSON documents that clients see, made from events and states: one place for answers and for stored rows."""

import msgspec
from msgspec import UNSET, Raw, UnsetType

from chatledger.domain.api_keys import Key
from chatledger.domain.events import Event, ForkedFrom, MessageAppended, MessageFields, encode_payload
from chatledger.domain.session import SessionState
from chatledger.domain.timestamps import format_us

_encode = msgspec.json.Encoder().encode

_SEQ_AT = len(b'{"seq":')
_MESSAGE_MEMBER = len(b',"message":')


class MessageDocument(MessageFields, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A message as given, and the four members that the service owns."""

    id: str
    session_id: str
    seq: int
    created_at: str


class SessionDocument(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A session as readers see it. Only `forked_from` is left out where there is none."""

    id: str
    tenant_id: str
    user_id: str | None
    title: str | None
    traits: Raw
    archived: bool
    version: int
    message_count: int
    created_at: str
    updated_at: str
    last_message_at: str | None
    forked_from: ForkedFrom | None = None


class EventDocument(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """An event as auditors see it; `data` is the payload as stored, or null beside `erased`."""

    position: int
    type: str
    schema: int
    tenant_id: str
    session_id: str
    version: int
    recorded_at: str
    actor: str
    request_id: str | None
    data: Raw
    leaf: str
    erased: bool = False


class KeyDocument(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A key as it may be shown. `key` is its text, which is shown once."""

    id: str
    tenant_id: str | None
    operator: bool
    name: str | None
    scopes: list[str]
    created_at: str
    created_by: str
    expires_at: str | None
    revoked_at: str | None
    revoked_by: str | None
    last_used_at: str | None
    key: str | UnsetType = UNSET


def message_document(payload: bytes, *, session_id: str, created_at_us: int | None) -> bytes:
    """The JSON of the message that an event added, as readers get it: the event's own bytes, and what it leaves unsaid.

    Args:
        payload: That of a `message.appended` in its present schema, `{"seq":1,"message":{…}}`, as `encode_payload`
            writes it.
        session_id: The session that it was added to.
        created_at_us: When, in µs since the epoch; None where the message itself has its `created_at`.
    """
    begin = payload.index(b"{", 1)
    seq = payload[_SEQ_AT : begin - _MESSAGE_MEMBER]
    if created_at_us is None:
        return b'%b,"session_id":"%b","seq":%b}' % (payload[begin:-2], session_id.encode(), seq)
    created_at = format_us(created_at_us).encode()
    values = (payload[begin:-2], session_id.encode(), seq, created_at)
    return b'%b,"session_id":"%b","seq":%b,"created_at":"%b"}' % values


def stored_message_document(event: Event, data: MessageAppended) -> bytes:
    """The same, of an *event* whose *data* was read."""
    given = data.message.created_at
    created_at_us = event.recorded_at if given is UNSET else None
    return message_document(encode_payload(data), session_id=event.session_id, created_at_us=created_at_us)


def session_document(state: SessionState) -> bytes:
    """The JSON of a session."""
    fork = None
    if state.forked_from_session_id is not None and state.forked_from_version is not None:
        fork = ForkedFrom(state.forked_from_session_id, state.forked_from_version)
    return _encode(
        SessionDocument(
            id=state.session_id,
            tenant_id=state.tenant_id,
            user_id=state.user_id,
            title=state.title,
            traits=Raw(state.traits),
            archived=state.archived,
            version=state.version,
            message_count=state.message_count,
            created_at=format_us(state.created_at_us),
            updated_at=format_us(state.updated_at_us),
            last_message_at=_time(state.last_message_at_us),
            forked_from=fork,
        )
    )


def event_document(event: Event, *, schema: int, payload: bytes | None, leaf: bytes) -> bytes:
    """The JSON of an event for audit: its envelope, its payload's bytes and its leaf in hexadecimal."""
    return _encode(
        EventDocument(
            position=event.position,
            type=event.type,
            schema=schema,
            tenant_id=event.tenant_id,
            session_id=event.session_id,
            version=event.version,
            recorded_at=format_us(event.recorded_at),
            actor=event.actor,
            request_id=event.request_id,
            data=Raw(b"null" if payload is None else payload),
            leaf=leaf.hex(),
            erased=payload is None,
        )
    )


def key_document(key: Key, used_at_us: int | None, text: str | None = None) -> KeyDocument:
    """A key, last used at *used_at_us*, with its *text* where it was just made."""
    return KeyDocument(
        id=key.key_id,
        tenant_id=key.tenant_id,
        operator=key.tenant_id is None,
        name=key.name,
        scopes=sorted(key.caller.scopes),
        created_at=format_us(key.created_at_us),
        created_by=key.created_by,
        expires_at=_time(key.expires_at_us),
        revoked_at=_time(key.revoked_at_us),
        revoked_by=key.revoked_by,
        last_used_at=_time(used_at_us),
        key=UNSET if text is None else text,
    )


def _time(time_us: int | None) -> str | None:
    return None if time_us is None else format_us(time_us)


def join(documents: list[bytes]) -> bytes:
    """A JSON array of *documents*."""
    return b"[%b]" % b",".join(documents)
