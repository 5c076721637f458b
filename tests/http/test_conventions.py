"""What holds for every call: versions, retries, request ids, problems, tenants, times, the API's document."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urljoin

import httpx
import openapi_spec_validator
import pytest
from openapi_schema_validator import OAS31Validator
from prometheus_client.parser import text_string_to_metric_families

from support.api import TIME, Json, append, create, events, fresh, messages, problem, read, talk
from support.server import Server

TEXT = {"role": "user", "content": "Hello"}

READS = [
    "/v1/sessions/s",
    "/v1/sessions/s?messages=10",
    "/v1/sessions/s/messages",
    "/v1/sessions/s/messages/m1",
    "/v1/sessions/s/events",
    "/v1/sessions/s/proof",
]
CHANGES = [
    ("PATCH", "/v1/sessions/s", {"title": "t"}),
    ("PATCH", "/v1/sessions/s", {}),
    ("DELETE", "/v1/sessions/s", None),
    ("POST", "/v1/sessions/s/messages", TEXT),
    ("POST", "/v1/sessions/s/messages", {"messages": [TEXT, TEXT]}),
    ("DELETE", "/v1/sessions/s/messages/m1", None),
    ("POST", "/v1/sessions/s/fork", {"id": "f"}),
]
# Every kind of POST, as (path, body, another body).
POSTS = {
    "a creation": ("/v1/sessions", {"title": "t"}, {"title": "u"}),
    "a creation with messages": (
        "/v1/sessions",
        {"id": "c", "messages": talk(2)},
        {"id": "c", "messages": talk(1)},
    ),
    "a message": ("/v1/sessions/s/messages", TEXT, {**TEXT, "content": "Bye"}),
    "several messages": ("/v1/sessions/s/messages", {"messages": [TEXT, TEXT]}, {"messages": [TEXT]}),
    "a fork": ("/v1/sessions/s/fork", {"title": "t"}, {}),
}
# Every call about one session, as (method, path, body, headers).
CALLS: list[tuple[str, str, Json | None, dict[str, str]]] = [
    ("GET", "/v1/sessions/s", None, {}),
    ("GET", "/v1/sessions/s", None, {"If-None-Match": '"3"'}),
    ("GET", "/v1/sessions/s", None, {"If-None-Match": "*"}),
    ("GET", "/v1/sessions/s?messages=5", None, {}),
    ("GET", "/v1/sessions/s?as_of_version=1", None, {}),
    ("GET", "/v1/sessions/s?as_of_version=99", None, {}),
    ("GET", "/v1/sessions/s?as_of=2999-01-01T00:00:00Z", None, {}),
    ("PATCH", "/v1/sessions/s", {"title": "t"}, {}),
    ("PATCH", "/v1/sessions/s", {}, {}),
    ("PATCH", "/v1/sessions/s", {"title": "t"}, {"If-Match": '"3"'}),
    ("PATCH", "/v1/sessions/s", {"title": "t"}, {"If-Match": '"1"'}),
    ("PATCH", "/v1/sessions/s", {"title": "t"}, {"If-Match": "*"}),
    ("DELETE", "/v1/sessions/s", None, {}),
    ("DELETE", "/v1/sessions/s", None, {"If-Match": '"1"'}),
    ("POST", "/v1/sessions/s/messages", TEXT, {}),
    ("POST", "/v1/sessions/s/messages", talk(1)[0], {}),
    ("POST", "/v1/sessions/s/messages", {**TEXT, "parent_id": "m1"}, {}),
    ("POST", "/v1/sessions/s/messages", {"messages": [TEXT]}, {}),
    ("POST", "/v1/sessions/s/messages", TEXT, {"If-Match": '"1"'}),
    ("POST", "/v1/sessions/s/messages", TEXT, {"Idempotency-Key": "used"}),
    ("GET", "/v1/sessions/s/messages", None, {}),
    ("GET", "/v1/sessions/s/messages?after=1&order=desc", None, {}),
    ("GET", "/v1/sessions/s/messages/m1", None, {}),
    ("GET", "/v1/sessions/s/messages/nobody", None, {}),
    ("DELETE", "/v1/sessions/s/messages/m1", None, {}),
    ("POST", "/v1/sessions/s/fork", {}, {}),
    ("POST", "/v1/sessions/s/fork", {"id": "f", "version": 99}, {}),
    ("GET", "/v1/sessions/s/events", None, {}),
    ("GET", "/v1/sessions/s/events?after=1", None, {}),
]


def keyed(client: httpx.Client, path: str, body: Json, key: str = "key") -> httpx.Response:
    """A POST under an idempotency key."""
    return client.post(path, json=body, headers={"Idempotency-Key": key})


def answer_of(response: httpx.Response) -> tuple[int, bytes, str | None, str | None]:
    """What of an answer has to be the same when it is given again."""
    headers = response.headers
    return response.status_code, response.content, headers.get("etag"), headers.get("location")


def times_in(value: Any) -> Iterator[str]:
    """Each time that the API's own fields have, at whatever depth."""
    if isinstance(value, list):
        for item in value:
            yield from times_in(item)
    elif isinstance(value, dict):
        for name, item in value.items():
            if name.endswith("_at") and item is not None:
                yield item
            yield from times_in(item)


# Versions


def test_every_answer_about_a_session_has_its_version(api: httpx.Client) -> None:
    """Reads and changes alike carry the session's version as ETag."""
    create(api, messages=talk(2))
    for path in READS:
        assert api.get(path).headers["etag"] == '"3"'
    versions = []
    for method, path, body in CHANGES:
        if path.endswith("/fork") or path == "/v1/sessions/s":
            continue
        versions.append(api.request(method, path, json=body).headers["etag"])
    assert versions == ['"4"', '"6"', '"7"']
    assert api.patch("/v1/sessions/s", json={"title": "t"}).headers["etag"] == '"8"'


@pytest.mark.parametrize("path", READS)
def test_a_read_of_what_the_client_has_is_not_repeated(api: httpx.Client, path: str) -> None:
    """A read whose ETag is the client's answers 304 with that ETag and no body; else it answers in full."""
    create(api, messages=talk(2))
    for tags in ('"3"', 'W/"3"', '"1", "3"', "*"):
        response = api.get(path, headers={"If-None-Match": tags})
        assert (response.status_code, response.content, response.headers["etag"]) == (304, b"", '"3"')
    for tags in ('"2"', '"33"', '"1", "2"'):
        assert api.get(path, headers={"If-None-Match": tags}).status_code == 200
    append(api)
    assert api.get(path, headers={"If-None-Match": '"3"'}).status_code == 200


@pytest.mark.parametrize(("method", "path", "body"), CHANGES, ids=str)
def test_a_change_to_a_stale_version_is_refused(api: httpx.Client, method: str, path: str, body: Json | None) -> None:
    """A change that expects a version the session has left, or not reached, fails and says which it is at."""
    create(api, messages=talk(2))
    for expected in (2, 4):
        response = api.request(method, path, json=body, headers={"If-Match": f'"{expected}"'})
        document = problem(response, 412, "version-conflict")
        assert (document["expected_version"], document["actual_version"]) == (expected, 3)
        assert response.headers["etag"] == '"3"'
    assert len(events(api)) == 3


def test_a_message_that_is_there_already_is_refused_with_the_version(api: httpx.Client) -> None:
    """So that whoever is behind knows by how much; also where the message was removed."""
    create(api, messages=talk(2))
    for content, version in (("other", '"3"'), ("message 1", '"4"')):
        refused = api.post("/v1/sessions/s/messages", json={**TEXT, "id": "m1", "content": content})
        problem(refused, 409, "message-exists")
        assert refused.headers["etag"] == version
        api.delete("/v1/sessions/s/messages/m1")


def test_a_session_that_is_not_there_has_no_version(api: httpx.Client) -> None:
    """Neither when one is expected, nor when its id is somebody's."""
    stale = api.post("/v1/sessions", json={"id": "s"}, headers={"If-Match": '"1"'})
    assert problem(stale, 412)["actual_version"] == 0
    create(api)
    taken = api.post("/v1/sessions", json={"id": "s"})
    problem(taken, 409, "session-exists")
    absent = api.get("/v1/sessions/none")
    problem(absent, 404)
    for answer in (stale, taken, absent):
        assert "etag" not in answer.headers


def test_the_proof_of_a_deleted_session_has_its_version(api: httpx.Client) -> None:
    """And is not repeated to whoever has it."""
    create(api, messages=talk(1))
    assert api.delete("/v1/sessions/s").headers["etag"] == '"3"'
    assert api.get("/v1/sessions/s/proof").headers["etag"] == '"3"'
    assert api.get("/v1/sessions/s/proof", headers={"If-None-Match": '"3"'}).status_code == 304
    assert api.get("/v1/sessions/s/proof", headers={"If-None-Match": '"2"'}).status_code == 200
    problem(api.get("/v1/sessions/none/proof", headers={"If-None-Match": "*"}), 404)


@pytest.mark.parametrize("tag", ['"3"', "*"])
@pytest.mark.parametrize(("method", "path", "body"), CHANGES, ids=str)
def test_a_change_to_the_current_version_goes_through(
    api: httpx.Client, method: str, path: str, body: Json | None, tag: str
) -> None:
    """A change that expects the version the session is at, or any, is done."""
    create(api, messages=talk(2))
    assert api.request(method, path, json=body, headers={"If-Match": tag}).is_success


def test_only_one_of_two_changes_to_the_same_version_goes_through(api: httpx.Client) -> None:
    """Of several concurrent changes that expect the same version, one is done and the others are refused."""
    create(api)

    def change(n: int) -> int:
        response = api.patch("/v1/sessions/s", json={"title": f"{n}"}, headers={"If-Match": '"1"'})
        return response.status_code

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(change, range(8))) == [200] + [412] * 7
    assert read(api, "/v1/sessions/s")["version"] == 2


# Retries


@pytest.mark.parametrize(("path", "body", "_other"), POSTS.values(), ids=POSTS)
def test_a_request_sent_again_under_its_key_gets_the_first_answer(
    api: httpx.Client, path: str, body: Json, _other: Json
) -> None:
    """A repeated key gives the first answer again, says so, and writes nothing, whatever happened since."""
    create(api, messages=talk(1))
    first = keyed(api, path, body)
    assert first.status_code == 201, first.text
    assert "idempotency-replayed" not in first.headers
    append(api)
    count = len(events(api))
    for _ in range(2):
        again = keyed(api, path, body)
        assert again.headers["idempotency-replayed"] == "true"
        assert answer_of(again) == answer_of(first)
    assert len(events(api)) == count
    assert again.headers["x-request-id"] != first.headers["x-request-id"]


@pytest.mark.parametrize(("path", "body", "other"), POSTS.values(), ids=POSTS)
def test_a_key_with_another_body_is_refused(api: httpx.Client, path: str, body: Json, other: Json) -> None:
    """A key that was used with another body is a mismatch, and writes nothing."""
    create(api, messages=talk(1))
    assert keyed(api, path, body).status_code == 201
    count = len(events(api))
    problem(keyed(api, path, other), 422, "idempotency-mismatch")
    assert len(events(api)) == count


@pytest.mark.parametrize(
    ("used", "other", "body"),
    [
        ("/v1/sessions/s/fork", "/v1/sessions/o/fork", {"title": "t"}),
        ("/v1/sessions/s/fork", "/v1/sessions", {"title": "t"}),
        ("/v1/sessions", "/v1/sessions/s/fork", {"id": "x"}),
        ("/v1/sessions/s/messages", "/v1/sessions/o/messages", TEXT),
    ],
)
def test_a_key_with_another_path_is_refused(api: httpx.Client, used: str, other: str, body: Json) -> None:
    """A key that was used with another session, or another kind of call, is a mismatch."""
    create(api)
    create(api, "o")
    assert keyed(api, used, body).status_code == 201
    count = len(events(api))
    problem(keyed(api, other, body), 422, "idempotency-mismatch")
    assert len(events(api)) == count


def test_a_key_is_a_tenants_own(api: httpx.Client, stranger: httpx.Client) -> None:
    """Two tenants can use the same key for requests of their own, equal or not."""
    mine = keyed(api, "/v1/sessions", {"title": "t"})
    for body, client_key in (({"title": "t"}, "key"), ({"title": "other"}, "key-2")):
        assert keyed(api, "/v1/sessions", {"title": "t"}, client_key).status_code == 201
        theirs = keyed(stranger, "/v1/sessions", body, client_key)
        assert theirs.status_code == 201
        assert "idempotency-replayed" not in theirs.headers
        assert theirs.json()["id"] != mine.json()["id"]


def test_an_answer_is_kept_for_its_key_when_its_session_is_gone(api: httpx.Client) -> None:
    """The first answer is given again even after the session was deleted."""
    create(api)
    first = keyed(api, "/v1/sessions/s/messages", TEXT)
    assert api.delete("/v1/sessions/s").status_code == 204
    again = keyed(api, "/v1/sessions/s/messages", TEXT)
    assert answer_of(again) == answer_of(first)


def test_a_refused_request_is_not_remembered(api: httpx.Client) -> None:
    """A key whose request was refused is free: the same request, or another, is done when it is in order."""
    problem(keyed(api, "/v1/sessions/s/messages", TEXT), 404, "not-found")
    create(api, messages=talk(1))
    problem(keyed(api, "/v1/sessions", {"id": "s"}), 409, "session-exists")
    problem(keyed(api, "/v1/sessions/s/messages", {**talk(1)[0], "content": ""}), 409, "message-exists")
    problem(keyed(api, "/v1/sessions/s/messages", {"role": "robot"}), 400, "invalid-request")
    stale = {"Idempotency-Key": "key", "If-Match": '"1"'}
    problem(api.post("/v1/sessions/s/messages", json=TEXT, headers=stale), 412, "version-conflict")
    response = keyed(api, "/v1/sessions/s/messages", TEXT)
    assert response.status_code == 201
    assert "idempotency-replayed" not in response.headers


def test_a_request_sent_many_times_at_once_is_done_once(api: httpx.Client) -> None:
    """Concurrent requests under one key all get the one answer, and one message is written."""
    create(api)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: keyed(api, "/v1/sessions/s/messages", TEXT), range(8)))
    assert {answer_of(answer) for answer in answers} == {answer_of(answers[0])}
    assert answers[0].status_code == 201
    assert sum("idempotency-replayed" in answer.headers for answer in answers) == 7
    assert len(messages(api)) == 1


@pytest.mark.parametrize("end", ["kill", "stop"])
def test_a_key_outlives_the_process(server: Server, end: str) -> None:
    """After SIGKILL, as after a stop in good order, a key still gives its first answer, or a mismatch."""
    with server.client(tenant="t") as client:
        create(client, messages=talk(1))
        first = [keyed(client, path, body, f"{n}") for n, (path, body, _) in enumerate(POSTS.values())]
        assert {answer.status_code for answer in first} == {201}
        count = len(events(client))
    getattr(server, end)()
    server.start()
    with server.client(tenant="t") as client:
        again = [keyed(client, path, body, f"{n}") for n, (path, body, _) in enumerate(POSTS.values())]
        assert [answer_of(answer) for answer in again] == [answer_of(answer) for answer in first]
        assert {answer.headers["idempotency-replayed"] for answer in again} == {"true"}
        for n, (path, _, other) in enumerate(POSTS.values()):
            problem(keyed(client, path, other, f"{n}"), 422, "idempotency-mismatch")
        assert len(events(client)) == count


def test_a_key_has_up_to_255_visible_characters(api: httpx.Client) -> None:
    """Any visible ASCII character may stand in a key, and 255 of them."""
    visible = "".join(map(chr, range(0x21, 0x7F)))
    for key in ("k", visible, "k" * 255):
        first, again = (keyed(api, "/v1/sessions", {}, key) for _ in range(2))
        assert (first.status_code, answer_of(again)) == (201, answer_of(first))
    assert len(events(api)) == 3


# Request ids


@pytest.mark.parametrize("identifier", ["r", "r" * 128, "!~{}\"\\'%00<>"])
def test_a_request_id_is_taken_over(api: httpx.Client, identifier: str) -> None:
    """A request id of 1 to 128 visible ASCII characters is echoed and kept on the event."""
    response = api.post("/v1/sessions", json={}, headers={"X-Request-Id": identifier})
    assert response.headers["x-request-id"] == identifier
    assert [event["request_id"] for event in events(api)] == [identifier]


@pytest.mark.parametrize("identifier", ["", "r" * 129, "a b", "a\tb", "ü"], ids=repr)
def test_an_unfit_request_id_is_replaced(api: httpx.Client, identifier: str) -> None:
    """A request id that is empty, too long or not visible ASCII is replaced by one that the service makes."""
    response = api.post("/v1/sessions", json={}, headers={"X-Request-Id": identifier.encode()})  # type: ignore[dict-item]
    made = response.headers["x-request-id"]
    assert response.status_code == 201
    assert re.fullmatch(r"[\x21-\x7e]{1,128}", made)
    assert made != identifier
    assert [event["request_id"] for event in events(api)] == [made]


def test_each_request_gets_an_id_of_its_own(api: httpx.Client) -> None:
    """A request without an id gets one that no other has, on every path."""
    paths = [
        "/v1/sessions",
        "/v1/sessions/none",
        "/v1/events",
        "/none",
        "/health/live",
        "/metrics",
        "/schema",
    ]
    ids = [api.get(path).headers["x-request-id"] for path in paths * 2]
    assert len(set(ids)) == len(ids)


def test_a_problem_names_its_request(api: httpx.Client) -> None:
    """The request id stands in the problem document as in the header."""
    for path in ("/v1/sessions/none", "/none", "/v1/sessions?limit=0"):
        response = api.get(path, headers={"X-Request-Id": "r-1"})
        assert (response.json()["request_id"], response.headers["x-request-id"]) == ("r-1", "r-1")


def test_the_events_of_one_request_have_its_id(api: httpx.Client) -> None:
    """A batch is one request: all its events have its id."""
    create(api)
    api.post("/v1/sessions/s/messages", json={"messages": [TEXT, TEXT]}, headers={"X-Request-Id": "r-1"})
    assert [event["request_id"] for event in events(api, type="message.appended")] == ["r-1", "r-1"]


# Problems


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/none"),
        ("POST", "/none"),
        ("DELETE", "/v1/none"),
        ("GET", "/v1"),
        ("GET", "/v2/sessions"),
        ("GET", "/v1/sessions/s/none"),
        ("POST", "/v1/sessions/s/messages/m1/none"),
        ("GET", "/schema/none"),
        ("GET", "/schema/../../pyproject.toml"),
        ("GET", "/schema/files/..%2f..%2f..%2fpyproject.toml"),
        ("GET", "/health"),
    ],
    ids=lambda value: value,
)
def test_an_unknown_path_is_not_found(api: httpx.Client, method: str, path: str) -> None:
    """A path that the API does not have is a problem document like any other."""
    create(api, messages=talk(1))
    problem(api.request(method, path), 404, "not-found")


def test_what_nobody_may_do_without_keys_is_said_so(api: httpx.Client) -> None:
    """There is no credential that could lack the scope."""
    refused = problem(api.post("/v1/admin/keys", json={"scopes": ["read"]}), 403, "forbidden")
    assert refused["detail"] == "This needs the scope `admin`, which nobody has while there are no keys."


def test_the_root_leads_to_the_page(api: httpx.Client) -> None:
    """There is something to look at in a browser; nothing else can be done there."""
    for method, body in (("GET", 0), ("HEAD", 0)):
        answer = api.request(method, "/")
        assert (answer.status_code, answer.headers["location"], len(answer.content)) == (307, "/schema", body)
    page = api.get("/", follow_redirects=True)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    refused = api.post("/", json={})
    problem(refused, 405)
    assert "GET" in refused.headers["allow"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/sessions", {"GET", "POST"}),
        ("DELETE", "/v1/sessions", {"GET", "POST"}),
        ("PUT", "/v1/sessions/s", {"GET", "PATCH", "DELETE"}),
        ("POST", "/v1/sessions/s", {"GET", "PATCH", "DELETE"}),
        ("PATCH", "/v1/sessions/s/messages", {"GET", "POST"}),
        ("PUT", "/v1/sessions/s/messages/m1", {"GET", "DELETE"}),
        ("PATCH", "/v1/sessions/s/messages/m1", {"GET", "DELETE"}),
        ("GET", "/v1/sessions/s/fork", {"POST"}),
        ("DELETE", "/v1/sessions/s/events", {"GET"}),
        ("POST", "/v1/events", {"GET"}),
        ("DELETE", "/v1/events", {"GET"}),
        ("POST", "/health/live", {"GET"}),
        ("POST", "/health/ready", {"GET"}),
        ("DELETE", "/metrics", {"GET"}),
        ("BREW", "/v1/sessions", {"GET", "POST"}),
    ],
)
def test_an_unknown_method_is_refused_with_those_allowed(
    api: httpx.Client, method: str, path: str, allowed: set[str]
) -> None:
    """A method that a path does not take is a problem that names those it takes, and changes nothing."""
    create(api, messages=talk(1))
    response = api.request(method, path)
    problem(response, 405)
    named = {name.strip() for name in response.headers["allow"].split(",")}
    assert named == {*allowed, "OPTIONS"} | ({"HEAD"} if "GET" in allowed else set())
    assert len(events(api)) == 2


def test_the_options_of_a_path_are_all_its_methods(api: httpx.Client) -> None:
    """OPTIONS names the methods that a refused one names."""
    for path in ("/v1/sessions", "/v1/sessions/s", "/v1/sessions/s/messages", "/v1/sessions/s/messages/m"):
        named = [api.request(method, path).headers["allow"] for method in ("OPTIONS", "PUT")]
        assert {n.strip() for n in named[0].split(",")} == {n.strip() for n in named[1].split(",")}


# Tenants


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_another_tenants_session_is_as_good_as_absent(
    api: httpx.Client, stranger: httpx.Client, call: tuple[str, str, Json | None, dict[str, str]]
) -> None:
    """A call about another tenant's session gets the answer it got when there was no such session at all."""
    method, path, body, headers = call

    def refusal() -> tuple[Json, dict[str, str]]:
        response = stranger.request(method, path, json=body, headers=headers)
        problem(response, 404, "not-found")
        document = {name: value for name, value in response.json().items() if name != "request_id"}
        volatile = {"date", "x-request-id", "content-length"}
        return (
            response.status_code,
            document,
            {n: v for n, v in response.headers.items() if n not in volatile},
        )

    absent = refusal()
    create(api, messages=talk(2))
    keyed(api, "/v1/sessions/s/fork", {}, "used")
    before = events(api)
    assert refusal() == absent
    assert events(api) == before
    assert events(stranger) == []


def test_a_tenant_sees_nothing_of_another(api: httpx.Client, stranger: httpx.Client) -> None:
    """Listings hold what is the tenant's own, under its own name."""
    create(api, "mine", user_id="u")
    create(stranger, "theirs", user_id="u")
    assert [s["id"] for s in read(stranger, "/v1/sessions", user_id="u")["data"]] == ["theirs"]
    assert {e["session_id"] for e in events(stranger)} == {"theirs"}
    assert {e["tenant_id"] for e in events(stranger)} == {stranger.headers["x-tenant-id"]}
    assert read(stranger, "/v1/sessions/theirs")["tenant_id"] == stranger.headers["x-tenant-id"]


def test_a_message_of_another_tenant_is_no_parent(api: httpx.Client, stranger: httpx.Client) -> None:
    """Another tenant's message is refused as a parent in the words for an absent one."""
    create(stranger)
    create(api, messages=talk(1))
    documents = []
    for parent in ("m1", "m2"):
        response = stranger.post("/v1/sessions/s/messages", json={**TEXT, "parent_id": parent})
        document = problem(response, 400, "invalid-request")
        documents.append(response.text.replace(document["request_id"], "").replace(parent, ""))
    assert documents[0] == documents[1]


def test_the_tenant_is_default_when_none_is_named(shared_server: Server) -> None:
    """A request without a tenant is of the tenant `default`."""
    session = fresh("s")
    with shared_server.client() as unnamed, shared_server.client(tenant="default") as named:
        made = create(unnamed, session)
        assert made["tenant_id"] == "default"
        assert read(named, f"/v1/sessions/{session}") == made


# Times


def test_every_time_has_six_digits_and_a_z(api: httpx.Client) -> None:
    """All times are RFC 3339 in UTC with microseconds."""
    create(api, messages=talk(2))
    append(api, created_at="2024-05-15T15:00:00+02:00")
    api.patch("/v1/sessions/s", json={"title": "t"})
    paths = (
        "/v1/sessions",
        "/v1/sessions/s?messages=9",
        "/v1/sessions/s/messages",
        "/v1/events",
        "/v1/sessions/s/events",
    )
    times = [time for path in paths for time in times_in(read(api, path))]
    assert len(times) > 20
    assert [time for time in times if not TIME.fullmatch(time)] == []


# Operation


def test_the_process_says_that_it_lives(api: httpx.Client) -> None:
    """The process answers that it lives, as JSON."""
    response = api.get("/health/live")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")


def test_the_service_says_that_it_is_ready(api: httpx.Client) -> None:
    """A service that serves is ready, and says of what."""
    response = api.get("/health/ready")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")


def test_health_asks_for_no_tenant(api: httpx.Client) -> None:
    """A probe needs no tenant, and is not refused for a bad one."""
    for path in ("/health/live", "/health/ready", "/metrics"):
        assert api.get(path, headers={"X-Tenant-Id": "no tenant"}).status_code == 200


def test_metrics_are_in_the_prometheus_format(api: httpx.Client) -> None:
    """The metrics parse, have values, and name no session, tenant or user."""
    create(api, "secret-session", user_id="secret-user")
    response = api.get("/metrics")
    families = list(text_string_to_metric_families(response.text))
    assert (response.status_code, response.headers["content-type"].split(";")[0]) == (200, "text/plain")
    assert sum(len(family.samples) for family in families) > 10
    assert "secret" not in response.text
    assert api.headers["x-tenant-id"] not in response.text


# The API's own document


@pytest.fixture(scope="module")
def document(shared_server: Server) -> Json:
    """The OpenAPI document."""
    with shared_server.client() as client:
        return read(client, "/schema/openapi.json")


def test_the_document_is_openapi_3_1(document: Json) -> None:
    """The document is valid OpenAPI 3.1, and all that it refers to is in it."""
    assert document["openapi"].startswith("3.1.")
    openapi_spec_validator.validate(document)
    references = set(re.findall(r"'\$ref': '#/components/schemas/(\w+)'", str(document)))
    assert references <= document["components"]["schemas"].keys()


def test_the_document_has_every_call(document: Json) -> None:
    """Each call of the contract is in the document."""
    calls = {f"{method.upper()} {path}" for path, item in document["paths"].items() for method in item}
    assert calls >= {
        "POST /v1/sessions",
        "GET /v1/sessions",
        "GET /v1/sessions/{session_id}",
        "PATCH /v1/sessions/{session_id}",
        "DELETE /v1/sessions/{session_id}",
        "POST /v1/sessions/{session_id}/messages",
        "GET /v1/sessions/{session_id}/messages",
        "GET /v1/sessions/{session_id}/messages/{message_id}",
        "DELETE /v1/sessions/{session_id}/messages/{message_id}",
        "POST /v1/sessions/{session_id}/fork",
        "GET /v1/sessions/{session_id}/events",
        "GET /v1/events",
        "GET /health/live",
        "GET /health/ready",
        "GET /metrics",
    }


def test_the_page_fetches_nothing_from_elsewhere(api: httpx.Client) -> None:
    """The page to read the API is HTML, and all that it loads comes from this service."""
    response = api.get("/schema")
    assert (response.status_code, response.headers["content-type"].split(";")[0]) == (200, "text/html")
    loaded = re.findall(r'(?:src|href)="([^"]+)"', response.text)
    assert loaded
    for address in loaded:
        assert urljoin("http://here/schema", address).startswith("http://here/")
        assert api.get(urljoin("/schema", address)).status_code == 200


# A small scenario: (method, path of the document, path, body, headers, expected status).
S, M = "/v1/sessions/{session_id}", "/v1/sessions/{session_id}/messages"
SCENARIO: list[tuple[str, str, str, Any, dict[str, str], int]] = [
    ("POST", "/v1/sessions", "/v1/sessions", {"id": "s", "title": "t", "traits": {"a": [1]}}, {}, 201),
    ("POST", "/v1/sessions", "/v1/sessions", {"id": "s"}, {}, 409),
    ("POST", "/v1/sessions", "/v1/sessions", {"unknown": 1}, {}, 400),
    ("POST", "/v1/sessions", "/v1/sessions", {"id": "o", "messages": talk(3)}, {"Idempotency-Key": "k"}, 201),
    ("POST", "/v1/sessions", "/v1/sessions", {"id": "o"}, {"Idempotency-Key": "k"}, 422),
    ("POST", M, "/v1/sessions/s/messages", {**talk(1)[0], "metadata": {"n": None}}, {}, 201),
    ("POST", M, "/v1/sessions/s/messages", {**TEXT, "id": "m1"}, {}, 409),
    (
        "POST",
        M,
        "/v1/sessions/s/messages",
        {"role": "assistant", "content": None, "tool_calls": [{}]},
        {},
        201,
    ),
    ("POST", M, "/v1/sessions/s/messages", {"messages": [{**TEXT, "parent_id": "m1"}, TEXT]}, {}, 201),
    (
        "POST",
        M,
        "/v1/sessions/s/messages",
        {"role": "user", "content": [{"type": "text", "text": ""}]},
        {},
        201,
    ),
    ("POST", M, "/v1/sessions/s/messages", TEXT, {"If-Match": '"1"'}, 412),
    ("POST", M, "/v1/sessions/s/messages", {**TEXT, "content": "x" * (2 << 20)}, {}, 413),
    ("POST", M, "/v1/sessions/s/messages", TEXT, {"Content-Type": "text/plain"}, 415),
    ("POST", M, "/v1/sessions/none/messages", TEXT, {}, 404),
    ("GET", M, "/v1/sessions/s/messages", None, {}, 200),
    ("GET", M, "/v1/sessions/s/messages?limit=0", None, {}, 400),
    ("GET", M, "/v1/sessions/none/messages", None, {}, 404),
    ("GET", M + "/{message_id}", "/v1/sessions/s/messages/m1", None, {}, 200),
    ("GET", M + "/{message_id}", "/v1/sessions/s/messages/none", None, {}, 404),
    ("DELETE", M + "/{message_id}", "/v1/sessions/s/messages/m1", None, {}, 204),
    ("DELETE", M + "/{message_id}", "/v1/sessions/s/messages/m1", None, {}, 404),
    ("GET", S, "/v1/sessions/s", None, {}, 200),
    ("GET", S, "/v1/sessions/s?messages=2", None, {}, 200),
    ("GET", S, "/v1/sessions/s?as_of_version=2&messages=9", None, {}, 200),
    ("GET", S, "/v1/sessions/s", None, {"If-None-Match": "*"}, 304),
    ("GET", S, "/v1/sessions/none", None, {}, 404),
    ("PATCH", S, "/v1/sessions/s", {"title": None, "traits": {"a": None}, "archived": True}, {}, 200),
    ("PATCH", S, "/v1/sessions/s", {"title": "t"}, {"If-Match": '"1"'}, 412),
    ("PATCH", S, "/v1/sessions/s", {"title": 5}, {}, 400),
    ("POST", S + "/fork", "/v1/sessions/o/fork", {"id": "f", "version": 2, "title": "t"}, {}, 201),
    ("POST", S + "/fork", "/v1/sessions/o/fork", {"id": "f"}, {}, 409),
    ("GET", S, "/v1/sessions/f?messages=5", None, {}, 200),
    ("DELETE", S, "/v1/sessions/o", None, {}, 204),
    ("DELETE", S, "/v1/sessions/o", None, {}, 404),
    ("GET", "/v1/sessions", "/v1/sessions?limit=1", None, {}, 200),
    ("GET", "/v1/sessions", "/v1/sessions?user_id=none", None, {}, 200),
    ("GET", "/v1/sessions", "/v1/sessions?cursor=none", None, {}, 400),
    ("GET", "/v1/events", "/v1/events?limit=2", None, {}, 200),
    ("GET", "/v1/events", "/v1/events?limit=200", None, {}, 200),
    ("GET", S + "/events", "/v1/sessions/s/events?limit=2", None, {}, 200),
    ("GET", S + "/events", "/v1/sessions/o/events?limit=200", None, {}, 200),
    ("GET", S + "/events", "/v1/sessions/none/events", None, {}, 404),
    ("GET", "/health/live", "/health/live", None, {}, 200),
    ("GET", "/health/ready", "/health/ready", None, {}, 200),
    ("GET", "/metrics", "/metrics", None, {}, 200),
]


def test_each_answer_is_what_the_document_says(api: httpx.Client, document: Json) -> None:
    """In a scenario of all calls each answer has a status, a media type and a body that the document has."""
    for method, template, path, body, headers, status in SCENARIO:
        response = api.request(method, path, json=body, headers=headers)
        assert response.status_code == status, f"{method} {path}: {response.text}"
        described = document["paths"][template][method.lower()]["responses"][str(status)]
        if not response.content:
            assert not described.get("content")
            continue
        media_type = response.headers["content-type"].split(";")[0]
        schema = described["content"][media_type].get("schema", {})
        value = response.json() if media_type.endswith("json") else response.text
        rooted = {"allOf": [schema], "components": document["components"]}
        OAS31Validator(rooted, format_checker=OAS31Validator.FORMAT_CHECKER).validate(value)


def test_the_document_refuses_what_is_no_answer(document: Json) -> None:
    """The schemas are no blank cheques: an empty object is no session, message, event or problem."""
    for name in ("Session", "Message", "Event", "Problem"):
        rooted = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        assert not OAS31Validator(rooted).is_valid({})
