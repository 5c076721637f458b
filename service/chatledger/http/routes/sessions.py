"""`/v1/sessions`: make, list, read, change, delete and fork sessions."""

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Annotated, Literal

import msgspec
from litestar import Controller, delete, get, patch, post
from litestar.params import FromPath, QueryParameter
from msgspec import UNSET, Raw, UnsetType

from chatledger.application.conversations import SessionView, Written
from chatledger.domain.access import Scope
from chatledger.domain.commands import CreateSession, DeleteSession, UpdateSession
from chatledger.domain.documents import join, session_document
from chatledger.domain.events import SessionChanges
from chatledger.domain.json_text import check_depth
from chatledger.domain.messages import (
    OWN_MEMBERS,
    MessageInput,
    accept_messages,
    accept_object,
    accept_session_id,
    accept_traits,
    check_session_size,
)
from chatledger.domain.session import NO_TRAITS, SessionState
from chatledger.domain.timestamps import parse_us
from chatledger.errors import InvalidRequest, TooLarge
from chatledger.http.openapi import operations
from chatledger.http.request import Call, check_message_size, decode, small_body_bytes_max
from chatledger.http.response import Answer, not_modified
from chatledger.settings import Settings
from chatledger_projections.sessions import NEWEST

MESSAGES_MAX = 1000
"""The contract's ceiling for `?messages=` and for a batch."""

Limit = Annotated[int, QueryParameter(ge=1, le=200, description="The maximum number of items to return.")]
Cursor = Annotated[str | None, QueryParameter(description="The `next_cursor` of the previous page.")]


class SessionInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/sessions`."""

    id: str | None = None
    user_id: str | None = None
    title: str | None = None
    traits: Raw | UnsetType = UNSET
    messages: list[MessageInput] = []


class ForkInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /v1/sessions/{id}/fork`."""

    id: str | None = None
    version: int | float | None = None
    title: str | None = None


TIME_CHARACTERS_MAX = 64
"""Longer than any RFC 3339 time is; nothing longer is looked at."""

_with_unencoded_plus = re.compile(r"(.{19,40}) ([0-9]{2}:[0-9]{2})").fullmatch


class _Texts(msgspec.Struct, frozen=True):
    messages: list[Raw] = []


_session = msgspec.json.Decoder(SessionInput)
_texts = msgspec.json.Decoder(_Texts)
_fork = msgspec.json.Decoder(ForkInput)
_changes = msgspec.json.Decoder(SessionChanges)


def check_batch(given: Sequence[MessageInput], body: bytes, settings: Settings) -> None:
    """Refuse the messages *given* in *body* if they are too many or too long.

    Raises:
        InvalidRequest: there are more than `batch_messages_max`.
        TooLarge: one of them is longer than a message may be, or several are longer than a batch of them.
    """
    if len(given) > settings.batch_messages_max:
        raise InvalidRequest(f"Expected at most {settings.batch_messages_max} messages.", field="$.messages")
    if len(body) <= min(settings.message_bytes_max, settings.batch_bytes_max):
        return
    sizes = [memoryview(text).nbytes for text in decode(_texts, body).messages]
    for size in sizes:
        check_message_size(size, settings)
    if len(sizes) > 1 and sum(sizes) > settings.batch_bytes_max:
        raise TooLarge("batch of messages", limit_bytes=settings.batch_bytes_max)


def _read(body: bytes, settings: Settings) -> SessionInput:
    given = decode(_session, body)
    check_batch(given.messages, body, settings)
    if given.traits is not UNSET and memoryview(given.traits).nbytes > small_body_bytes_max(settings):
        raise TooLarge(OWN_MEMBERS, limit_bytes=settings.session_bytes_max)
    check_depth(body, depth_max=settings.json_depth_max)
    return given


def _answer(written: Written, state: SessionState, *, status: int) -> Answer:
    headers = [(b"idempotency-replayed", b"true")] if written.replayed else []
    if status == HTTPStatus.CREATED:
        headers.append((b"location", b"/v1/sessions/" + state.session_id.encode()))
    return Answer(session_document(state), status=status, version=written.version, headers=headers)


def _shown(written: Written) -> SessionState:
    if written.state is None:
        raise AssertionError("a session that was just made or changed has a state")
    return written.state


def _with_messages(view: SessionView) -> bytes:
    earlier = b"true" if view.has_earlier else b"false"
    document = session_document(view.state)
    return b'%b,"messages":[%b],"has_earlier":%b}' % (document[:-1], view.messages, earlier)


class SessionsController(Controller):
    """Sessions."""

    path = "/v1/sessions"
    tags = ("Sessions",)

    @post(
        operation_id="createSession",
        summary="Create a session",
        operation_class=operations.CREATE_SESSION,
        access=Scope.WRITE,
    )
    async def create(self, request: Call) -> Answer:
        """Create a session, optionally with its first messages."""
        request.refuse_unknown_query()
        tenant, body = request.tenant(), await request.json_text()
        key, expected = request.idempotency_key(body), request.if_match()
        given = _read(body, request.settings)
        messages = accept_messages(given.messages, field="$.messages")
        command = CreateSession(
            user_id=tenant.owner(given.user_id),
            title=given.title,
            traits=accept_traits(given.traits),
            messages=messages,
        )
        check_session_size(request.settings, title=command.title, user_id=command.user_id, traits=command.traits)
        written = await tenant.write(
            accept_session_id(given.id),
            command,
            size_bytes=len(body),
            expected_version=expected,
            idempotency_key=key,
        )
        return _answer(written, _shown(written), status=201)

    @get(
        operation_id="listSessions",
        summary="List sessions",
        operation_class=operations.LIST_SESSIONS,
        access=Scope.READ,
    )
    async def page(
        self,
        request: Call,
        user_id: Annotated[str | None, QueryParameter(description="Return only this user's sessions.")] = None,
        archived: Annotated[
            Literal["true", "false"] | None,
            QueryParameter(description="Return only archived sessions, or only those that are not."),
        ] = None,
        limit: Limit = 50,
        cursor: Cursor = None,
    ) -> Answer:
        """List sessions, the most recently active first, without their messages."""
        request.refuse_unknown_query("user_id", "archived", "limit", "cursor")
        tenant, cursors = request.tenant(), request.services.cursors
        bound_to = ("sessions", tenant.tenant_id, tenant.user_id, user_id, archived)
        found = await tenant.sessions_page(
            user_id=user_id,
            archived=None if archived is None else archived == "true",
            before_position=NEWEST if cursor is None else cursors.read(cursor, *bound_to),
            limit=limit + 1,
        )
        shown = found[:limit]
        next_cursor = "null"
        if len(found) > limit:
            next_cursor = f'"{cursors.write(shown[-1].last_position, *bound_to)}"'
        documents = join([session_document(state) for state in shown])
        return Answer(b'{"data":%b,"next_cursor":%b}' % (documents, next_cursor.encode()))

    @get(
        "/{session_id:str}",
        operation_id="getSession",
        summary="Get a session",
        operation_class=operations.GET_SESSION,
        access=Scope.READ,
    )
    async def read(
        self,
        request: Call,
        session_id: FromPath[str],
        messages: Annotated[
            int | None, QueryParameter(ge=0, le=MESSAGES_MAX, description="Include this many of the newest messages.")
        ] = None,
        as_of_version: Annotated[
            int | None, QueryParameter(description="Return the session as it was at this version.")
        ] = None,
        as_of: Annotated[
            str | None, QueryParameter(description="Return the session as it was at this time (RFC 3339).")
        ] = None,
    ) -> Answer:
        """Get a session as it is now, or as it was at an earlier version or time."""
        request.refuse_unknown_query("messages", "as_of_version", "as_of")
        tenant, newest = request.tenant(), messages or 0
        if as_of_version is not None and as_of is not None:
            raise InvalidRequest("as_of and as_of_version cannot be given together.", field="as_of")
        if as_of_version is None and as_of is None:
            if request.has_condition() and request.has_version(now := await tenant.version(session_id)):
                return not_modified(now)
            view = await tenant.session(session_id, newest=newest)
        else:
            time_us = None if as_of is None else _time(as_of)
            view = await tenant.session_as_of(session_id, newest=newest, version=as_of_version, time_us=time_us)
        version = view.state.version
        if request.has_version(version):
            return not_modified(version)
        document = session_document(view.state) if messages is None else _with_messages(view)
        return Answer(document, version=version)

    @patch(
        "/{session_id:str}",
        operation_id="updateSession",
        summary="Update a session",
        operation_class=operations.UPDATE_SESSION,
        access=Scope.WRITE,
    )
    async def update(self, request: Call, session_id: FromPath[str]) -> Answer:
        """Change a session's title, user_id, traits or archived, with a JSON merge patch (RFC 7396)."""
        request.refuse_unknown_query()
        tenant, body = request.tenant(), await request.json_body()
        changes = decode(_changes, body)
        tenant.check_owner(changes.user_id)
        if changes.traits is not UNSET:
            traits = accept_object(changes.traits, field="$.traits")
            changes = msgspec.structs.replace(changes, traits=traits)

        def check(after: SessionState) -> None:
            check_session_size(request.settings, title=after.title, user_id=after.user_id, traits=after.traits)

        written = await tenant.write(
            session_id,
            UpdateSession(changes, check),
            size_bytes=len(body),
            expected_version=request.if_match(),
        )
        return _answer(written, _shown(written), status=200)

    @delete(
        "/{session_id:str}",
        operation_id="deleteSession",
        summary="Delete a session",
        status_code=200,
        operation_class=operations.DELETE_SESSION,
        access=Scope.WRITE,
    )
    async def remove(self, request: Call, session_id: FromPath[str]) -> Answer:
        """Hide a session from readers. Its events are kept for audit, and its id stays taken."""
        request.refuse_unknown_query()
        written = await request.tenant().write(
            session_id, DeleteSession(), size_bytes=0, expected_version=request.if_match()
        )
        return Answer(b"", status=204, version=written.version)

    @post(
        "/{session_id:str}/fork",
        operation_id="forkSession",
        summary="Fork a session",
        operation_class=operations.FORK_SESSION,
        access=Scope.WRITE,
    )
    async def fork(self, request: Call, session_id: FromPath[str]) -> Answer:
        """Create a session with copies of this session's messages as of a version, by default the current one."""
        request.refuse_unknown_query()
        tenant, body = request.tenant(), await request.json_body()
        key, expected = request.idempotency_key(body), request.if_match()
        given = decode(_fork, body)
        if key is not None:
            # Before the source is read: it may be gone by the time of a retry.
            before = await tenant.replayed(key)
            if before is not None:
                return _answer(before, _shown(before), status=201)
        plan = await tenant.plan_fork(session_id, version=_whole(given.version), title=given.title)
        check_session_size(
            request.settings,
            title=plan.created.title,
            user_id=plan.created.user_id,
            traits=NO_TRAITS if plan.created.traits is UNSET else plan.created.traits,
        )
        written = await tenant.fork(
            accept_session_id(given.id), plan, size_bytes=len(body), expected_version=expected, idempotency_key=key
        )
        return _answer(written, _shown(written), status=201)


def _whole(number: float | None) -> int | None:
    """An integer in JSON Schema's sense, where 3.0 is one too (JSON Schema Core section 4.2.2)."""
    if number is None or isinstance(number, int):
        return number
    if not number.is_integer():
        raise InvalidRequest("Expected a whole number.", field="$.version")
    return int(number)


def _time(text: str) -> int:
    # A `+` that was not percent-encoded arrives as a space: 12:00:00+02:00.
    parts = _with_unencoded_plus(text) if len(text) <= TIME_CHARACTERS_MAX else None
    try:
        return parse_us(f"{parts[1]}+{parts[2]}" if parts else text)
    except ValueError as error:
        raise InvalidRequest(f"Not a time: {error}.", field="as_of") from None
