"""Bad input: each gets its problem document, and changes nothing."""

import json
import socket
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from support.api import LEAKS, TIMEOUT_S, Json, append, client_of, create, events, fresh, problem, raw, talk
from support.server import Server

TEXT = {"role": "user", "content": "Hello"}
JSON = {"content-type": "application/json"}
DEEP = "[" * 10_000 + "]" * 10_000
DEEP_OBJECT = '{"a":' * 10_000 + "1" + "}" * 10_000
LONG_ID = "x" * 129

SESSIONS, SESSION, MESSAGES = "/v1/sessions", "/v1/sessions/s", "/v1/sessions/s/messages"
FORK, SESSION_EVENTS, EVENTS = "/v1/sessions/s/fork", "/v1/sessions/s/events", "/v1/events"
PAGED = [SESSIONS, MESSAGES, SESSION_EVENTS, EVENTS]


@dataclass(frozen=True)
class Bad:
    """A request that has to be refused, and with which problem.

    A body is JSON text, bytes as they are, or a value.
    """

    sentence: str
    method: str
    path: str
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 400
    name: str = "invalid-request"

    def __str__(self) -> str:
        return self.sentence

    def send(self, client: httpx.Client) -> httpx.Response:
        """Send it."""
        content = self.body if self.body is None or isinstance(self.body, str | bytes) else json.dumps(self.body)
        headers = [*({} if content is None else JSON).items(), *self.headers.items()]
        encoded = {name: value.encode() for name, value in headers}
        return client.request(self.method, self.path, content=content, headers=encoded)  # type: ignore[arg-type]


def message(sentence: str, **fields: Any) -> Bad:
    """A message with a bad field."""
    return Bad(f"a message with {sentence}", "POST", MESSAGES, {**TEXT, **fields})


def creation(sentence: str, **fields: Any) -> Bad:
    """A creation with a bad field."""
    return Bad(f"a creation with {sentence}", "POST", SESSIONS, {"id": "new", **fields})


def patch(sentence: str, **fields: Any) -> Bad:
    """A patch with a bad field."""
    return Bad(f"a patch with {sentence}", "PATCH", SESSION, fields)


def fork(sentence: str, **fields: Any) -> Bad:
    """A fork with a bad field."""
    return Bad(f"a fork with {sentence}", "POST", FORK, fields)


def query(sentence: str, path: str, **params: str) -> Bad:
    """A read with a bad query."""
    return Bad(f"{path} with {sentence}", "GET", f"{path}?{httpx.QueryParams(params)}")


def everywhere(sentence: str, body: Any) -> list[Bad]:
    """The same bad body in each call that takes one."""
    calls = (("POST", SESSIONS), ("PATCH", SESSION), ("POST", MESSAGES), ("POST", FORK))
    return [Bad(f"{method} {path} with {sentence}", method, path, body) for method, path in calls]


def texts(sentence: str, text: str) -> list[Bad]:
    """The same bad JSON string, given as it stands between the quotes, wherever the API takes text."""
    places = {
        "content": ("POST", MESSAGES, '{"role": "user", "content": "%s"}'),
        "a content part": ("POST", MESSAGES, '{"role": "user", "content": [{"type": "text", "text": "%s"}]}'),
        "a name": ("POST", MESSAGES, '{"role": "user", "content": "", "name": "%s"}'),
        "a value of metadata": (
            "POST",
            MESSAGES,
            '{"role": "user", "content": "", "metadata": {"a": ["%s"]}}',
        ),
        "a key of metadata": ("POST", MESSAGES, '{"role": "user", "content": "", "metadata": {"%s": 1}}'),
        "a tool call": (
            "POST",
            MESSAGES,
            '{"role": "assistant", "content": null, "tool_calls": [{"a": "%s"}]}',
        ),
        "a tool call's id": ("POST", MESSAGES, '{"role": "tool", "content": "", "tool_call_id": "%s"}'),
        "a message id": ("POST", MESSAGES, '{"role": "user", "content": "", "id": "%s"}'),
        "a message of a batch": ("POST", MESSAGES, '{"messages": [{"role": "user", "content": "%s"}]}'),
        "a message of a creation": ("POST", SESSIONS, '{"messages": [{"role": "user", "content": "%s"}]}'),
        "a session id": ("POST", SESSIONS, '{"id": "%s"}'),
        "a user id": ("POST", SESSIONS, '{"user_id": "%s"}'),
        "a title": ("POST", SESSIONS, '{"title": "%s"}'),
        "a trait": ("POST", SESSIONS, '{"traits": {"a": {"b": "%s"}}}'),
        "a patched title": ("PATCH", SESSION, '{"title": "%s"}'),
        "a patched trait's key": ("PATCH", SESSION, '{"traits": {"%s": 1}}'),
        "a patched trait that goes": ("PATCH", SESSION, '{"traits": {"%s": null}}'),
        "a fork's title": ("POST", FORK, '{"title": "%s"}'),
    }
    return [
        Bad(f"{place} with {sentence}", method, path, template % text)
        for place, (method, path, template) in places.items()
    ]


UNKNOWN_FIELDS = [
    message("an unknown field", mood="good"),
    message("a seq of its own", seq=1),
    message("a session of its own", session_id="s"),
    message("a batch in it", messages=[TEXT]),
    Bad("a message of a batch with an unknown field", "POST", MESSAGES, {"messages": [{**TEXT, "mood": 1}]}),
    Bad("a batch with an unknown field", "POST", MESSAGES, {"messages": [TEXT], "mood": "good"}),
    creation("an unknown field", mood="good"),
    creation("a version", version=1),
    creation("a tenant", tenant_id="t"),
    creation("a message with an unknown field", messages=[{**TEXT, "mood": 1}]),
    patch("an unknown field", mood="good"),
    patch("an id", id="s2"),
    patch("a version", version=1),
    patch("an unknown field that goes", mood=None),
    fork("an unknown field", mood="good"),
    fork("messages", messages=[TEXT]),
]

WRONG_TYPES = [
    message("a number as content", content=5),
    message("an object as content", content={"type": "text", "text": ""}),
    message("a boolean as content", content=True),
    message("a string as content part", content=["Hello"]),
    message("a content part without type", content=[{"text": "Hello"}]),
    message("a content part whose type is a number", content=[{"type": 1}]),
    message("a content part that is null", content=[None]),
    Bad("a message without role", "POST", MESSAGES, {"content": "Hello"}),
    Bad("a user's message without content", "POST", MESSAGES, {"role": "user"}),
    message("no role but null", role=None),
    message("a number as role", role=5),
    message("a list as name", name=["n"]),
    message("an object as tool calls", tool_calls={"id": "c"}),
    message("a string as tool call", tool_calls=["c"]),
    message("a number as tool call id", tool_call_id=5),
    message("a number as parent", parent_id=5),
    message("a list as metadata", metadata=[]),
    message("a string as metadata", metadata="m"),
    message("a number as id", id=5),
    message("a number as time", created_at=1715785200),
    Bad("a batch that is an object", "POST", MESSAGES, {"messages": TEXT}),
    Bad("a batch that is null", "POST", MESSAGES, {"messages": None}),
    Bad("a batch with a string in it", "POST", MESSAGES, {"messages": [TEXT, "Hello"]}),
    Bad("a batch with null in it", "POST", MESSAGES, {"messages": [TEXT, None]}),
    creation("a number as id", id=5),
    creation("a number as user", user_id=5),
    creation("a list as title", title=[]),
    creation("a list as traits", traits=[]),
    creation("a string as traits", traits="t"),
    creation("messages that are an object", messages=TEXT),
    patch("a number as title", title=5),
    patch("a boolean as user", user_id=True),
    patch("a string as archived", archived="true"),
    patch("a number as archived", archived=1),
    patch("a list as traits", traits=[]),
    patch("a string as traits", traits="t"),
    fork("a string as version", version="1"),
    fork("half a version", version=1.5),
    fork("a boolean as version", version=True),
    fork("a number as id", id=5),
    fork("a number as title", title=5),
]

BAD_VALUES = [
    message("an unknown role", role="robot"),
    message("a role in capitals", role="User"),
    message("an empty role", role=""),
    message("an absent parent", parent_id="nobody"),
    message("a parent of another session", parent_id="elsewhere-1"),
    message("a parent of a deleted session", parent_id="gone-1"),
    message("an empty parent", parent_id=""),
    Bad("a fork of version 0", "POST", FORK, {"version": 0}),
    Bad("a fork of a version to come", "POST", FORK, {"version": 4}),
    Bad("an empty batch", "POST", MESSAGES, {"messages": []}),
    Bad("an empty object as message", "POST", MESSAGES, {}),
    Bad("a batch of 1,001 messages", "POST", MESSAGES, {"messages": [TEXT] * 1001}),
    creation("1,001 messages", messages=[TEXT] * 1001),
    Bad("a batch with an id twice", "POST", MESSAGES, {"messages": [{**TEXT, "id": "x"}, {**TEXT, "id": "x"}]}),
    Bad(
        "a batch with an id twice that means two messages",
        "POST",
        MESSAGES,
        {"messages": [{**TEXT, "id": "x"}, {"role": "system", "content": "", "id": "x"}]},
    ),
    creation("messages with an id twice", messages=[{**TEXT, "id": "x"}, {**TEXT, "id": "x"}]),
]

IDS = {
    "a slash": "a/b",
    "a space": "a b",
    "a space at its end": "a ",
    "nothing": "",
    "a letter beyond ASCII": "ä",
    "a full-width letter": "\uff21",
    "a line break at its end": "a\n",
    "a percent sign": "a%20b",
    "a quote": "a'b",
    "129 characters": LONG_ID,
}
BAD_IDS = [
    case
    for what, bad in IDS.items()
    for case in (
        Bad(f"a session id with {what}", "POST", SESSIONS, {"id": bad}),
        Bad(f"a message id with {what}", "POST", MESSAGES, {**TEXT, "id": bad}),
        Bad(f"a fork's id with {what}", "POST", FORK, {"id": bad}),
    )
]

BAD_PATHS = [
    Bad(f"{method} {path.format(bad)}", method, path.format(bad), body, status=404, name="not-found")
    for bad in (
        "a%2Fb",
        "a%20b",
        "s%20",
        "%20s",
        "s%0A",
        "s%00",
        "%ff",
        "s%2F",
        "S",
        "s%25",
        LONG_ID,
        "%E2%80%A8",
    )
    for method, path, body in (
        ("GET", "/v1/sessions/{}", None),
        ("DELETE", "/v1/sessions/{}", None),
        ("POST", "/v1/sessions/{}/messages", TEXT),
        ("GET", "/v1/sessions/s/messages/{}", None),
    )
]

TEXT_CASES = [
    *texts("half a surrogate pair", "\\ud800"),
    *texts("the other half of a surrogate pair", "\\uDC00"),
    *texts("a NUL escape", "\\u0000"),
    *texts("a raw NUL", "\x00"),
    Bad(
        "two first halves of a surrogate pair",
        "POST",
        MESSAGES,
        '{"role": "user", "content": "\\ud83d\\ud83d"}',
    ),
    Bad("a surrogate pair the wrong way", "POST", MESSAGES, '{"role": "user", "content": "\\udc00\\ud800"}'),
    Bad("half a surrogate pair at the end", "POST", MESSAGES, '{"role": "user", "content": "x\\ud83dx"}'),
    Bad("a NUL after the JSON", "POST", MESSAGES, '{"role": "user", "content": ""}\x00'),
    Bad("a raw line break in a string", "POST", MESSAGES, '{"role": "user", "content": "a\nb"}'),
]

BYTES = {
    "a byte that UTF-8 does not have": b"\xff",
    "a sequence cut short": b"\xe2\x82",
    "a continuation without a start": b"\x80",
    "an overlong slash": b"\xc0\xaf",
    "an overlong NUL": b"\xc0\x80",
    "a surrogate in UTF-8": b"\xed\xa0\x80",
    "a code point beyond the last": b"\xf4\x90\x80\x80",
    "Latin-1": "ä".encode("latin-1"),
}
BAD_BYTES = [
    case
    for what, bad in BYTES.items()
    for case in (
        Bad(f"content with {what}", "POST", MESSAGES, b'{"role": "user", "content": "%s"}' % bad),
        Bad(
            f"a key with {what}",
            "POST",
            MESSAGES,
            b'{"role": "user", "content": "", "metadata": {"%s": 1}}' % bad,
        ),
        Bad(f"a title with {what}", "POST", SESSIONS, b'{"title": "%s"}' % bad),
        Bad(f"a patched trait with {what}", "PATCH", SESSION, b'{"traits": {"a": "%s"}}' % bad),
    )
]
BAD_BYTES.append(Bad("UTF-16", "POST", MESSAGES, json.dumps(TEXT).encode("utf-16")))

BAD_JSON = [
    *everywhere("a list", [TEXT]),
    *everywhere("a string", '"text"'),
    *everywhere("a number", "5"),
    *everywhere("true", "true"),
    *everywhere("null", "null"),
    *everywhere("JSON cut short", '{"title": "t'),
    *everywhere("an object left open", '{"title": "t"'),
    *everywhere("something after the object", '{"title": "t"} x'),
    *everywhere("two objects", "{}{}"),
    *everywhere("a comma too many", '{"title": "t",}'),
    *everywhere("single quotes", "{'title': 't'}"),
    *everywhere("a comment", '{"title": "t"} // t'),
    *everywhere("10,000 arrays", DEEP),
    *everywhere("10,000 objects", DEEP_OBJECT),
    Bad("a message cut short", "POST", MESSAGES, '{"role": "user", "content": "Hel'),
    Bad("an empty body for a message", "POST", MESSAGES, ""),
    Bad("white space for a message", "POST", MESSAGES, " \n"),
    Bad("10,000 arrays as content", "POST", MESSAGES, f'{{"role": "user", "content": {DEEP}}}'),
    Bad(
        "10,000 arrays in metadata",
        "POST",
        MESSAGES,
        f'{{"role": "user", "content": "", "metadata": {{"a": {DEEP}}}}}',
    ),
    Bad(
        "10,000 objects as metadata",
        "POST",
        MESSAGES,
        f'{{"role": "user", "content": "", "metadata": {DEEP_OBJECT}}}',
    ),
    Bad("10,000 arrays in traits", "POST", SESSIONS, f'{{"traits": {{"a": {DEEP}}}}}'),
    Bad("10,000 objects as patched traits", "PATCH", SESSION, f'{{"traits": {DEEP_OBJECT}}}'),
    *(
        Bad(
            f"{number} as a number",
            "POST",
            MESSAGES,
            f'{{"role": "user", "content": "", "metadata": {{"a": {number}}}}}',
        )
        for number in ("NaN", "Infinity", "-Infinity", "01", "1.", ".5", "+1", "0x10", "1e", "1_000")
    ),
]

TIMES = {
    "yesterday": "yesterday",
    "nothing": "",
    "no offset": "2024-05-15T15:00:00",
    "a date alone": "2024-05-15",
    "a month 13": "2024-13-15T15:00:00Z",
    "a 30th of February": "2024-02-30T15:00:00Z",
    "a 29th of February in a common year": "2023-02-29T15:00:00Z",
    "an hour 25": "2024-05-15T25:00:00Z",
    "a minute 60": "2024-05-15T15:60:00Z",
    "an offset of 99 hours": "2024-05-15T15:00:00+99:00",
    "a number of seconds": "1715785200",
    "a year of five digits": "12024-05-15T15:00:00Z",
    "digits that are not ASCII": "\u0662\u0660\u0662\u0664-05-15T15:00:00Z",
    "something after it": "2024-05-15T15:00:00Z x",
}
BAD_TIMES = [
    case
    for what, bad in TIMES.items()
    for case in (message(f"{what} as time", created_at=bad), query(f"{what} as time", SESSION, as_of=bad))
]

BAD_QUERIES = [
    *(query("an unknown parameter", path, colour="red") for path in [*PAGED, SESSION, f"{MESSAGES}/m1"]),
    *(query("a parameter in capitals", path, LIMIT="1") for path in PAGED),
    *(
        query(f"the limit {limit!r}", path, limit=limit)
        for path in PAGED
        for limit in ("0", "-1", "10001", "ten", "", "1.5", "1e1", "99999999999999999999", "1 ", "٣")
    ),
    *(query("a limit of 201", path, limit="201") for path in (SESSIONS, SESSION_EVENTS, EVENTS)),
    query("a limit of 1001", MESSAGES, limit="1001"),
    *(
        query(f"the cursor {cursor!r}", path, cursor=cursor)
        for path in (SESSIONS, SESSION_EVENTS, EVENTS)
        for cursor in ("x", "", "AAAA", "é", "0", "' OR 1=1 --", "A" * 5000)
    ),
    query("a cursor", MESSAGES, cursor="x"),
    query("an unknown order", MESSAGES, order="sideways"),
    query("an empty order", MESSAGES, order=""),
    *(query(f"after {after!r}", path, after=after) for path in PAGED[1:] for after in ("-1", "x", "", "1.5")),
    *(query(f"before {before!r}", MESSAGES, before=before) for before in ("-1", "x", "", "1.5")),
    *(query(f"archived {archived!r}", SESSIONS, archived=archived) for archived in ("maybe", "", "2")),
    *(query(f"messages {count!r}", SESSION, messages=count) for count in ("-1", "1001", "all", "", "1.5")),
    *(query(f"as_of_version {version!r}", SESSION, as_of_version=version) for version in ("-1", "first", "", "1.5")),
    query("an unknown type", EVENTS, type="session.exploded"),
    query("an empty type", EVENTS, type=""),
    query("a NUL in a filter", SESSIONS, user_id="a\x00b"),
    Bad("a filter that is not UTF-8", "GET", f"{SESSIONS}?user_id=%ff"),
    Bad("an unknown parameter of a creation", "POST", f"{SESSIONS}?colour=red", {}),
    Bad("an unknown parameter of a message", "POST", f"{MESSAGES}?colour=red", TEXT),
    Bad("an unknown parameter of a patch", "PATCH", f"{SESSION}?colour=red", {"title": "t"}),
    Bad("an unknown parameter of a fork", "POST", f"{FORK}?colour=red", {}),
    Bad("an unknown parameter of a deletion", "DELETE", f"{SESSION}?colour=red"),
    Bad("an unknown parameter of a removal", "DELETE", f"{MESSAGES}/m1?colour=red"),
]

ABSENT = [
    Bad(
        f"{method} of {what}: {path.format(session)}",
        method,
        path.format(session),
        body,
        status=404,
        name="not-found",
    )
    for session, what in (("none", "an unknown session"), ("gone", "a deleted session"))
    for method, path, body in (
        ("GET", "/v1/sessions/{}", None),
        ("GET", "/v1/sessions/{}?messages=1", None),
        ("GET", "/v1/sessions/{}?as_of_version=1", None),
        ("GET", "/v1/sessions/{}/messages", None),
        ("GET", "/v1/sessions/{}/messages/gone-1", None),
        ("PATCH", "/v1/sessions/{}", {"title": "t"}),
        ("DELETE", "/v1/sessions/{}", None),
        ("POST", "/v1/sessions/{}/messages", TEXT),
        ("POST", "/v1/sessions/{}/messages", {"messages": [TEXT]}),
        ("DELETE", "/v1/sessions/{}/messages/gone-1", None),
        ("POST", "/v1/sessions/{}/fork", {}),
    )
]
ABSENT += [
    Bad(sentence, method, path, status=404, name="not-found")
    for sentence, method, path in (
        ("the events of an unknown session", "GET", "/v1/sessions/none/events"),
        ("an unknown message", "GET", f"{MESSAGES}/none"),
        ("the removal of an unknown message", "DELETE", f"{MESSAGES}/none"),
        ("a message of another session", "GET", f"{MESSAGES}/elsewhere-1"),
        ("the removal of another session's message", "DELETE", f"{MESSAGES}/elsewhere-1"),
    )
]

CHANGES: list[tuple[str, str, Json | None]] = [
    ("PATCH", SESSION, {"title": "t"}),
    ("DELETE", SESSION, None),
    ("POST", MESSAGES, TEXT),
    ("DELETE", f"{MESSAGES}/m1", None),
]
BAD_VERSIONS = [
    *(
        Bad(f"{method} {path} with If-Match {tag!r}", method, path, body, {"If-Match": tag})
        for method, path, body in CHANGES
        for tag in ("3", "x", '"x"', '""', '"3', '"-3"', '"3.0"', '"3" "4"', '"٣"', "**")
    ),
    *(
        Bad(
            f"{method} {path} with a stale If-Match",
            method,
            path,
            body,
            {"If-Match": '"2"'},
            412,
            "version-conflict",
        )
        for method, path, body in CHANGES
    ),
]

BAD_HEADERS = [
    *(
        Bad(f"{method} with {what} as tenant", method, SESSIONS, body, {"X-Tenant-Id": tenant})
        for what, tenant in {
            "nothing": "",
            "129 characters": LONG_ID,
            "a space": "a b",
            "a slash": "a/b",
            "letters beyond ASCII": "ä",
            "the reserved tenant": "$system",
        }.items()
        for method, body in (("GET", None), ("POST", {}))
    ),
    *(
        Bad(f"{path} with {what} as idempotency key", "POST", path, body, {"Idempotency-Key": key})
        for what, key in {
            "nothing": "",
            "256 characters": "k" * 256,
            "a space": "a b",
            "beyond ASCII": "ä",
        }.items()
        for path, body in ((SESSIONS, {}), (MESSAGES, TEXT), (FORK, {}))
    ),
]

MEDIA_TYPES = [
    "text/plain",
    "application/xml",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
    "json",
    "*/*",
]
BAD_MEDIA_TYPES = [
    Bad(
        f"{method} {path} as {kind}",
        method,
        path,
        body,
        {"content-type": kind},
        415,
        "unsupported-media-type",
    )
    for kind in MEDIA_TYPES
    for method, path, body in (
        ("POST", SESSIONS, {}),
        ("POST", MESSAGES, TEXT),
        ("POST", FORK, {}),
        ("PATCH", SESSION, {}),
    )
]

MIB_2 = "x" * (2 << 20)
TOO_LARGE = [
    Bad(sentence, method, path, body, {}, 413, "too-large")
    for sentence, method, path, body in (
        ("a message of 2 MiB", "POST", MESSAGES, {**TEXT, "content": MIB_2}),
        ("metadata of 2 MiB", "POST", MESSAGES, {**TEXT, "metadata": {"a": MIB_2}}),
        (
            "a batch with a message of 2 MiB",
            "POST",
            MESSAGES,
            {"messages": [TEXT, {**TEXT, "content": MIB_2}]},
        ),
        ("a creation with a message of 2 MiB", "POST", SESSIONS, {"messages": [{**TEXT, "content": MIB_2}]}),
        ("traits of 2 MiB", "POST", SESSIONS, {"traits": {"a": MIB_2}}),
        ("patched traits of 2 MiB", "PATCH", SESSION, {"traits": {"a": MIB_2}}),
    )
]

ALL = [
    *UNKNOWN_FIELDS, *WRONG_TYPES, *BAD_VALUES, *BAD_IDS, *BAD_PATHS, *TEXT_CASES, *BAD_BYTES, *BAD_JSON,
    *BAD_TIMES, *BAD_QUERIES, *ABSENT, *BAD_VERSIONS, *BAD_HEADERS, *BAD_MEDIA_TYPES, *TOO_LARGE,
]  # fmt: skip


def furnish(client: httpx.Client) -> httpx.Client:
    """Give the client's tenant a session `s` at version 3, one elsewhere, and a deleted one."""
    create(client, messages=talk(2))
    create(client, "elsewhere", messages=[{**TEXT, "id": "elsewhere-1"}])
    create(client, "gone", messages=[{**TEXT, "id": "gone-1"}])
    assert client.delete("/v1/sessions/gone").status_code == 204
    return client


@dataclass(frozen=True)
class Room:
    """A furnished tenant's client, and its events."""

    client: httpx.Client
    events: list[Json]


@pytest.fixture(scope="module")
def rooms() -> list[Room]:
    """Where the tests leave the tenant that they share, because none of them may change it."""
    return []


@pytest.fixture
def room(shared_server: Server, transport: httpx.HTTPTransport, rooms: list[Room]) -> Room:
    """The shared tenant, and a new one after a test that did change it: the others do not fail with it."""
    if not rooms or events(rooms[0].client) != rooms[0].events:
        client = furnish(client_of(shared_server, transport, fresh("tenant")))
        rooms[:] = [Room(client, events(client))]
    return rooms[0]


@pytest.fixture
def furnished(api: httpx.Client) -> httpx.Client:
    """A client of a furnished tenant of its own."""
    return furnish(api)


@pytest.mark.parametrize("bad", ALL, ids=str)
def test_bad_input_is_refused_and_changes_nothing(room: Room, bad: Bad) -> None:
    """A bad request gets its problem document, which gives nothing away, and writes no event."""
    problem(bad.send(room.client), bad.status, bad.name)
    assert events(room.client) == room.events


@pytest.mark.parametrize(
    ("method", "path"), [("POST", MESSAGES), ("POST", SESSIONS), ("PATCH", SESSION), ("POST", FORK)]
)
def test_a_body_without_a_media_type_is_refused(room: Room, method: str, path: str) -> None:
    """A body has to say that it is JSON."""
    problem(room.client.request(method, path, content=b"{}"), 415, "unsupported-media-type")
    assert events(room.client) == room.events


@pytest.mark.parametrize(
    ("bad", "members"),
    [
        (query("a limit of 0", SESSIONS, limit="0"), {"field": "limit"}),
        (query("an unknown parameter", SESSIONS, colour="red"), {"field": "colour"}),
        (
            Bad("a stale version", "PATCH", SESSION, {"title": "t"}, {"If-Match": '"2"'}),
            {"expected_version": 2, "actual_version": 3},
        ),
        (Bad("a bad tenant", "GET", SESSIONS, headers={"X-Tenant-Id": "a b"}), {"field": "X-Tenant-Id"}),
        (Bad("a bad key", "POST", SESSIONS, {}, {"Idempotency-Key": "a b"}), {"field": "Idempotency-Key"}),
    ],
    ids=str,
)
def test_a_problem_says_where_it_lies(room: Room, bad: Bad, members: Json) -> None:
    """A problem document has typed members that a program can act on."""
    assert bad.send(room.client).json().items() >= members.items()


ROLES = "assistant, developer, system, tool, user"


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (
            query("an unknown parameter", SESSION, version="1"),
            "expected one of messages, as_of_version, as_of; got 'ver",
        ),
        (query("a parameter where there is none", f"{MESSAGES}/m1", x="1"), "expected none; got 'x'"),
        (query("an unknown order", MESSAGES, order="up"), "order: expected one of asc, desc; got 'up'."),
        (query("neither true nor false", SESSIONS, archived="1"), "archived: expected one of true, false; got '1'."),
        (query("an unknown type", EVENTS, type="null"), "type: expected one of session.created, message.appended, "),
        (query("letters for a number", MESSAGES, after="x"), "after: expected a whole number; got 'x'."),
        (query("too small a number", SESSIONS, limit="0"), "limit: expected a whole number of at least 1; got '0'."),
        (
            query("too large a number", SESSIONS, limit="201"),
            "limit: expected a whole number of at most 200; got '201'.",
        ),
        (message("an unknown role", role="function"), f"role: expected one of {ROLES}; got 'function'."),
        (
            Bad("an unknown role in a batch", "POST", MESSAGES, {"messages": [TEXT, {**TEXT, "role": "robot"}]}),
            f"role: expected one of {ROLES}; got 'robot'.",
        ),
        (
            creation("an unknown member", mood="good"),
            "expected one of id, user_id, title, traits, messages; got 'mood'.",
        ),
        (patch("an unknown member", mood="good"), "expected one of title, user_id, traits, archived; got 'mood'."),
        (fork("an unknown member", mood="good"), "expected one of id, version, title; got 'mood'."),
        (message("a number as name", name=5), "Expected a string or null; got a whole number."),
        (message("a part without type", content=[{"text": "x"}]), "The member 'type' is missing."),
        (
            Bad("a body of text", "POST", SESSIONS, {}, {"content-type": "text/plain"}, 415),
            "application/json; got 'text/pl",
        ),
    ],
    ids=str,
)
def test_a_problem_names_the_choice(room: Room, bad: Bad, says: str) -> None:
    """What would be right, and what was wrong."""
    document = problem(bad.send(room.client), bad.status)
    assert says in document["detail"]


@pytest.mark.parametrize("target", [f"{SESSIONS}?limit=", f"{SESSION}?as_of=", f"{MESSAGES}?order=", f"{EVENTS}?type="])
def test_a_query_that_is_not_utf_8_is_refused(shared_server: Server, target: str) -> None:
    """Percent-encoded or raw, and whatever else is wrong with it."""
    for bad in (b"%ff", b"\xc3\xa9%ff", b"\xff", b"%00"):
        head = b"GET %b%b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" % (target.encode(), bad)
        with socket.create_connection(("127.0.0.1", shared_server.port), timeout=TIMEOUT_S) as connection:
            connection.sendall(head)
            assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")


def test_a_query_has_a_limit(room: Room) -> None:
    """The longest is parsed."""
    assert room.client.get(f"{SESSIONS}?user_id=" + "x" * (8192 - 8)).status_code == 200
    problem(room.client.get(f"{SESSIONS}?user_id=" + "x" * (8192 - 7)), 400)


WHOLE = json.dumps(TEXT).encode()
START = b"POST %s HTTP/1.1\r\nHost: localhost\r\nX-Tenant-Id: %s\r\nContent-Type: application/json\r\n"
TRUNCATED = {
    "a body that ends early": b"Content-Length: 1000\r\n\r\n" + WHOLE[:-5],
    "a body that ends early after a whole message": b"Content-Length: 1000\r\n\r\n" + WHOLE,
    "no body where one is announced": b"Content-Length: 1000\r\n\r\n",
    "a chunk that ends early": b"Transfer-Encoding: chunked\r\n\r\n100\r\n" + WHOLE,
    "a chunked body without its end": b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(WHOLE), WHOLE),
}


@pytest.mark.parametrize("rest", TRUNCATED.values(), ids=TRUNCATED)
def test_a_body_cut_off_by_the_connection_changes_nothing(
    furnished: httpx.Client, shared_server: Server, rest: bytes
) -> None:
    """When the client goes away in the middle of a body nothing is written, and the service goes on."""
    before = events(furnished)
    tenant = furnished.headers["x-tenant-id"].encode()
    answer = raw(shared_server, START % (MESSAGES.encode(), tenant) + rest)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    assert [leak for leak in LEAKS if leak.encode() in answer] == []
    assert events(furnished) == before
    assert append(furnished)["seq"] == 3


def test_a_good_message_is_taken_where_bad_ones_were_refused(furnished: httpx.Client) -> None:
    """The message that the bad ones were made of is good, so each was refused for what is bad in it."""
    assert Bad("", "POST", MESSAGES, TEXT).send(furnished).status_code == 201
    assert Bad("", "POST", SESSIONS, {"id": "new"}).send(furnished).status_code == 201
    assert Bad("", "PATCH", SESSION, {"title": "t"}).send(furnished).status_code == 200
    assert Bad("", "POST", FORK, {}).send(furnished).status_code == 201
    assert (
        Bad("", "POST", MESSAGES, TEXT, {"content-type": "application/json; charset=utf-8"}).send(furnished).is_success
    )
