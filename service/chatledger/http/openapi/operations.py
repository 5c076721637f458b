"""The OpenAPI 3.1 document: what each operation takes and answers. Tests hold the answers against it.

Paths and parameters come from the handlers' own declarations; bodies and answers are described here, because the
handlers read and write bytes.
"""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar

from litestar.openapi.spec import (
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    Reference,
    RequestBody,
    Schema,
)
from litestar.openapi.spec import Parameter as ParameterSpec

from chatledger.domain.ids import IDEMPOTENCY_KEY_PATTERN
from chatledger.http.openapi.links import links_of
from chatledger.http.openapi.schemas import CURSOR, HEADER, ID, TEXT, JsonSchema, ref
from chatledger.http.problems import STATUS

DESCRIPTION = """\
chatledger is the system of record for chat: sessions and messages, kept as an append-only, verifiable log of events.

- Send `Authorization: Bearer <API key or user token>`. None is needed while there are neither keys nor user tokens.
- Answers about a session have its version as `ETag`; send it as `If-Match` to change only what you have seen.
- Send an `Idempotency-Key` with a POST to repeat it safely.
- Errors are problem documents (RFC 9457) with a stable `type`.

The whole contract is the page `docs/http-api.md` of chatledger's documentation; operating the service is in
`docs/operations/`, proofs in `docs/ledger-format.md`.
"""

_REQUEST_HEADERS = {
    "X-Tenant-Id": (ID, "The tenant, where the credential has none. Default: `default`."),
    "X-Request-Id": (
        HEADER,  # any other is no fault of the request
        "Used if it is 1 to 128 visible ASCII characters; else the service makes one.",
    ),
    "If-Match": (
        {"type": "string", "pattern": r'^(\*|"(0|[1-9][0-9]{0,17})")$', "examples": ['"3"', "*"]},
        'The version that the session has to be at, as `"3"`, or `*`.',
    ),
    "If-None-Match": (HEADER, "An ETag that the client has: 304 if it is still current."),
    "Idempotency-Key": (
        {"type": "string", "pattern": IDEMPOTENCY_KEY_PATTERN},
        "The same key with the same request gives the first answer again; with another request, 422.",
    ),
}
# What the handlers' declarations do not say, or what Litestar loses of them: a `ge=0` of what may be left out.
_QUERY_PARAMETERS: dict[str, JsonSchema] = {
    "after": {"minimum": 0},
    "as_of": {"format": "date-time"},
    "as_of_version": {"minimum": 0, "maximum": 10**16 - 1},
    "before": {"minimum": 0},
    "cursor": CURSOR,
    "messages": {"minimum": 0},
    "user_id": TEXT,
}


_PATH_PARAMETERS: dict[str, JsonSchema] = {
    "level": {
        "type": "string",
        "pattern": "^(entries|[0-9]|[1-5][0-9]|6[0-3])$",
        "description": "The level of hashes, 0 to 63, or `entries`.",
        "examples": ["0"],
    },
    "place": {
        "type": "string",
        "pattern": "^(x[0-9]{3}/){0,4}[0-9]{3}([.]p/[1-9][0-9]{0,2})?$",
        "description": "The number of the tile in groups of three digits, as in `x001/234`, and the width of a partial "
        "one, as in `000.p/17`. Its slashes are not percent-encoded.",
        "examples": ["000"],
    },
}


def _header(schema: JsonSchema, description: str = "", *, required: bool = True) -> OpenAPIHeader:
    # A JSON Schema as it is, here and below.
    return OpenAPIHeader(schema=schema, description=description or None, required=required)  # type: ignore[arg-type]


_ANY_ANSWER = {"X-Request-Id": _header(HEADER)}
_ETAG = _header({"type": "string", "pattern": '^"[0-9]+"$'}, "The session's version.")
_ETAG_IF_KNOWN = _header({"type": "string", "pattern": '^"[0-9]+"$'}, "The session's version.", required=False)
_LOCATION = _header({"type": "string", "format": "uri-reference"}, "The path of the new session.")
_REPLAYED = _header(
    {"const": "true"},
    "Present where this is the response to the first request with this Idempotency-Key.",
    required=False,
)
_RETRY_AFTER = _header({"type": "string", "pattern": "^[0-9]+$"}, "Seconds.")
_ALWAYS_RETRY_AFTER = frozenset({429, 503, 507})
_WITH_VERSION = frozenset({"version-conflict", "message-exists"})
_ANY_FAULT = ("internal-error", "overloaded")
_CALLER_FAULTS = ("unauthenticated", "forbidden", "rate-limited")
_WRITE_FAULTS = ("outcome-unknown", "storage-full")


@dataclass
class Described(Operation):
    """An operation whose body and answers are ours to describe. Subclasses are made by `_describe`."""

    described: ClassVar[dict[str, Any]] = {}

    def __post_init__(self) -> None:
        """Fill in what the handler's signature does not say."""
        described = self.described
        self.responses = _responses(described, self.operation_id)
        self.request_body = _request_body(described["body"], required=described["body_required"])
        headers = [_header_parameter(name) for name in ("X-Request-Id", *described["headers"])]
        self.parameters = [*(self.parameters or []), *headers]
        for parameter in self.parameters:
            if isinstance(parameter, ParameterSpec) and parameter.param_in in ("path", "query"):
                parameter.schema = _parameter_schema(parameter)  # type: ignore[assignment]


def _parameter_schema(parameter: ParameterSpec) -> JsonSchema:
    """What may stand in the URL: a value that is left out is no null there."""
    if parameter.param_in == "path":
        return _PATH_PARAMETERS.get(parameter.name, ID)
    if not isinstance(parameter.schema, Schema):
        raise TypeError(f"the parameter {parameter.name} has no schema")
    schema: JsonSchema = parameter.schema.to_schema()
    schema.pop("description", None)
    for value in schema.pop("oneOf", ()):
        if value["type"] != "null":
            schema.update(value)
    if isinstance(schema["type"], list):
        schema["type"] = next(name for name in schema["type"] if name != "null")
        schema["enum"] = [value for value in schema["enum"] if value is not None]
    return schema | _QUERY_PARAMETERS.get(parameter.name, {})


def _responses(described: dict[str, Any], operation_id: str | None) -> dict[str, OpenAPIResponse | Reference]:
    responses: dict[str, OpenAPIResponse | Reference] = {}
    for status, schema in described["answers"].items():
        own = dict(_ANY_ANSWER)
        if described["about_session"]:
            own["ETag"] = _ETAG
        if status == HTTPStatus.CREATED and schema == "Session":
            own["Location"] = _LOCATION
        if "Idempotency-Key" in described["headers"]:
            own["Idempotency-Replayed"] = _REPLAYED
        responses[str(status)] = OpenAPIResponse(
            description=_DESCRIPTIONS[status],
            headers=own,  # type: ignore[arg-type]
            content=_content(schema),
            links=links_of(operation_id, status),  # type: ignore[arg-type]
        )
    by_status: dict[int, list[str]] = {}
    for name in (*described["problems"], *described["caller_faults"], *_ANY_FAULT):
        by_status.setdefault(STATUS[name], []).append(name)
    for status, names in sorted(by_status.items()):
        if str(status) in responses:
            continue
        responses[str(status)] = OpenAPIResponse(
            description="Problem: " + ", ".join(names) + ".",
            headers=_problem_headers(names, about_session=described["about_session"]),  # type: ignore[arg-type]
            content={
                "application/problem+json": OpenAPIMediaType(schema=Reference(ref="#/components/schemas/Problem"))
            },
        )
    return responses


def _problem_headers(names: list[str], *, about_session: bool) -> dict[str, OpenAPIHeader]:
    headers = dict(_ANY_ANSWER)
    if any(STATUS[name] in _ALWAYS_RETRY_AFTER for name in names):
        headers["Retry-After"] = _RETRY_AFTER
    if about_session and _WITH_VERSION.intersection(names):
        headers["ETag"] = _ETAG_IF_KNOWN
    return headers


_DESCRIPTIONS = {
    200: "Success.",
    201: "Created: durable and readable.",
    202: "Started.",
    204: "Done.",
    304: "The client has this version already.",
    503: "Not ready; `checks` says why.",
}


_PLAIN_TYPES = {"text": "text/plain", "bytes": "application/octet-stream"}


def _content(schema: str) -> dict[str, OpenAPIMediaType] | None:
    if not schema:
        return None
    if schema in _PLAIN_TYPES:
        return {_PLAIN_TYPES[schema]: OpenAPIMediaType(schema={"type": "string"})}  # type: ignore[arg-type]
    alternatives = schema.split("|")
    found = ref(schema) if len(alternatives) == 1 else {"oneOf": [ref(name) for name in alternatives]}
    return {"application/json": OpenAPIMediaType(schema=found)}  # type: ignore[arg-type]


def _request_body(schema: str | None, *, required: bool) -> RequestBody | None:
    if schema is None:
        return None
    content = _content(schema)
    if content is None:
        return None
    if schema == "SessionChanges":
        content["application/merge-patch+json"] = content["application/json"]
    return RequestBody(content=content, required=required)


def _header_parameter(name: str) -> ParameterSpec:
    schema, description = _REQUEST_HEADERS[name]
    parameter = ParameterSpec(name=name, param_in="header", description=description, required=False)
    parameter.schema = schema  # type: ignore[assignment]  # a JSON Schema as it is
    return parameter


def _describe(
    *,
    answers: dict[int, str],
    problems: tuple[str, ...] = (),
    headers: tuple[str, ...] = ("X-Tenant-Id",),
    body: str | None = None,
    body_required: bool = True,
    about_session: bool = False,
    public: bool = False,
) -> type[Operation]:
    described = {
        "answers": answers,
        "problems": problems,
        "caller_faults": () if public else _CALLER_FAULTS,
        "headers": headers,
        "body": body,
        "body_required": body_required,
        "about_session": about_session,
    }
    return dataclass(type("Described", (Described,), {"described": described}))


_WRITE = ("invalid-request", "not-found", "version-conflict", *_WRITE_FAULTS)
_BODY = ("request-timeout", "too-large", "unsupported-media-type")

CREATE_SESSION = _describe(
    body="SessionInput",
    body_required=False,
    answers={201: "Session"},
    problems=(
        "invalid-request",
        "session-exists",
        "version-conflict",
        "idempotency-mismatch",
        *_BODY,
        *_WRITE_FAULTS,
    ),
    headers=("X-Tenant-Id", "Idempotency-Key", "If-Match"),
    about_session=True,
)
LIST_SESSIONS = _describe(answers={200: "SessionPage"}, problems=("invalid-request",))
GET_SESSION = _describe(
    answers={200: "Session", 304: ""},
    problems=("invalid-request", "not-found"),
    headers=("X-Tenant-Id", "If-None-Match"),
    about_session=True,
)
UPDATE_SESSION = _describe(
    body="SessionChanges",
    body_required=False,
    answers={200: "Session"},
    problems=(*_WRITE, *_BODY),
    headers=("X-Tenant-Id", "If-Match"),
    about_session=True,
)
DELETE_SESSION = _describe(answers={204: ""}, problems=_WRITE, headers=("X-Tenant-Id", "If-Match"), about_session=True)
FORK_SESSION = _describe(
    body="ForkInput",
    body_required=False,
    answers={201: "Session"},
    problems=(*_WRITE, "session-exists", "idempotency-mismatch", *_BODY),
    headers=("X-Tenant-Id", "Idempotency-Key", "If-Match"),
    about_session=True,
)
ERASE_SESSION = _describe(
    body="EraseInput",
    answers={200: "Erased"},
    problems=(*_WRITE, "idempotency-mismatch", "erasure-pending", *_BODY),
    headers=("X-Tenant-Id", "Idempotency-Key", "If-Match"),
    about_session=True,
)
GET_ERASURE = _describe(answers={200: "Erasure"}, problems=("invalid-request", "not-found"), about_session=True)
APPEND_MESSAGES = _describe(
    body="MessageInput|MessageBatch",
    answers={201: "Message|MessageList"},
    problems=(*_WRITE, "message-exists", "idempotency-mismatch", *_BODY),
    headers=("X-Tenant-Id", "Idempotency-Key", "If-Match"),
    about_session=True,
)
LIST_MESSAGES = _describe(
    answers={200: "MessagePage", 304: ""},
    problems=("invalid-request", "not-found"),
    headers=("X-Tenant-Id", "If-None-Match"),
    about_session=True,
)
GET_MESSAGE = _describe(
    answers={200: "Message", 304: ""},
    problems=("invalid-request", "not-found"),
    headers=("X-Tenant-Id", "If-None-Match"),
    about_session=True,
)
REMOVE_MESSAGE = DELETE_SESSION
LIST_SESSION_EVENTS = _describe(
    answers={200: "EventPage", 304: ""},
    problems=("invalid-request", "not-found"),
    headers=("X-Tenant-Id", "If-None-Match"),
    about_session=True,
)
LIST_EVENTS = _describe(answers={200: "EventPage"}, problems=("invalid-request",))
GET_SESSION_PROOF = _describe(
    answers={200: "ProofBundle", 304: ""},
    problems=("invalid-request", "not-found", "too-large"),
    headers=("X-Tenant-Id", "If-None-Match"),
    about_session=True,
)
GET_LEDGER_HEAD = _describe(answers={200: "LedgerHead"}, problems=("invalid-request",), headers=())
GET_CHECKPOINT = _describe(answers={200: "text"}, problems=("invalid-request",), headers=())
GET_TILE = _describe(answers={200: "bytes"}, problems=("invalid-request", "not-found"), headers=())
SHOW_PROJECTIONS = _describe(answers={200: "Projections"}, problems=("invalid-request",), headers=())
REBUILD_PROJECTIONS = _describe(
    answers={202: "Projections"}, problems=("invalid-request", "rebuild-running"), headers=()
)
CANCEL_REBUILD = _describe(answers={204: ""}, problems=("invalid-request",), headers=())
CREATE_KEY = _describe(
    body="KeyInput",
    answers={201: "Key"},
    problems=("invalid-request", "idempotency-mismatch", *_BODY, *_WRITE_FAULTS),
    headers=("Idempotency-Key",),
)
LIST_KEYS = _describe(answers={200: "KeyPage"}, problems=("invalid-request",), headers=())
REVOKE_KEY = _describe(answers={204: ""}, problems=("invalid-request", "not-found", *_WRITE_FAULTS), headers=())
LIVE = _describe(answers={200: "Health"}, headers=(), public=True)
READY = _describe(answers={200: "Health", 503: "Health"}, headers=(), public=True)
METRICS = _describe(answers={200: "text"}, headers=())
