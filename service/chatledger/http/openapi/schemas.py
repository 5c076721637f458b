"""The JSON Schemas of the OpenAPI document's components: what bodies and answers look like."""

from typing import Any

from chatledger.domain.access import TENANT_SCOPES, Scope
from chatledger.domain.ids import ID_PATTERN
from chatledger.http.problems import STATUS, URN

JsonSchema = dict[str, Any]

_TIME: JsonSchema = {"type": "string", "format": "date-time", "examples": ["2026-05-15T15:00:00.000000Z"]}
_TIME_OR_NULL: JsonSchema = {"type": ["string", "null"], "format": "date-time"}
ID: JsonSchema = {"type": "string", "pattern": ID_PATTERN}
HEADER: JsonSchema = {"type": "string"}
_NO_NUL = r"^[^\u0000]*$"
TEXT: JsonSchema = {"type": "string", "pattern": _NO_NUL}
CURSOR: JsonSchema = {"type": "string", "pattern": "^[A-Za-z0-9_-]{27}$"}
TEXT_OR_NULL: JsonSchema = {"type": ["string", "null"], "pattern": _NO_NUL}
_VERSION: JsonSchema = {"type": "integer", "minimum": 1}
_HASH: JsonSchema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_COUNT: JsonSchema = {"type": "integer", "minimum": 0}
# Members as one likes, and what holds for them however deep they are.
_FREE: JsonSchema = {
    "propertyNames": {"pattern": _NO_NUL},
    "additionalProperties": {"$ref": "#/components/schemas/Json"},
}
_OBJECT: JsonSchema = {"type": "object", **_FREE}
_OBJECT_OR_NULL: JsonSchema = {"type": ["object", "null"], **_FREE}
_OBJECTS_OR_NULL: JsonSchema = {"type": ["array", "null"], "items": _OBJECT}


def ref(name: str) -> JsonSchema:
    """A reference to the component *name*."""
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
        TEXT,
        {"type": "null"},
        {"type": "array", "items": {**_OBJECT, "properties": {"type": TEXT}, "required": ["type"]}},
    ],
}
_MESSAGE_FIELDS: JsonSchema = {
    "role": {"enum": ["system", "developer", "user", "assistant", "tool"]},
    "content": _CONTENT,
    "name": TEXT_OR_NULL,
    "tool_calls": _OBJECTS_OR_NULL,
    "tool_call_id": TEXT_OR_NULL,
    "parent_id": {
        "type": ["string", "null"],
        "pattern": ID_PATTERN,
        "description": "An earlier message of the same session.",
    },
    "metadata": _OBJECT_OR_NULL,
    "refusal": TEXT_OR_NULL,
    "audio": _OBJECT_OR_NULL,
    "function_call": _OBJECT_OR_NULL,
    "annotations": _OBJECTS_OR_NULL,
}
_SCRUBBED: JsonSchema = {
    "type": "boolean",
    "description": "Whether no file can have a copy any more; no read finds one in any case.",
}
_MESSAGE_EXAMPLE = {"id": "m-1", "role": "user", "content": "Hello"}

CREDENTIAL: JsonSchema = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key (`clk_…`), or a user's token. While there are neither, the service is open.",
}

SCHEMAS: dict[str, JsonSchema] = {
    "Json": {
        "description": "Any JSON value without the character NUL in a string or name, not nested deeper than 100.",
        "pattern": _NO_NUL,
        "items": ref("Json"),
        **_FREE,
    },
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
        {"messages": {"type": "array", "items": ref("MessageInput"), "minItems": 1, "maxItems": 1000}},
        ("messages",),
        examples=[{"messages": [_MESSAGE_EXAMPLE, {"role": "assistant", "content": "Hi, how can I help?"}]}],
    ),
    "Message": _object(
        {**_MESSAGE_FIELDS, "id": ID, "session_id": ID, "seq": _VERSION, "created_at": _TIME},
        ("id", "session_id", "seq", "role", "created_at"),
        examples=[{**_MESSAGE_EXAMPLE, "session_id": "s-1", "seq": 1, "created_at": "2026-05-15T15:00:00.000000Z"}],
    ),
    "SessionInput": _object(
        {
            "id": {"type": ["string", "null"], "pattern": ID_PATTERN},
            "user_id": TEXT_OR_NULL,
            "title": TEXT_OR_NULL,
            "traits": _OBJECT_OR_NULL,
            "messages": {"type": "array", "items": ref("MessageInput"), "maxItems": 1000},
        },
        examples=[{"id": "s-1", "user_id": "u-1", "traits": {"lang": "en"}}],
    ),
    "SessionChanges": _object(
        {
            "title": TEXT_OR_NULL,
            "user_id": TEXT_OR_NULL,
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
            "title": TEXT_OR_NULL,
        },
        examples=[{"id": "s-2", "version": 3}],
    ),
    "EraseInput": _object(
        {"reason": {**TEXT, "minLength": 1, "maxLength": 1000}},
        ("reason",),
        description="The reason stays in the session's history: keep personal data out of it.",
        examples=[{"reason": "Request 17 under article 17 GDPR"}],
    ),
    "Erased": _object(
        {
            "session_id": ID,
            "version": _VERSION,
            "events_erased": {"type": "integer", "minimum": 1},
            "forks": {"type": "array", "items": ID, "description": "Sessions that hold copies of it."},
            "scrubbed": _SCRUBBED,
        },
        ("session_id", "version", "events_erased", "forks", "scrubbed"),
    ),
    "Erasure": _object(
        {
            "session_id": ID,
            "version": _VERSION,
            "erased_at": _TIME,
            "reason": TEXT,
            "actor": TEXT,
            "events": {"type": "integer", "minimum": 1, "description": "How many lost their payloads."},
            "scrubbed": _SCRUBBED,
            "scrub_by": {**_TIME_OR_NULL, "description": "When that is so at the latest; null where it is."},
        },
        ("session_id", "version", "erased_at", "reason", "actor", "events", "scrubbed", "scrub_by"),
    ),
    "Session": _object(
        {
            "id": ID,
            "tenant_id": ID,
            "user_id": TEXT_OR_NULL,
            "title": TEXT_OR_NULL,
            "traits": _OBJECT,
            "archived": {"type": "boolean"},
            "version": _VERSION,
            "message_count": {"type": "integer", "minimum": 0},
            "created_at": _TIME,
            "updated_at": _TIME,
            "last_message_at": {"type": ["string", "null"], "format": "date-time"},
            "forked_from": _object({"session_id": ID, "version": _VERSION}, ("session_id", "version")),
            "messages": {"type": "array", "items": ref("Message"), "description": "Only with `?messages=`."},
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
            "type": TEXT,
            "schema": _VERSION,
            "tenant_id": ID,
            "session_id": ID,
            "version": _VERSION,
            "recorded_at": _TIME,
            "actor": TEXT,
            "request_id": TEXT_OR_NULL,
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
        {"data": {"type": "array", "items": ref("Session")}, "next_cursor": TEXT_OR_NULL},
        ("data", "next_cursor"),
    ),
    "MessagePage": _object(
        {"data": {"type": "array", "items": ref("Message")}, "has_more": {"type": "boolean"}},
        ("data", "has_more"),
    ),
    "MessageList": _object({"data": {"type": "array", "items": ref("Message")}}, ("data",)),
    "ProofBundle": _object(
        {
            "format": {"const": "chatledger-bundle-v1"},
            "public_key": TEXT,
            "checkpoint": {**TEXT, "description": "A C2SP tlog-checkpoint: the signed tree head."},
            "events": {"type": "array", "items": ref("ProvenEvent")},
        },
        ("format", "public_key", "checkpoint", "events"),
    ),
    "ProvenEvent": _object(
        {
            "actor": TEXT,
            "commitment": _HASH,
            "payload": {**TEXT_OR_NULL, "description": "The payload's bytes as text; null once erased."},
            "position": _VERSION,
            "proof": {"type": "array", "items": TEXT, "description": "The audit path, each hash in Base64."},
            "recorded_at": {"type": "integer", "description": "Microseconds since the epoch."},
            "request_id": TEXT_OR_NULL,
            "salt": {"type": ["string", "null"], "pattern": "^[0-9a-f]{32}$"},
            "schema": _VERSION,
            "session": ID,
            "tenant": TEXT,
            "type": TEXT,
            "version": _VERSION,
        },
        (
            *("actor", "commitment", "payload", "position", "proof", "recorded_at", "request_id", "salt", "schema"),
            *("session", "tenant", "type", "version"),
        ),
    ),
    "LedgerHead": _object(
        {
            "ledger_id": TEXT,
            "size": {"type": "integer", "minimum": 0},
            "root": _HASH,
            "checkpoint": {**TEXT, "description": "A C2SP tlog-checkpoint: the signed tree head."},
            "public_key": {**TEXT, "description": "The verifier key: name, key id and key of C2SP signed-note."},
        },
        ("ledger_id", "size", "root", "checkpoint", "public_key"),
    ),
    "EventPage": _object(
        {
            "data": {"type": "array", "items": ref("Event")},
            "has_more": {"type": "boolean"},
            "next_cursor": TEXT_OR_NULL,
        },
        ("data", "has_more", "next_cursor"),
    ),
    "KeyInput": _object(
        {
            "scopes": {"type": "array", "items": {"enum": [scope.value for scope in TENANT_SCOPES]}},
            "name": {
                "type": ["string", "null"],
                "minLength": 1,
                "maxLength": 200,
                "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$",
                "description": "Printable Unicode characters.",
            },
            "expires_at": {
                "type": ["string", "null"],
                "format": "date-time",
                "examples": ["2099-01-01T00:00:00Z"],
                "description": "Must be in the future.",
            },
            "tenant_id": {"type": ["string", "null"], "pattern": ID_PATTERN, "description": "Operators only."},
            "operator": {
                "type": "boolean",
                "description": "Operators only: create an operator's key, which has no scopes.",
            },
        },
        anyOf=[
            {"properties": {"operator": {"const": False}, "scopes": {"minItems": 1}}, "required": ["scopes"]},
            {
                "properties": {
                    "operator": {"const": True},
                    "scopes": {"maxItems": 0},
                    "tenant_id": {"type": "null"},
                },
                "required": ["operator"],
            },
        ],
        description="A tenant's key has scopes, and its tenant is that of the caller unless an operator names one.",
        examples=[{"scopes": ["read", "write"], "name": "web frontend"}],
    ),
    "Key": _object(
        {
            "id": TEXT,
            "tenant_id": {**TEXT_OR_NULL, "description": "Null for an operator's."},
            "operator": {"type": "boolean"},
            "name": TEXT_OR_NULL,
            "scopes": {"type": "array", "items": {"enum": [scope.value for scope in Scope]}},
            "created_at": _TIME,
            "created_by": TEXT,
            "expires_at": _TIME_OR_NULL,
            "revoked_at": _TIME_OR_NULL,
            "revoked_by": TEXT_OR_NULL,
            "last_used_at": _TIME_OR_NULL,
            "key": {**TEXT, "description": "The key's text: only in the response that creates it."},
        },
        (
            *("id", "tenant_id", "operator", "name", "scopes", "created_at", "created_by", "expires_at"),
            *("revoked_at", "revoked_by", "last_used_at"),
        ),
    ),
    "KeyPage": _object(
        {"data": {"type": "array", "items": ref("Key")}, "next_cursor": TEXT_OR_NULL}, ("data", "next_cursor")
    ),
    "Projections": _object(
        {
            "generation": {"type": "integer", "description": "The number of the live views' file."},
            "data": {
                "type": "array",
                "items": _object(
                    {"name": TEXT, "version": {"type": "integer"}, "position": _COUNT, "lag_events": _COUNT},
                    ("name", "version", "position", "lag_events"),
                ),
            },
            "rebuild": {
                "oneOf": [
                    {"type": "null"},
                    _object(
                        {
                            "generation": _VERSION,
                            "events_done": _COUNT,
                            "events_total": _COUNT,
                            "events_per_second": {"type": "number"},
                            "seconds_left": {"type": ["number", "null"]},
                        },
                        ("generation", "events_done", "events_total", "events_per_second", "seconds_left"),
                    ),
                ]
            },
        },
        ("generation", "data", "rebuild"),
    ),
    "Health": _object(
        {
            "status": TEXT,
            "checks": {"type": "object", "additionalProperties": TEXT},
            "warnings": {"type": "array", "items": TEXT, "description": "What does not keep it from serving."},
        },
        ("status",),
    ),
    "Problem": {
        "type": "object",
        "description": "RFC 9457. `type` is " + URN + "<name>.",
        "properties": {
            "type": {"enum": [URN + name for name in STATUS]},
            "title": TEXT,
            "status": {"type": "integer"},
            "detail": TEXT,
            "request_id": TEXT,
            "field": {"type": "string", "description": "The member, parameter or header that is wrong."},
            "expected_version": {"type": "integer"},
            "actual_version": {"type": "integer"},
            "session_id": TEXT,
            "message_id": TEXT,
            "limit_bytes": {"type": "integer"},
            "scope": {"type": "string", "description": "The scope that the credential lacks."},
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
