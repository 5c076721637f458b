"""The event listings: a session's full history, and a tenant's events in ledger order."""

from typing import Annotated, Literal

from litestar import get
from litestar.params import FromPath, QueryParameter

from chatledger.application.audit import EventPage
from chatledger.domain.access import Scope
from chatledger.domain.documents import join
from chatledger.errors import InvalidRequest
from chatledger.http.openapi import operations
from chatledger.http.request import Call
from chatledger.http.response import Answer, not_modified
from chatledger.http.routes.sessions import Cursor, Limit

EventType = Literal[
    "session.created",
    "message.appended",
    "session.updated",
    "message.removed",
    "session.deleted",
    "session.erased",
    "key.created",
    "key.revoked",
]
Place = Annotated[
    int,
    QueryParameter(
        ge=0, le=2**53, description="Return only events after this version of the session, or position of the ledger."
    ),
]


@get(
    "/v1/sessions/{session_id:str}/events",
    operation_id="listSessionEvents",
    summary="List the events of a session",
    operation_class=operations.LIST_SESSION_EVENTS,
    access=Scope.AUDIT,
    tags=("Audit",),
)
async def list_session_events(
    request: Call, session_id: FromPath[str], after: Place = 0, limit: Limit = 50, cursor: Cursor = None
) -> Answer:
    """List a session's full history, also after it was deleted."""
    request.refuse_unknown_query("after", "limit", "cursor")
    tenant = request.audit()
    bound_to = ("session-events", tenant.tenant_id, session_id)
    page = await tenant.session_events(session_id, after=_start(request, after, cursor, bound_to), limit=limit)
    if request.has_version(page.version):
        return not_modified(page.version)
    return Answer(_page(request, page, bound_to), version=page.version)


@get(
    "/v1/events",
    operation_id="listEvents",
    summary="List the events of the tenant",
    operation_class=operations.LIST_EVENTS,
    access=Scope.AUDIT,
    tags=("Audit",),
)
async def list_events(
    request: Call,
    after: Place = 0,
    limit: Limit = 50,
    type: Annotated[EventType | None, QueryParameter(description="Return only events of this type.")] = None,  # noqa: A002
    cursor: Cursor = None,
) -> Answer:
    """List the tenant's events in ledger order."""
    request.refuse_unknown_query("after", "limit", "type", "cursor")
    tenant = request.audit()
    bound_to = ("events", tenant.tenant_id, type)
    page = await tenant.events(after=_start(request, after, cursor, bound_to), limit=limit, event_type=type)
    return Answer(_page(request, page, bound_to))


def _start(request: Call, after: int, cursor: str | None, bound_to: tuple[str | None, ...]) -> int:
    if cursor is None:
        return after
    if after:
        raise InvalidRequest("after and cursor cannot be given together.", field="cursor")
    return request.services.cursors.read(cursor, *bound_to)


def _page(request: Call, page: EventPage, bound_to: tuple[str | None, ...]) -> bytes:
    cursor = b"null"
    if page.has_more:
        cursor = b'"%b"' % request.services.cursors.write(page.last, *bound_to).encode()
    more = b"true" if page.has_more else b"false"
    return b'{"data":%b,"has_more":%b,"next_cursor":%b}' % (join(page.events), more, cursor)
