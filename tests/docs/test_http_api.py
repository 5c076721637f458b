"""docs/http-api.md says what the code says: operations, problems, examples, fine print."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest

from chatledger.http.openapi.schemas import SCHEMAS
from chatledger.http.problems import STATUS
from support import documents
from support.api import Json, append, create, fresh, problem
from support.command import succeed
from support.server import Server

PAGE = documents.read("docs/http-api.md")
PROBLEM_BASE = {"type", "title", "status", "detail", "request_id"}


@pytest.fixture
def api(shared_server: Server) -> Iterator[httpx.Client]:
    """A client of a tenant of its own."""
    with shared_server.client(tenant=fresh("docs")) as client:
        yield client


def test_the_operations_are_those_of_the_openapi_document(api: httpx.Client) -> None:
    """Each operation is in the page, and each one in the page exists."""
    paths = api.get("/schema/openapi.json").json()["paths"]
    served = {f"{method.upper()} {path}" for path, item in paths.items() for method in item}
    assert {row[0] for row in documents.rows(PAGE, "operation")} == served


def test_the_problems_are_those_of_the_code() -> None:
    """Name by name, with the status of each."""
    shown = {row[0]: int(row[1]) for row in documents.rows(PAGE, "name")}
    assert shown == STATUS


def test_the_members_of_problems_are_those_of_the_schema() -> None:
    """No member is left out, and none is made up."""
    shown = {name for row in documents.rows(PAGE, "name") for name in row[2].split(", ") if name}
    assert shown == set(SCHEMAS["Problem"]["properties"]) - PROBLEM_BASE


def test_the_members_of_messages_are_those_of_the_schema() -> None:
    """No member is left out, and none is made up."""
    shown = {name for row in documents.rows(PAGE, "member") for name in row[0].split(", ")}
    assert shown == set(SCHEMAS["MessageInput"]["properties"])


def test_the_examples_have_the_members_of_the_answers(api: httpx.Client) -> None:
    """The session, the message and the event of the page have just the members that the service answers."""
    session, message, event, _key, refusal = [json.loads(block) for block in documents.blocks(PAGE, "json")]
    create(api)
    appended = append(api, id="m-1")
    read = api.get("/v1/sessions/s").json()
    (_, found) = api.get("/v1/sessions/s/events").json()["data"]
    refused = problem(api.patch("/v1/sessions/s", json={"title": "t"}, headers={"If-Match": '"1"'}), 412)
    for shown, real in ((session, read), (message, appended), (event, found), (refusal, refused)):
        assert list(shown) == list(real)
    assert event["data"] == found["data"] | {"seq": 2}


def test_the_example_of_a_key_has_the_members_of_the_answer(tmp_path: Path) -> None:
    """As it is listed; the text is in the answer that makes it, and in no other."""
    shown = json.loads(documents.blocks(PAGE, "json")[3])
    database = tmp_path / "ledger.db"
    operator = succeed("key", "create", "--operator", "--database", database, cwd=tmp_path).split()[-1]
    headers = {"Authorization": f"Bearer {operator}"}
    with Server(database) as server, server.client() as client:
        given = {"scopes": ["write", "read"], "tenant_id": "acme", "name": "web frontend"}
        made = client.post("/v1/admin/keys", json=given, headers=headers).json()
        listed = client.get("/v1/admin/keys", headers=headers).json()["data"][1]
    assert list(shown) == list(listed) == [name for name in made if name != "key"]
    assert {name: shown[name] for name in given} == {name: listed[name] for name in given} | {
        "scopes": ["read", "write"]
    }
    assert len(shown["id"]) == len(listed["id"])


def test_of_a_member_that_comes_twice_the_last_counts(api: httpx.Client) -> None:
    """Among the contract's own; inside of free-form values both stay."""
    body = '{"id": "a", "id": "b", "traits": {"x": 1, "x": 2}}'
    answer = api.post("/v1/sessions", content=body, headers={"Content-Type": "application/json"})
    assert answer.json()["id"] == "b"
    assert '"traits":{"x":1,"x":2}' in answer.text


def test_no_body_is_an_empty_object(api: httpx.Client) -> None:
    """Where no Content-Type says otherwise."""
    assert api.post("/v1/sessions").status_code == 201


def test_a_repeat_passes_a_stale_if_match(api: httpx.Client) -> None:
    """The message is stored already; a new one under the same header is refused."""
    create(api)
    stale = {"If-Match": '"1"'}
    message: Json = {"id": "m", "role": "user", "content": "Hello"}
    first = api.post("/v1/sessions/s/messages", json=message, headers=stale)
    again = api.post("/v1/sessions/s/messages", json=message, headers=stale)
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.json() == first.json()
    problem(api.post("/v1/sessions/s/messages", json={**message, "id": "n"}, headers=stale), 412)


def test_a_key_is_looked_at_before_if_match(api: httpx.Client) -> None:
    """A retry that repeats its old version gets its first answer."""
    create(api)
    headers = {"If-Match": '"1"', "Idempotency-Key": "k"}
    body = {"role": "user", "content": "Hello"}
    first = api.post("/v1/sessions/s/messages", json=body, headers=headers)
    again = api.post("/v1/sessions/s/messages", json=body, headers=headers)
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"


@pytest.mark.parametrize(("expected", "status"), [('"0"', 201), ('"1"', 412), ("*", 412)])
def test_a_new_session_can_only_be_expected_at_version_0(api: httpx.Client, expected: str, status: int) -> None:
    """There is nothing to be at another version."""
    answer = api.post("/v1/sessions", json={}, headers={"If-Match": expected})
    assert answer.status_code == status


def test_a_removed_message_gets_no_more_children(api: httpx.Client) -> None:
    """Those that it has keep it, and so does the message after it, which names none."""
    create(api, messages=[{"id": "m", "role": "user", "content": "Hello"}])
    child = {"id": "c", "role": "assistant", "content": "Hello", "parent_id": "m"}
    assert api.post("/v1/sessions/s/messages", json=child).status_code == 201
    assert api.delete("/v1/sessions/s/messages/m").status_code == 204
    late = {"role": "user", "content": "late", "parent_id": "m"}
    assert problem(api.post("/v1/sessions/s/messages", json=late), 400)["field"] == "$.parent_id"
    assert api.post("/v1/sessions/s/messages", json=child).json()["parent_id"] == "m"
    assert api.get("/v1/sessions/s/messages/c").json()["parent_id"] == "m"


def test_if_match_on_a_fork_is_about_the_source(api: httpx.Client) -> None:
    """And the fork takes over what the source had as of that version."""
    create(api, user_id="ada", title="First", traits={"x": 1})
    api.patch("/v1/sessions/s", json={"title": "Second"})
    problem(api.post("/v1/sessions/s/fork", json={}, headers={"If-Match": '"1"'}), 412)
    fork = api.post("/v1/sessions/s/fork", json={"version": 1}, headers={"If-Match": '"2"'}).json()
    assert (fork["user_id"], fork["title"], fork["traits"]) == ("ada", "First", {"x": 1})


def test_null_in_a_patch_takes_a_member_back(api: httpx.Client) -> None:
    """To what it is in a session that was made from nothing."""
    create(api, user_id="ada", title="First", traits={"x": 1})
    api.patch("/v1/sessions/s", json={"archived": True})
    patch = dict.fromkeys(("title", "user_id", "traits", "archived"))
    patched = api.patch("/v1/sessions/s", json=patch).json()
    assert [patched[name] for name in patch] == [None, None, {}, False]


def test_the_examples_are_json() -> None:
    """Each `json` block is one document."""
    assert [msgspec.json.decode(block) for block in documents.blocks(PAGE, "json")]
