"""The OpenAPI 3.1 document: what each operation takes and answers. Tests hold the answers against it.

Paths and parameters come from the handlers' own declarations; bodies and answers are described here, because the
handlers read and write bytes.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from litestar.openapi.spec import (
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    Reference,
    RequestBody,
)
from litestar.openapi.spec import Parameter as ParameterSpec

from service.api.problems import STATUS, URN
from service.ids import ID_PATTERN, IDEMPOTENCY_KEY_PATTERN, REQUEST_ID_PATTERN

JsonSchema = dict[str, Any]

_TIME: JsonSchema = {"type": "string", "format": "date-time", "examples": ["2026-05-15T15:00:00.000000Z"]}
_ID: JsonSchema = {"type": "string", "pattern": ID_PATTERN}
_TEXT: JsonSchema = {"type": "string"}
_TEXT_OR_NULL: JsonSchema = {"type": ["string", "null"]}
_VERSION: JsonSchema = {"type": "integer", "minimum": 1}
_OBJECT: JsonSchema = {"type": "object"}
_OBJECT_OR_NULL: JsonSchema = {"type": ["object", "null"]}
_OBJECTS_OR_NULL: JsonSchema = {"type": ["array", "null"], "items": {"type": "object"}}


def _ref(name: str) -> JsonSchema:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: JsonSchema, required: tuple[str, ...] = (), **more: Any) -> JsonSchema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
        **more,
    }


_CONTENT: JsonSchema = {
    "description": "Text, null, or content parts.",
    "oneOf": [
        {"type": "string"},
        {"type": "null"},
        {"type": "array", "items": {"type": "object", "properties": {"type": _TEXT}, "required": ["type"]}},
    ],
}
_MESSAGE_FIELDS: JsonSchema = {
    "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
    "content": _CONTENT,
    "name": _TEXT_OR_NULL,
    "tool_calls": _OBJECTS_OR_NULL,
    "tool_call_id": _TEXT_OR_NULL,
    "parent_id": {"type": ["string", "null"], "description": "An earlier message of the same session."},
    "metadata": _OBJECT_OR_NULL,
    "refusal": _TEXT_OR_NULL,
    "audio": _OBJECT_OR_NULL,
    "function_call": _OBJECT_OR_NULL,
    "annotations": _OBJECTS_OR_NULL,
}
_MESSAGE_EXAMPLE = {"id": "m-1", "role": "user", "content": "Hello"}

SCHEMAS: dict[str, JsonSchema] = {
    "MessageInput": _object(
        {
            **_MESSAGE_FIELDS,
            "id": {"type": ["string", "null"], "pattern": ID_PATTERN},
            "created_at": {"type": ["string", "null"], "format": "date-time"},
        },
        ("role",),
        description="A message in the OpenAI chat-completions form. `content` may be left out only beside an "
        "assistant's tool_calls, function_call, audio or refusal.",
        anyOf=[
            {"required": ["content"]},
            *(
                {"properties": {"role": {"const": "assistant"}}, "required": [name]}
                for name in ("tool_calls", "function_call", "audio", "refusal")
            ),
        ],
        examples=[_MESSAGE_EXAMPLE],
    ),
    "MessageBatch": _object(
        {"messages": {"type": "array", "items": _ref("MessageInput"), "minItems": 1, "maxItems": 1000}},
        ("messages",),
        examples=[{"messages": [_MESSAGE_EXAMPLE, {"role": "assistant", "content": "Hi, how can I help?"}]}],
    ),
    "Message": _object(
        {**_MESSAGE_FIELDS, "id": _ID, "session_id": _ID, "seq": _VERSION, "created_at": _TIME},
        ("id", "session_id", "seq", "role", "created_at"),
        examples=[{**_MESSAGE_EXAMPLE, "session_id": "s-1", "seq": 1, "created_at": "2026-05-15T15:00:00.000000Z"}],
    ),
    "SessionInput": _object(
        {
            "id": {"type": ["string", "null"], "pattern": ID_PATTERN},
            "user_id": _TEXT_OR_NULL,
            "title": _TEXT_OR_NULL,
            "traits": _OBJECT_OR_NULL,
            "messages": {"type": "array", "items": _ref("MessageInput"), "maxItems": 1000},
        },
        examples=[{"id": "s-1", "user_id": "u-1", "traits": {"lang": "en"}}],
    ),
    "SessionChanges": _object(
        {
            "title": _TEXT_OR_NULL,
            "user_id": _TEXT_OR_NULL,
            "traits": _OBJECT_OR_NULL,
            "archived": {"type": ["boolean", "null"]},
        },
        description="A JSON merge patch (RFC 7396): null takes a member back to its default.",
        examples=[{"title": "Flight to Oslo", "traits": {"lang": "no"}}],
    ),
    "ForkInput": _object(
        {
            "id": {"type": ["string", "null"], "pattern": ID_PATTERN},
            "version": {"type": ["integer", "null"], "minimum": 1},
            "title": _TEXT_OR_NULL,
        },
        examples=[{"id": "s-2", "version": 3}],
    ),
    "Session": _object(
        {
            "id": _ID,
            "tenant_id": _ID,
            "user_id": _TEXT_OR_NULL,
            "title": _TEXT_OR_NULL,
            "traits": _OBJECT,
            "archived": {"type": "boolean"},
            "version": _VERSION,
            "message_count": {"type": "integer", "minimum": 0},
            "created_at": _TIME,
            "updated_at": _TIME,
            "last_message_at": {"type": ["string", "null"], "format": "date-time"},
            "forked_from": _object({"session_id": _ID, "version": _VERSION}, ("session_id", "version")),
            "messages": {"type": "array", "items": _ref("Message"), "description": "Only with `?messages=`."},
            "has_earlier": {"type": "boolean", "description": "Only with `?messages=`."},
        },
        (
            "id",
            "tenant_id",
            "user_id",
            "title",
            "traits",
            "archived",
            "version",
            "message_count",
            "created_at",
            "updated_at",
            "last_message_at",
        ),
    ),
    "Event": _object(
        {
            "position": _VERSION,
            "type": _TEXT,
            "schema": _VERSION,
            "tenant_id": _ID,
            "session_id": _ID,
            "version": _VERSION,
            "recorded_at": _TIME,
            "actor": _TEXT,
            "request_id": _TEXT_OR_NULL,
            "data": {"type": ["object", "null"], "description": "Null once erased."},
            "leaf": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
            "erased": {"const": True},
        },
        (
            "position",
            "type",
            "schema",
            "tenant_id",
            "session_id",
            "version",
            "recorded_at",
            "actor",
            "request_id",
            "data",
            "leaf",
        ),
    ),
    "SessionPage": _object(
        {"data": {"type": "array", "items": _ref("Session")}, "next_cursor": _TEXT_OR_NULL},
        ("data", "next_cursor"),
    ),
    "MessagePage": _object(
        {"data": {"type": "array", "items": _ref("Message")}, "has_more": {"type": "boolean"}},
        ("data", "has_more"),
    ),
    "MessageList": _object({"data": {"type": "array", "items": _ref("Message")}}, ("data",)),
    "EventPage": _object(
        {
            "data": {"type": "array", "items": _ref("Event")},
            "has_more": {"type": "boolean"},
            "next_cursor": _TEXT_OR_NULL,
        },
        ("data", "has_more", "next_cursor"),
    ),
    "Health": _object({"status": _TEXT, "checks": {"type": "object", "additionalProperties": _TEXT}}, ("status",)),
    "Problem": {
        "type": "object",
        "description": "RFC 9457. `type` is " + URN + "<name>.",
        "properties": {
            "type": {"enum": [URN + name for name in STATUS]},
            "title": _TEXT,
            "status": {"type": "integer"},
            "detail": _TEXT,
            "request_id": _TEXT,
            "field": {"type": "string", "description": "Which member, parameter or header is wrong."},
            "expected_version": {"type": "integer"},
            "actual_version": {"type": "integer"},
            "session_id": _TEXT,
            "message_id": _TEXT,
            "limit_bytes": {"type": "integer"},
        },
        "required": ["type", "title", "status", "detail", "request_id"],
        "examples": [
            {
                "type": URN + "not-found",
                "title": "Not found",
                "status": 404,
                "detail": "No such session.",
                "request_id": "0190a0b0-7c1d-7000-8000-000000000000",
            }
        ],
    },
}

_REQUEST_HEADERS = {
    "X-Tenant-Id": (_ID, "The tenant, while the service is open. Default: `default`."),
    "X-Request-Id": (
        {"type": "string", "pattern": REQUEST_ID_PATTERN},
        "Taken over if it is 1 to 128 visible ASCII characters; else the service makes one.",
    ),
    "If-Match": (_TEXT, 'The version that the session has to be at, as `"3"`, or `*`.'),
    "If-None-Match": (_TEXT, "An ETag that the client has: 304 if it is still current."),
    "Idempotency-Key": (
        {"type": "string", "pattern": IDEMPOTENCY_KEY_PATTERN},
        "The same key with the same request gives the first answer again; with another request, 422.",
    ),
}
_ETAG = OpenAPIHeader(schema={"type": "string"}, description="The session's version.")  # type: ignore[arg-type]
_ANY_FAULT = ("internal-error", "overloaded")
_WRITE_FAULTS = ("outcome-unknown", "storage-full")


@dataclass
class Described(Operation):
    """An operation whose body and answers are ours to describe. Subclasses are made by `_describe`."""

    described: ClassVar[dict[str, Any]] = {}

    def __post_init__(self) -> None:
        """Fill in what the handler's signature does not say."""
        described = self.described
        self.responses = _responses(described)
        self.request_body = _request_body(described["body"], required=described["body_required"])
        headers = [_header_parameter(name) for name in ("X-Request-Id", *described["headers"])]
        self.parameters = [*(self.parameters or []), *headers]
        for parameter in self.parameters:
            if isinstance(parameter, ParameterSpec) and parameter.param_in == "path":
                parameter.schema = _ID  # type: ignore[assignment]


def _responses(described: dict[str, Any]) -> dict[str, OpenAPIResponse | Reference]:
    responses: dict[str, OpenAPIResponse | Reference] = {}
    headers = {"X-Request-Id": OpenAPIHeader(schema=_TEXT)}  # type: ignore[arg-type]
    for status, schema in described["answers"].items():
        own = dict(headers)
        if described["about_session"]:
            own["ETag"] = _ETAG
        responses[str(status)] = OpenAPIResponse(
            description=_DESCRIPTIONS.get(status, "The answer."),
            headers=own,  # type: ignore[arg-type]
            content=_content(schema),
        )
    by_status: dict[int, list[str]] = {}
    for name in (*described["problems"], *_ANY_FAULT):
        by_status.setdefault(STATUS[name], []).append(name)
    for status, names in sorted(by_status.items()):
        if str(status) in responses:
            continue
        responses[str(status)] = OpenAPIResponse(
            description="Problem: " + ", ".join(names) + ".",
            headers=dict(headers),
            content={
                "application/problem+json": OpenAPIMediaType(schema=Reference(ref="#/components/schemas/Problem"))
            },
        )
    return responses


_DESCRIPTIONS = {
    200: "The answer.",
    201: "Made, durable and readable.",
    204: "Done.",
    304: "The client has this version already.",
    503: "Not ready, and what of it.",
}


def _content(schema: str) -> dict[str, OpenAPIMediaType] | None:
    if not schema:
        return None
    if schema == "text":
        return {"text/plain": OpenAPIMediaType(schema={"type": "string"})}  # type: ignore[arg-type]
    alternatives = schema.split("|")
    found = _ref(schema) if len(alternatives) == 1 else {"oneOf": [_ref(name) for name in alternatives]}
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
) -> type[Operation]:
    described = {
        "answers": answers,
        "problems": problems,
        "headers": headers,
        "body": body,
        "body_required": body_required,
        "about_session": about_session,
    }
    return dataclass(type("Described", (Described,), {"described": described}))


_WRITE = ("invalid-request", "not-found", "version-conflict", *_WRITE_FAULTS)
_BODY = ("too-large", "unsupported-media-type")

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
LIVE = _describe(answers={200: "Health"}, headers=())
READY = _describe(answers={200: "Health", 503: "Health"}, headers=())
METRICS = _describe(answers={200: "text"}, headers=())
