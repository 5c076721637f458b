"""What a client or an import file says, checked and turned into what the ledger keeps."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from chatledger.domain.events import Message, MessageFields
from chatledger.domain.ids import ID_RULE, is_id, new_id
from chatledger.domain.json_text import compact, explain_malformed, may_be_deeper
from chatledger.domain.session import NO_TRAITS
from chatledger.domain.timestamps import format_us, parse_us
from chatledger.domain.validation import refusal
from chatledger.errors import InvalidRequest, TooLarge
from chatledger.settings import Settings


class MessageInput(MessageFields, frozen=True, gc=False, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A message as it comes in: any in the OpenAI chat-completions form. A null id or time is none."""

    id: str | None | UnsetType = UNSET
    created_at: str | None | UnsetType = UNSET


class _ContentPart(msgspec.Struct):
    type: str


class _AnyObject(msgspec.Struct):
    pass


_parts = msgspec.json.Decoder(list[_ContentPart])
_objects = msgspec.json.Decoder(list[_AnyObject])

_ARRAY = ord("[")
_STRING_OR_NULL = b'"n'
_NESTED = b"[{"
OWN_MEMBERS = "session's title, user_id and traits"
"""What of a session has a limit of its own."""
MESSAGE_DEPTH = 3
"""Of a message in the list of an object, itself included."""

# Besides its words, what an assistant's message may consist of (OpenAI: content is optional beside these).
_INSTEAD_OF_CONTENT = ("tool_calls", "function_call", "audio", "refusal")


def accept_message(given: MessageInput, *, field: str) -> Message:
    """The message that the ledger keeps for *given*; `field` is where it stood, for errors.

    Raises:
        InvalidRequest: a member has a form that the contract does not allow.
    """
    tool_calls, metadata, audio = given.tool_calls, given.metadata, given.audio
    function_call, annotations = given.function_call, given.annotations
    # Nearly all messages have none of these: no call, and no name of a field, for each that is not there.
    return Message(
        id=_accept_id(given.id, field=field, name=".id"),
        created_at=UNSET if given.created_at is UNSET else _accept_time(given.created_at, field=f"{field}.created_at"),
        role=given.role,
        content=_accept_content(given, field=field),
        name=given.name,
        tool_calls=UNSET if tool_calls is UNSET else _accept_array(tool_calls, field=f"{field}.tool_calls"),
        tool_call_id=given.tool_call_id,
        parent_id=given.parent_id,
        metadata=UNSET if metadata is UNSET else accept_object(metadata, field=f"{field}.metadata"),
        refusal=given.refusal,
        audio=UNSET if audio is UNSET else accept_object(audio, field=f"{field}.audio"),
        function_call=(
            UNSET if function_call is UNSET else accept_object(function_call, field=f"{field}.function_call")
        ),
        annotations=UNSET if annotations is UNSET else _accept_array(annotations, field=f"{field}.annotations"),
    )


def accept_messages(given: Sequence[MessageInput], *, field: str) -> tuple[Message, ...]:
    """Each of a batch's messages as `accept_message` takes it; ids that come twice are refused."""
    accepted = tuple([accept_message(message, field=f"{field}[{number}]") for number, message in enumerate(given)])
    if len({message.id for message in accepted}) < len(accepted):
        seen: set[str] = set()
        for number, message in enumerate(accepted):
            if message.id in seen:
                raise InvalidRequest("The batch has this message id twice.", field=f"{field}[{number}].id")
            seen.add(message.id)
    return accepted


def message_bytes(message: Message) -> int:
    """About how many bytes a message takes: those of its free-form members."""
    free = (
        message.content, message.tool_calls, message.metadata, message.audio, message.function_call,
        message.annotations,
    )  # fmt: skip
    return sum(len(bytes(part)) for part in free if part is not UNSET)


def may_nest_deeper(given: Sequence[MessageInput], depth_max: int) -> bool:
    """A cheap look at a list of messages in an object: whether any may nest deeper than *depth_max*."""
    parts = [
        part
        for message in given
        for part in (
            message.content, message.tool_calls, message.metadata, message.audio, message.function_call,
            message.annotations,
        )
        if part is not UNSET and memoryview(part)[0] in _NESTED
    ]  # fmt: skip
    return any(may_be_deeper(part, depth_max - MESSAGE_DEPTH) for part in parts)


def named_ids(given: Sequence[MessageInput]) -> tuple[str, ...]:
    """The message ids that a client has chosen or refers to."""
    ids = [message.id for message in given if isinstance(message.id, str)]
    return (*ids, *[message.parent_id for message in given if isinstance(message.parent_id, str)])


def accept_session_id(given: str | None, *, field: str = "$.id") -> str:
    """The id of a new session: the client's, or a new one."""
    return _accept_id(given, field=field, name="")


def accept_traits(given: Raw | UnsetType, *, field: str = "$.traits") -> Raw:
    """A session's traits: an object; none or null is an empty one."""
    accepted = accept_object(given, field=field)
    return Raw(NO_TRAITS) if accepted is UNSET or bytes(accepted) == b"null" else accepted


def check_session_size(settings: Settings, *, title: str | None, user_id: str | None, traits: bytes | Raw) -> None:
    """Refuse a session whose own members are too much.

    Raises:
        TooLarge: title, user id and traits have more than `session_bytes_max` bytes together.
    """
    size = len(bytes(traits)) + len((title or "").encode()) + len((user_id or "").encode())
    if size > settings.session_bytes_max:
        raise TooLarge(OWN_MEMBERS, limit_bytes=settings.session_bytes_max)


def accept_object(given: Raw | UnsetType, *, field: str) -> Raw | UnsetType:
    """An object or null, without white space between its tokens."""
    if given is UNSET:
        return UNSET
    if bytes(given)[:1] not in b"{n":
        raise InvalidRequest("Expected an object or null.", field=field)
    return compact(given)


def _accept_id(given: str | None | UnsetType, *, field: str, name: str) -> str:
    if not isinstance(given, str):
        return new_id()
    if not is_id(given):
        raise InvalidRequest(f"An id has to be {ID_RULE}.", field=field + name)
    return given


def _accept_time(given: str | None | UnsetType, *, field: str) -> str | UnsetType:
    if not isinstance(given, str):
        return UNSET
    try:
        return format_us(parse_us(given))
    except ValueError as error:
        raise InvalidRequest(f"Not a time: {error}.", field=field) from None


def _accept_content(given: MessageInput, *, field: str) -> Raw | UnsetType:
    content = given.content
    if content is UNSET:
        if given.role == "assistant" and any(getattr(given, name) is not UNSET for name in _INSTEAD_OF_CONTENT):
            return UNSET
        raise InvalidRequest(
            "The content is missing: a string, null or an array of content parts.", field=f"{field}.content"
        )
    first = memoryview(content)[0]
    if first == _ARRAY:
        _check(_parts, content, field=f"{field}.content")
        return compact(content)
    if first not in _STRING_OR_NULL:
        raise InvalidRequest("Expected a string, null or an array of content parts.", field=f"{field}.content")
    return content


def _accept_array(given: Raw | UnsetType, *, field: str) -> Raw | UnsetType:
    if given is UNSET or bytes(given) == b"null":
        return given
    _check(_objects, given, field=field)
    return compact(given)


def _check(decoder: "msgspec.json.Decoder[Any]", text: Raw, *, field: str) -> None:
    try:
        decoder.decode(text)
    except msgspec.ValidationError as error:
        raise refusal(error, decoder.type, where=field) from None
    except msgspec.DecodeError as error:
        raise explain_malformed(bytes(text), error) from None
