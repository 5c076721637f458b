"""The events: what they say, how they are stored, and how old ones are read.

A payload is never rewritten. A change of meaning is a new schema number with an upcaster from the one before;
tests/unit/test_golden_events.py holds the bytes of each event and schema.
"""

from collections.abc import Callable
from typing import Literal, TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

Role: TypeAlias = Literal["system", "developer", "user", "assistant", "tool"]


class MessageFields(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What a client may say in a message, in the OpenAI chat-completions form, and keeps its JSON values.

    `UNSET` is "not given" and stays out of every answer; `None` is a null that was given and comes back as one.
    Members of free form are `Raw`: their bytes are kept (see `jsontext.py`).
    """

    role: Role
    content: Raw | UnsetType = UNSET
    name: str | None | UnsetType = UNSET
    tool_calls: Raw | UnsetType = UNSET
    tool_call_id: str | None | UnsetType = UNSET
    parent_id: str | None | UnsetType = UNSET
    metadata: Raw | UnsetType = UNSET
    # Members that the OpenAI libraries send back with an assistant's message:
    refusal: str | None | UnsetType = UNSET
    audio: Raw | UnsetType = UNSET
    function_call: Raw | UnsetType = UNSET
    annotations: Raw | UnsetType = UNSET


class Message(MessageFields, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A message as the ledger keeps it: its id is settled, and `created_at` is there only if a client gave it."""

    id: str
    created_at: str | UnsetType = UNSET


class ForkedFrom(msgspec.Struct, frozen=True, gc=False):
    """The session, and the version of it, that a fork copies."""

    session_id: str
    version: int


VISIBLE_AT_ONCE = 1
"""The `visible_at` of a session that readers see from its first event on."""


class SessionCreated(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A session exists from here on. `created_at` is there only if an import knew better.

    Readers see it once it has the version `visible_at`: the events up to there belong to its making.
    """

    user_id: str | None = None
    title: str | None = None
    traits: Raw | UnsetType = UNSET
    forked_from: ForkedFrom | None = None
    created_at: str | None = None
    visible_at: int = VISIBLE_AT_ONCE


class MessageAppended(msgspec.Struct, frozen=True, gc=False):
    """A message was added as number `seq` (1, 2, 3 …) of its session; removals leave the numbers as they are."""

    seq: int
    message: Message


class SessionChanges(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, forbid_unknown_fields=True):
    """A JSON merge patch (RFC 7396) of a session: null takes a member back to its default."""

    title: str | None | UnsetType = UNSET
    user_id: str | None | UnsetType = UNSET
    traits: Raw | UnsetType = UNSET
    archived: bool | None | UnsetType = UNSET


class SessionUpdated(msgspec.Struct, frozen=True, gc=False):
    """The session's own members were changed."""

    changes: SessionChanges


class MessageRemoved(msgspec.Struct, frozen=True, gc=False):
    """Readers no longer see the message; its event stays."""

    message_id: str


class SessionDeleted(msgspec.Struct, frozen=True, gc=False):
    """Readers no longer see the session; its events stay and its id stays taken."""


class SessionErased(msgspec.Struct, frozen=True, gc=False):
    """The payloads of the session's earlier events were removed for good."""

    reason: str


class ItemAppended(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """An item of another API was added as number `seq` of its session: `item` is its JSON as it was sent.

    An id inside `item` is the sender's; `item_id` is the one by which it is known here.
    """

    seq: int
    item_id: str
    item: Raw
    parent_id: str | None | UnsetType = UNSET
    created_at: str | UnsetType = UNSET
    metadata: Raw | UnsetType = UNSET


class MessageRevised(msgspec.Struct, frozen=True, gc=False):
    """The message number `seq` has another form from here on: the whole of it, so that each form stands alone."""

    seq: int
    message: Message


class ItemRevised(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """The item number `seq` has another form from here on."""

    seq: int
    item_id: str
    item: Raw
    metadata: Raw | UnsetType = UNSET


class SessionTruncated(msgspec.Struct, frozen=True, gc=False):
    """Readers no longer see any message or item with a number above `after_seq`; their events stay."""

    after_seq: int


class MessageErased(msgspec.Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """The payloads of the events at `positions`, all that ever said one message or item, were removed for good.

    `seq` and `parent_id` are kept here because nobody can read them in those events any more.
    """

    message_id: str
    seq: int
    parent_id: str | None | UnsetType = UNSET
    positions: tuple[int, ...]
    reason: str


class SessionRestored(msgspec.Struct, frozen=True, gc=False):
    """Readers see a deleted session again."""


class SessionHeld(msgspec.Struct, frozen=True, gc=False):
    """The session is under the legal hold of this name: it can be neither deleted nor erased."""

    hold: str
    reason: str


class SessionReleased(msgspec.Struct, frozen=True, gc=False):
    """The hold of this name has ended."""

    hold: str


class KeyCreated(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """An API key exists from here on. `sha256` is that of its text, in hex; without a tenant it is an operator's.

    Events of keys are in the stream of the reserved tenant `$system`.
    """

    key_id: str
    sha256: str
    scopes: tuple[str, ...]
    tenant_id: str | None = None
    name: str | None = None
    expires_at: str | None = None


class KeyRevoked(msgspec.Struct, frozen=True, gc=False):
    """The key is good for nothing from here on."""

    key_id: str


class RetentionSet(msgspec.Struct, frozen=True, gc=False):
    """A tenant's sessions are erased `days` after the last message from here on; None: they are kept.

    Events of retention are in the stream `retention` of `$system`.
    """

    tenant_id: str
    days: int | None


class SigningRotated(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Tree heads are signed by the key of `verifier` from here on.

    `signature` is that of the key `previous` over the bytes of `verifier`, in Base64, where that key was there. Events
    of signing keys are in the stream `signing` of `$system`.
    """

    verifier: str
    previous: str | None = None
    signature: str | None = None


EventData: TypeAlias = (
    SessionCreated
    | MessageAppended
    | SessionUpdated
    | MessageRemoved
    | SessionDeleted
    | SessionErased
    | KeyCreated
    | KeyRevoked
    | ItemAppended
    | MessageRevised
    | ItemRevised
    | SessionTruncated
    | MessageErased
    | SessionRestored
    | SessionHeld
    | SessionReleased
    | RetentionSet
    | SigningRotated
)

SESSION_CREATED = "session.created"
MESSAGE_APPENDED = "message.appended"
SESSION_UPDATED = "session.updated"
MESSAGE_REMOVED = "message.removed"
SESSION_DELETED = "session.deleted"
SESSION_ERASED = "session.erased"
KEY_CREATED = "key.created"
KEY_REVOKED = "key.revoked"
ITEM_APPENDED = "item.appended"
MESSAGE_REVISED = "message.revised"
ITEM_REVISED = "item.revised"
SESSION_TRUNCATED = "session.truncated"
MESSAGE_ERASED = "message.erased"
SESSION_RESTORED = "session.restored"
SESSION_HELD = "session.held"
SESSION_RELEASED = "session.released"
RETENTION_SET = "retention.set"
SIGNING_ROTATED = "signing.rotated"

TYPES: dict[str, type[EventData]] = {
    SESSION_CREATED: SessionCreated,
    MESSAGE_APPENDED: MessageAppended,
    SESSION_UPDATED: SessionUpdated,
    MESSAGE_REMOVED: MessageRemoved,
    SESSION_DELETED: SessionDeleted,
    SESSION_ERASED: SessionErased,
    KEY_CREATED: KeyCreated,
    KEY_REVOKED: KeyRevoked,
    ITEM_APPENDED: ItemAppended,
    MESSAGE_REVISED: MessageRevised,
    ITEM_REVISED: ItemRevised,
    SESSION_TRUNCATED: SessionTruncated,
    MESSAGE_ERASED: MessageErased,
    SESSION_RESTORED: SessionRestored,
    SESSION_HELD: SessionHeld,
    SESSION_RELEASED: SessionReleased,
    RETENTION_SET: RetentionSet,
    SIGNING_ROTATED: SigningRotated,
}
_NAMES = {data: name for name, data in TYPES.items()}

SYSTEM_TENANT = "$system"
"""The reserved tenant of administrative acts: no id of a tenant can be this."""
KEYS_SESSION = "keys"
"""Its stream of what happens to API keys."""

SCHEMAS: dict[str, int] = dict.fromkeys(TYPES, 1)
"""The schema number that each type is written with today."""

Upcaster: TypeAlias = Callable[[bytes], bytes]
UPCASTERS: dict[tuple[str, int], Upcaster] = {}
"""From the payload of a (type, schema) to the payload of the same type's next schema."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event in its place, as projections get it.

    `stream` is the session's integer key in the ledger; `recorded_at` is in microseconds since the epoch;
    `data` is None once the event is erased.
    """

    position: int
    stream: int
    tenant_id: str
    session_id: str
    version: int
    type: str
    recorded_at: int
    actor: str
    request_id: str | None
    data: EventData | None


def is_erased(payload: bytes | None) -> bool:
    """Whether a payload, as the ledger has it, is that of an erased event.

    It is all zeros, in its old length, which no JSON text begins with; or NULL, as schemas before 5 left it.
    """
    return payload is None or payload[:1] == b"\0"


class UnknownEvent(Exception):  # it is a fact about a payload; ledger.py makes the error of it
    """A payload of a type or schema that this version of chatledger does not know."""


_encode = msgspec.json.Encoder().encode
_decoders = {name: msgspec.json.Decoder(data).decode for name, data in TYPES.items()}


def type_of(data: EventData) -> str:
    """The name under which *data* is stored, such as `message.appended`."""
    return _NAMES[type(data)]


def encode_payload(data: EventData) -> bytes:
    """The JSON bytes that the ledger stores and the commitment covers."""
    return _encode(data)


def upcast(type_name: str, schema: int, payload: bytes) -> bytes:
    """The payload of *type_name* in its present schema.

    Raises:
        KeyError: the type is unknown, or there is no way from *schema* to ours.
    """
    while schema != SCHEMAS[type_name]:
        payload = UPCASTERS[type_name, schema](payload)
        schema += 1
    return payload


def decode_payload(type_name: str, schema: int, payload: bytes) -> EventData:
    """Read a stored payload, through the upcasters where its schema is an old one.

    Raises:
        UnknownEvent: the type is unknown, its schema newer than ours, or the payload not of its form.
    """
    decode = _decoders.get(type_name)
    if decode is None:
        raise UnknownEvent(f"event type {type_name!r} is unknown")
    try:
        return decode(upcast(type_name, schema, payload))
    except KeyError:
        raise UnknownEvent(f"schema {schema} of event type {type_name!r} is unknown") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnknownEvent(f"payload of {type_name!r} cannot be read: {error}") from error
