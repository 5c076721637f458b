"""`POST /v1/sessions/{id}/erase`: a session's content is gone for good; that it was there, and who erased it, stays."""

import msgspec
from litestar import get, post
from litestar.params import FromPath

from chatledger.domain.access import Scope
from chatledger.domain.timestamps import format_us
from chatledger.errors import InvalidRequest
from chatledger.http.openapi import operations
from chatledger.http.request import Call, decode
from chatledger.http.response import Answer

REASON_CHARACTERS_MAX = 1000


class EraseInput(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body."""

    reason: str


class EraseDocument(msgspec.Struct, frozen=True):
    """The answer: what was erased, and where copies are."""

    session_id: str
    version: int
    events_erased: int
    forks: list[str]
    scrubbed: bool


class ErasureDocument(msgspec.Struct, frozen=True):
    """The answer to who asks how an erasure stands."""

    session_id: str
    version: int
    erased_at: str
    reason: str
    actor: str
    events: int
    scrubbed: bool
    scrub_by: str | None


_erase = msgspec.json.Decoder(EraseInput)


@post(
    "/v1/sessions/{session_id:str}/erase",
    operation_id="eraseSession",
    summary="Erase a session",
    operation_class=operations.ERASE_SESSION,
    access=Scope.ERASE,
    status_code=200,
    tags=("Audit",),
)
async def erase_session(request: Call, session_id: FromPath[str]) -> Answer:
    """Remove the content of a session permanently, also of a deleted one. Its events stay, without their content."""
    request.refuse_unknown_query()
    tenant, body = request.tenant(), await request.json_body()
    key, expected = request.idempotency_key(body), request.if_match()
    reason = decode(_erase, body).reason
    if not 1 <= len(reason) <= REASON_CHARACTERS_MAX:
        raise InvalidRequest(f"Expected 1 to {REASON_CHARACTERS_MAX} characters.", field="$.reason")
    erased = await tenant.erase(
        session_id, reason, size_bytes=len(body), expected_version=expected, idempotency_key=key
    )
    found = erased.erasure
    document = EraseDocument(session_id, found.version, found.events, erased.forks, found.scrubbed)
    headers = [(b"idempotency-replayed", b"true")] if erased.replayed else []
    return Answer(msgspec.json.encode(document), version=found.version, headers=headers)


@get(
    "/v1/sessions/{session_id:str}/erasure",
    operation_id="getErasure",
    summary="Get an erasure",
    operation_class=operations.GET_ERASURE,
    access=Scope.ERASE,
    tags=("Audit",),
)
async def show_erasure(request: Call, session_id: FromPath[str]) -> Answer:
    """Get when, why and by whom a session was erased, and whether copies of its content may still be in a file."""
    request.refuse_unknown_query()
    found = await request.tenant().erasure(session_id)
    document = ErasureDocument(
        session_id=session_id,
        version=found.version,
        erased_at=format_us(found.erased_at_us),
        reason=found.reason,
        actor=found.actor,
        events=found.events,
        scrubbed=found.scrubbed,
        scrub_by=None if found.scrubbed else format_us(found.scrub_by_us),
    )
    return Answer(msgspec.json.encode(document), version=found.version)
