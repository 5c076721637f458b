"""Problem documents (RFC 9457): the one place where errors get their HTTP status."""

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from litestar.exceptions import HTTPException

from chatledger.auth.rate_limits import Allowance
from chatledger.domain.validation import expected_one_of, shown
from chatledger.errors import (
    DomainError,
    Forbidden,
    MessageExists,
    Overloaded,
    RateLimited,
    RequestTimeout,
    Unauthenticated,
    VersionConflict,
)
from chatledger.http.query import choices_of
from chatledger.http.response import Answer

if TYPE_CHECKING:
    from litestar.connection import Request

log = structlog.get_logger("chatledger.api")

CONTENT_TYPE = b"application/problem+json"
URN = "urn:chatledger:problem:"

STATUS = {
    "invalid-request": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "not-found": 404,
    "method-not-allowed": 405,
    "request-timeout": 408,
    "session-exists": 409,
    "message-exists": 409,
    "rebuild-running": 409,
    "version-conflict": 412,
    "too-large": 413,
    "unsupported-media-type": 415,
    "idempotency-mismatch": 422,
    "rate-limited": 429,
    "internal-error": 500,
    "overloaded": 503,
    "outcome-unknown": 503,
    "erasure-pending": 503,
    "storage-full": 507,
}
"""Each problem's name and status (docs/http-api.md)."""

_NAME_OF_STATUS = {400: "invalid-request", 404: "not-found", 405: "method-not-allowed", 413: "too-large"}
_DETAIL_OF_STATUS = {
    404: "There is no such path.",
    405: "The method is not allowed on this path; see the Allow header.",
    413: "The request body is too large.",
}
_is_bound = re.compile(r"Expected `int` (>=|<=) (-?[0-9]{1,20})").fullmatch
_BOUNDS = {">=": "at least", "<=": "at most"}


def problem(
    name: str,
    detail: str,
    *,
    request_id: str,
    members: dict[str, str | int] | None = None,
    headers: list[tuple[bytes, bytes]] | None = None,
) -> Answer:
    """A problem document of the contract's *name*."""
    status = STATUS[name]
    body = {
        "type": URN + name,
        "title": name.replace("-", " ").capitalize(),
        "status": status,
        "detail": detail,
        "request_id": request_id,
        **(members or {}),
    }
    return Answer(msgspec.json.encode(body), status=status, headers=headers, content_type=CONTENT_TYPE)


def on_domain_error(request: "Request[Any, Any, Any]", error: DomainError) -> Answer:
    """The answer to a refusal."""
    headers = []
    if isinstance(error, Unauthenticated):
        headers.append((b"www-authenticate", b'Bearer realm="chatledger"'))
    elif isinstance(error, Forbidden) and error.scope is not None:
        # RFC 6750 section 3.1
        challenge = f'Bearer realm="chatledger", error="insufficient_scope", scope="{error.scope}"'
        headers.append((b"www-authenticate", challenge.encode()))
    elif isinstance(error, RequestTimeout):
        headers.append((b"connection", b"close"))  # RFC 9110 section 15.5.9: what is left of the body is not waited for
    elif isinstance(error, (VersionConflict, MessageExists)) and error.version:
        headers.append((b"etag", b'"%d"' % error.version))  # of a session that is there
    elif isinstance(error, RateLimited) and error.limit is not None:
        request.scope["state"]["allowance"] = Allowance(error.limit, 0, error.retry_after_s)
    if isinstance(error, (Overloaded, RateLimited)):
        headers.append((b"retry-after", b"%d" % error.retry_after_s))
    elif STATUS[error.name] in (503, 507):
        headers.append((b"retry-after", b"5"))
    return _refuse(request, error.name, str(error), error.members(), headers)


def on_http_exception(request: "Request[Any, Any, Any]", error: HTTPException) -> Answer:
    """The answer to what Litestar refuses: unknown paths, methods, parameters, bodies that are too large.

    Its own words are not shown: they would echo the query string.
    """
    status = error.status_code
    name = _NAME_OF_STATUS.get(status, "invalid-request" if status < HTTPStatus.INTERNAL_SERVER_ERROR else "")
    if not name:
        return on_fault(request, error)
    members: dict[str, str | int] = {}
    detail = _DETAIL_OF_STATUS.get(status, "The request is malformed.")
    if name == "invalid-request":
        members, detail = _parameter(request, error)
    headers = [(b"allow", _allowed(value)) for key, value in (error.headers or {}).items() if key.lower() == "allow"]
    return _refuse(request, name, detail, members, headers)


def _allowed(methods: str) -> bytes:
    """The value of Allow: Litestar's, in order, and HEAD, which is everywhere where GET is (`edge.py`)."""
    found = set(methods.split(", "))
    return ", ".join(sorted(found | {"HEAD"} if "GET" in found else found)).encode()


def _parameter(request: "Request[Any, Any, Any]", error: HTTPException) -> tuple[dict[str, str | int], str]:
    """Which parameter Litestar's validation found wrong, and what was expected of it."""
    extra = error.extra
    if not (isinstance(extra, list) and extra and isinstance(extra[0], dict) and "key" in extra[0]):
        return {}, "The request is malformed."
    name = str(extra[0]["key"]).partition(".")[0]
    given = str(request.query_params.get(name, ""))
    if choices := choices_of(request.scope["route_handler"]).get(name):
        return {"field": name}, f"{name}: {expected_one_of(choices, given)}"
    bound = _is_bound(str(extra[0].get("message")))
    limit = f" of {_BOUNDS[bound[1]]} {bound[2]}" if bound else ""
    return {"field": name}, f"{name}: expected a whole number{limit}; got {shown(given)}."


def on_fault(request: "Request[Any, Any, Any]", error: Exception) -> Answer:
    """The answer to an error that is ours: logged here, without a word of it to the client."""
    log.error("fault", request_id=_request_id(request), exc_info=error)
    return _refuse(request, "internal-error", "Internal error; the server's log has its details.")


def _refuse(
    request: "Request[Any, Any, Any]",
    name: str,
    detail: str,
    members: dict[str, str | int] | None = None,
    headers: list[tuple[bytes, bytes]] | None = None,
) -> Answer:
    request.scope["state"]["problem"] = name  # for the counter
    return problem(name, detail, request_id=_request_id(request), members=members, headers=headers)


def _request_id(request: "Request[Any, Any, Any]") -> str:
    return str(request.scope["state"].get("request_id", ""))
