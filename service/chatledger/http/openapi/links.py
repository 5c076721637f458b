"""The links of the OpenAPI document: which members of an answer are what other operations take.

Tests that make up requests follow them (`tests/http/test_schemathesis.py`); so can any client.
See the Link Object, <https://spec.openapis.org/oas/v3.1.0#link-object>.
"""

from collections.abc import Iterable

from litestar.openapi.spec import Link

_ABOUT_A_SESSION = (
    *("getSession", "updateSession", "deleteSession", "forkSession", "appendMessages", "listMessages"),
    *("listSessionEvents", "getSessionProof", "eraseSession"),
)
_ERASED = ("getErasure", "listSessionEvents", "getSessionProof")
_STAYS_AFTER_DELETION = ("listSessionEvents", "getSessionProof", "eraseSession")
_TAKES_IF_MATCH = frozenset({"updateSession", "deleteSession", "forkSession", "appendMessages", "eraseSession"})

_NEW = "$response.body#/id"
_FIRST = "$response.body#/data/0/id"
_SAME_SESSION = "$request.path.session_id"


def _sessions(operations: Iterable[str], session_id: str) -> dict[str, Link]:
    links = {}
    for operation in operations:
        parameters = {"session_id": session_id}
        if operation in _TAKES_IF_MATCH:
            parameters["header.If-Match"] = "$response.header.ETag"
        links[operation] = Link(operation_id=operation, parameters=parameters)
    return links


def _messages(message_id: str, *, suffix: str = "") -> dict[str, Link]:
    parameters = {"session_id": _SAME_SESSION, "message_id": message_id}
    return {
        operation + suffix: Link(operation_id=operation, parameters=parameters)
        for operation in ("getMessage", "removeMessage")
    }


def _next_page(operation: str, *same: str) -> dict[str, Link]:
    parameters = {"cursor": "$response.body#/next_cursor"}
    for name in same:
        parameters[name] = _SAME_SESSION if name == "session_id" else f"$request.query.{name}"
    return {"nextPage": Link(operation_id=operation, parameters=parameters)}


_LINKS: dict[tuple[str, int], dict[str, Link]] = {
    ("createSession", 201): _sessions(_ABOUT_A_SESSION, _NEW),
    ("forkSession", 201): _sessions(_ABOUT_A_SESSION, _NEW),
    ("updateSession", 200): _sessions(_ABOUT_A_SESSION, _SAME_SESSION),
    ("deleteSession", 204): _sessions(_STAYS_AFTER_DELETION, _SAME_SESSION),
    ("eraseSession", 200): _sessions(_ERASED, _SAME_SESSION),
    ("listSessions", 200): _sessions(["getSession"], _FIRST) | _next_page("listSessions", "user_id", "archived"),
    ("appendMessages", 201): _messages(_NEW) | _messages(_FIRST, suffix="OfBatch"),
    ("listMessages", 200): _messages(_FIRST),
    ("listSessionEvents", 200): _next_page("listSessionEvents", "session_id"),
    ("createKey", 201): {"revokeKey": Link(operation_id="revokeKey", parameters={"key_id": _NEW})},
    ("listKeys", 200): _next_page("listKeys"),
    ("listEvents", 200): _next_page("listEvents", "type"),
}


def links_of(operation_id: str | None, status: int) -> dict[str, Link] | None:
    """What the answer with *status* of an operation leads to, if to anything."""
    return None if operation_id is None else _LINKS.get((operation_id, status))
