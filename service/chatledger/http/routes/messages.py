"""`/v1/sessions/{session_id}/messages`: append, page through, read and remove messages."""

from typing import Annotated, Literal

import msgspec
from litestar import Controller, delete, get, post
from litestar.params import FromPath, QueryParameter
from msgspec import UNSET, Raw, UnsetType

from chatledger.domain.access import Scope
from chatledger.domain.commands import AppendMessages, RemoveMessage
from chatledger.domain.documents import join
from chatledger.domain.json_text import check_depth
from chatledger.domain.messages import MessageInput, accept_message, accept_messages, may_nest_deeper, named_ids
from chatledger.errors import InvalidRequest
from chatledger.http.openapi import operations
from chatledger.http.request import Call, check_message_size, decode
from chatledger.http.response import Answer, not_modified
from chatledger.http.routes.sessions import MESSAGES_MAX, check_batch
from chatledger.settings import Settings


class _OneOrMany(msgspec.Struct, frozen=True):
    messages: Raw | UnsetType = UNSET


class BatchInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Many messages in the body of `POST …/messages`."""

    messages: list[MessageInput]


_one_or_many = msgspec.json.Decoder(_OneOrMany)
_batch = msgspec.json.Decoder(BatchInput)
_message = msgspec.json.Decoder(MessageInput)

Seq = Annotated[int | None, QueryParameter(ge=0, le=2**53, description="A message's `seq`, exclusive.")]


class MessagesController(Controller):
    """Messages."""

    path = "/v1/sessions/{session_id:str}/messages"
    tags = ("Messages",)

    @post(
        operation_id="appendMessages",
        summary="Append messages",
        operation_class=operations.APPEND_MESSAGES,
        access=Scope.WRITE,
    )
    async def append(self, request: Call, session_id: FromPath[str]) -> Answer:
        """Append one message, or a batch of up to 1000 messages, all or none of which are added."""
        request.refuse_unknown_query()
        tenant, body = request.tenant(), await request.json_text()
        command = _read(body, request.settings)
        written = await tenant.write(
            session_id,
            command,
            size_bytes=len(body),
            expected_version=request.if_match(),
            idempotency_key=request.idempotency_key(body),
        )
        documents = written.messages or []
        answer = documents[0] if command.single else b'{"data":%b}' % join(documents)
        headers = [(b"idempotency-replayed", b"true")] if written.replayed else []
        return Answer(answer, status=201, version=written.version, headers=headers)

    @get(
        operation_id="listMessages",
        summary="List messages",
        operation_class=operations.LIST_MESSAGES,
        access=Scope.READ,
    )
    async def page(
        self,
        request: Call,
        session_id: FromPath[str],
        after: Seq = None,
        before: Seq = None,
        limit: Annotated[
            int, QueryParameter(ge=1, le=MESSAGES_MAX, description="The maximum number of items to return.")
        ] = 100,
        order: Annotated[
            Literal["asc", "desc"], QueryParameter(description="Whether the oldest or the newest message comes first.")
        ] = "asc",
    ) -> Answer:
        """Page through a session's messages in order of `seq`."""
        request.refuse_unknown_query("after", "before", "limit", "order")
        tenant = request.tenant()
        if request.has_condition() and request.has_version(version := await tenant.version(session_id)):
            return not_modified(version)
        found = await tenant.messages_page(
            session_id, after=after, before=before, limit=limit, newest_first=order == "desc"
        )
        more = b"true" if found.more else b"false"
        return Answer(b'{"data":[%b],"has_more":%b}' % (found.documents, more), version=found.version)

    @get(
        "/{message_id:str}",
        operation_id="getMessage",
        summary="Get a message",
        operation_class=operations.GET_MESSAGE,
        access=Scope.READ,
    )
    async def read(self, request: Call, session_id: FromPath[str], message_id: FromPath[str]) -> Answer:
        """Get one message of a session."""
        request.refuse_unknown_query()
        version, document = await request.tenant().message(session_id, message_id)
        if request.has_version(version):
            return not_modified(version)
        return Answer(document, version=version)

    @delete(
        "/{message_id:str}",
        operation_id="removeMessage",
        summary="Remove a message",
        status_code=200,
        operation_class=operations.REMOVE_MESSAGE,
        access=Scope.WRITE,
    )
    async def remove(self, request: Call, session_id: FromPath[str], message_id: FromPath[str]) -> Answer:
        """Hide a message from readers. The `seq` of the other messages does not change."""
        request.refuse_unknown_query()
        written = await request.tenant().write(
            session_id, RemoveMessage(message_id), size_bytes=0, expected_version=request.if_match()
        )
        return Answer(b"", status=204, version=written.version)


def _may_have_messages(body: bytes) -> bool:
    """A cheap look: only a body with this word in it, or with an escape that may spell it, can be a batch."""
    return b'messages"' in body or b"\\u" in body


def _read(body: bytes, settings: Settings) -> AppendMessages:
    may_be_batch = _may_have_messages(body)
    whole = _decode_whole(body, settings) if may_be_batch else None
    if whole is not None:
        return _accept_many(whole)
    many = may_be_batch and decode(_one_or_many, body).messages is not UNSET
    return _read_many(body, settings) if many else _read_one(body, settings)


def _decode_whole(body: bytes, settings: Settings) -> list[MessageInput] | None:
    """The messages of a batch that has nothing to refuse, decoded at once; None where it has to be seen piece by piece.

    Whatever is wrong with a body, and where, is said by the way that takes it apart.
    """
    if len(body) > min(settings.message_bytes_max, settings.batch_bytes_max):
        return None
    try:
        given = _batch.decode(body).messages
    except (msgspec.DecodeError, RecursionError):
        return None
    if not 0 < len(given) <= settings.batch_messages_max or may_nest_deeper(given, settings.json_depth_max):
        return None
    return given


def _read_one(body: bytes, settings: Settings) -> AppendMessages:
    check_message_size(len(body), settings)
    check_depth(body, depth_max=settings.json_depth_max)
    given = decode(_message, body)
    return AppendMessages((accept_message(given, field="$"),), named_ids([given]), single=True)


def _read_many(body: bytes, settings: Settings) -> AppendMessages:
    given = decode(_batch, body).messages
    if not given:
        raise InvalidRequest("Expected at least one message.", field="$.messages")
    check_batch(given, body, settings)
    check_depth(body, depth_max=settings.json_depth_max)
    return _accept_many(given)


def _accept_many(given: list[MessageInput]) -> AppendMessages:
    return AppendMessages(accept_messages(given, field="$.messages"), named_ids(given))
