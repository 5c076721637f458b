"""Sessions: created, read as they are and as they were, listed, patched, deleted, forked."""

import json
import uuid
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from support.api import TIME, Json, append, create, events, exact, messages, pages, problem, read, talk

TRAITS = {"plan": "pro", "tags": ["a", None, {"ü": "✓"}], "nested": {"deep": {"on": True}}, "none": None}

# RFC 7396, Appendix A: those whose original and patch are objects.
MERGE_PATCHES = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


def patch(client: httpx.Client, changes: Json, session: str = "s") -> Json:
    """Patch a session and return the answer."""
    response = client.patch(f"/v1/sessions/{session}", json=changes)
    assert response.status_code == 200, response.text
    return response.json()


def fork(client: httpx.Client, session: str = "s", **fields: Any) -> Json:
    """Fork a session and return the answer."""
    response = client.post(f"/v1/sessions/{session}/fork", json=fields)
    assert response.status_code == 201, response.text
    return response.json()


def listed(client: httpx.Client, **params: Any) -> list[str]:
    """The ids of a listing's first page."""
    return [session["id"] for session in read(client, "/v1/sessions", **params)["data"]]


def without(session: Json, *names: str) -> Json:
    """The object without these members."""
    return {name: value for name, value in session.items() if name not in names}


def lived_through(client: httpx.Client) -> list[Json]:
    """A session's answer, with messages, at each of its versions, as read when it was current."""
    steps = [
        ("POST", "/v1/sessions", {"id": "s", "title": "first", "traits": {"a": 1, "b": {"c": 2}}}),
        ("POST", "/v1/sessions/s/messages", {"id": "m1", "role": "user", "content": "one"}),
        ("PATCH", "/v1/sessions/s", {"title": None, "traits": {"a": None, "b": {"d": 3}}}),
        ("POST", "/v1/sessions/s/messages", {"id": "m2", "role": "assistant", "content": "two"}),
        ("DELETE", "/v1/sessions/s/messages/m1", None),
        ("PATCH", "/v1/sessions/s", {"archived": True, "user_id": "u"}),
    ]
    answers = []
    for method, path, body in steps:
        assert client.request(method, path, json=body).is_success
        answers.append(read(client, "/v1/sessions/s", messages=1000))
    assert [answer["version"] for answer in answers] == [1, 2, 3, 4, 5, 6]
    return answers


def test_a_session_without_fields_gets_an_id_and_defaults(api: httpx.Client) -> None:
    """A session created from nothing has a UUIDv7 as id, no user, no title, no traits and version 1."""
    response = api.post("/v1/sessions", json={})
    session = response.json()
    assert response.status_code == 201
    assert uuid.UUID(session["id"]).version == 7
    assert response.headers["location"] == f"/v1/sessions/{session['id']}"
    assert response.headers["etag"] == '"1"'
    assert TIME.fullmatch(session["created_at"])
    assert session == {
        "id": session["id"],
        "tenant_id": api.headers["x-tenant-id"],
        "user_id": None,
        "title": None,
        "traits": {},
        "archived": False,
        "version": 1,
        "message_count": 0,
        "created_at": session["created_at"],
        "updated_at": session["created_at"],
        "last_message_at": None,
    }


def test_a_session_is_read_back_as_it_was_created(api: httpx.Client) -> None:
    """What the client gave comes back from the creation, the read and the listing alike."""
    made = create(api, user_id="ü-1", title="Größe 📏", traits=TRAITS)
    assert (made["user_id"], made["title"], made["traits"]) == ("ü-1", "Größe 📏", TRAITS)
    assert read(api, "/v1/sessions/s") == made
    assert read(api, "/v1/sessions")["data"] == [made]


def test_a_session_is_created_with_messages(api: httpx.Client) -> None:
    """Messages given at the creation are the session's first, and each is one version."""
    made = create(api, messages=talk(3))
    assert (made["version"], made["message_count"]) == (4, 3)
    assert made["last_message_at"] == messages(api)[-1]["created_at"]
    assert [(m["seq"], m["id"], m["content"]) for m in messages(api)] == [
        (1, "m1", "message 1"),
        (2, "m2", "message 2"),
        (3, "m3", "message 3"),
    ]


def test_a_session_is_created_with_no_message_in_the_list(api: httpx.Client) -> None:
    """An empty list of messages is the same as none."""
    assert create(api, messages=[])["message_count"] == 0


def test_a_session_is_created_with_a_thousand_messages(api: httpx.Client) -> None:
    """The most messages that one creation takes is 1,000."""
    assert create(api, messages=talk(1000))["message_count"] == 1000
    assert [m["seq"] for m in messages(api, limit=1000)] == list(range(1, 1001))


@pytest.mark.parametrize("session", ["a", "A.b_c:d-9" * 14 + "xy", "-", "_", "...", "::", "0"])
def test_an_id_is_any_of_the_allowed_characters(api: httpx.Client, session: str) -> None:
    """A client may choose an id of 1 to 128 letters, digits, dots, underscores, colons and hyphens."""
    made = create(api, session)
    assert made["id"] == session
    assert read(api, f"/v1/sessions/{session}") == made


def test_an_id_in_use_is_refused(api: httpx.Client) -> None:
    """A second creation with the same id is a conflict, even with the same content, and changes nothing."""
    made = create(api, title="first")
    for body in ({"id": "s", "title": "first"}, {"id": "s", "title": "second", "messages": talk(1)}):
        problem(api.post("/v1/sessions", json=body), 409, "session-exists")
    assert read(api, "/v1/sessions/s") == made
    assert len(events(api)) == 1


def test_tenants_have_their_own_ids(api: httpx.Client, stranger: httpx.Client) -> None:
    """Two tenants can use the same id for sessions of their own."""
    mine, theirs = create(api, title="mine"), create(stranger, title="theirs")
    assert read(api, "/v1/sessions/s") == mine
    assert read(stranger, "/v1/sessions/s") == theirs


def test_numbers_in_traits_keep_their_digits(api: httpx.Client) -> None:
    """Numbers in traits come back digit for digit, as created and as patched."""
    headers = {"content-type": "application/json"}
    created = '{"big": 12345678901234567890123456789, "tiny": 1e-400}'
    assert api.post("/v1/sessions", content=f'{{"id": "s", "traits": {created}}}', headers=headers).is_success
    assert exact(api.get("/v1/sessions/s").text)["traits"] == exact(created)
    patched = '{"big": 1.10, "tiny": 1E400}'
    assert api.patch("/v1/sessions/s", content=f'{{"traits": {patched}}}', headers=headers).is_success
    assert exact(api.get("/v1/sessions/s").text)["traits"] == exact(patched)


def test_a_read_without_messages_has_none(api: httpx.Client) -> None:
    """A session is read without message bodies unless they are asked for."""
    create(api, messages=talk(2))
    assert not {"messages", "has_earlier"} & read(api, "/v1/sessions/s").keys()


@pytest.mark.parametrize(
    ("count", "seqs", "has_earlier"),
    [
        (0, [], True),
        (1, [5], True),
        (4, [2, 3, 4, 5], True),
        (5, [1, 2, 3, 4, 5], False),
        (1000, [1, 2, 3, 4, 5], False),
    ],
)
def test_a_read_with_messages_has_the_newest(
    api: httpx.Client, count: int, seqs: list[int], *, has_earlier: bool
) -> None:
    """The newest n messages come with the session, oldest first, and whether there are earlier ones."""
    create(api, messages=talk(5))
    answer = read(api, "/v1/sessions/s", messages=count)
    assert [m["seq"] for m in answer["messages"]] == seqs
    assert answer["has_earlier"] is has_earlier
    assert answer["messages"] == messages(api)[5 - len(seqs) :]


def test_a_read_of_no_messages_of_an_empty_session_has_no_earlier_ones(api: httpx.Client) -> None:
    """Where there is no message there is no earlier one."""
    create(api)
    assert without(read(api, "/v1/sessions/s", messages=0), *read(api, "/v1/sessions/s")) == {
        "messages": [],
        "has_earlier": False,
    }


def test_a_removed_message_is_not_an_earlier_one(api: httpx.Client) -> None:
    """A removed message counts neither among the newest nor among the earlier ones."""
    create(api, messages=talk(3))
    assert api.delete("/v1/sessions/s/messages/m1").status_code == 204
    answer = read(api, "/v1/sessions/s", messages=2)
    assert [m["id"] for m in answer["messages"]] == ["m2", "m3"]
    assert answer["has_earlier"] is False


def test_each_version_is_read_as_it_was(api: httpx.Client) -> None:
    """The answer as of a version is the very answer that was given when it was current."""
    answers = lived_through(api)
    for answer in answers:
        assert read(api, "/v1/sessions/s", as_of_version=answer["version"], messages=1000) == answer


def test_each_time_is_read_as_it_was(api: httpx.Client) -> None:
    """The answer as of the time of a change is the very answer that was given after it."""
    answers = lived_through(api)
    for answer in answers:
        assert read(api, "/v1/sessions/s", as_of=answer["updated_at"], messages=1000) == answer


def test_a_past_read_takes_the_newest_messages_of_then(api: httpx.Client) -> None:
    """The number of messages counts back from the newest of that version, not of now."""
    create(api, messages=talk(5))
    answer = read(api, "/v1/sessions/s", as_of_version=4, messages=2)
    assert [m["seq"] for m in answer["messages"]] == [2, 3]
    assert (answer["message_count"], answer["has_earlier"]) == (3, True)


def test_a_past_read_without_messages_has_none(api: httpx.Client) -> None:
    """A past state, too, has message bodies only if they are asked for."""
    create(api, messages=talk(5))
    assert "messages" not in read(api, "/v1/sessions/s", as_of_version=4)


def test_a_time_is_understood_in_any_offset(api: httpx.Client) -> None:
    """A time with an offset means the same instant as its UTC form."""
    create(api)
    assert read(api, "/v1/sessions/s", as_of="2999-01-01T01:30:00+01:30") == read(api, "/v1/sessions/s")
    assert api.get("/v1/sessions/s", params={"as_of": "2001-01-01T00:00:00-05:00"}).status_code == 404
    unencoded = api.get("/v1/sessions/s?as_of=2999-01-01T01:30:00.5+01:30")
    assert unencoded.json() == read(api, "/v1/sessions/s"), "a + that was not percent-encoded is no space"


@pytest.mark.parametrize(
    "params",
    [
        {"as_of_version": 0},
        {"as_of_version": 3},
        {"as_of": "2001-01-01T00:00:00Z"},
        {"as_of": "1969-12-31T00:00:00Z"},
    ],
    ids=str,
)
def test_a_state_that_never_was_is_not_found(api: httpx.Client, params: dict[str, str]) -> None:
    """Before a session existed, and beyond its current version, there is nothing to read."""
    create(api, messages=talk(1))
    problem(api.get("/v1/sessions/s", params=params), 404, "not-found")


def test_the_last_active_session_is_listed_first(api: httpx.Client) -> None:
    """Sessions are listed by their last activity, newest first: a message brings its session to the top."""
    for session in ("a", "b", "c"):
        create(api, session)
    assert listed(api) == ["c", "b", "a"]
    append(api, "a")
    assert listed(api) == ["a", "c", "b"]


def test_a_listing_has_no_message_bodies(api: httpx.Client) -> None:
    """A listed session is the session as it is read, with no message in it."""
    create(api, messages=talk(2))
    response = api.get("/v1/sessions")
    assert response.json() == {"data": [read(api, "/v1/sessions/s")], "next_cursor": None}
    assert "message 1" not in response.text


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 200])
def test_a_listing_is_followed_to_its_end(api: httpx.Client, limit: int) -> None:
    """The cursors lead through all sessions, in order, without skip or repeat."""
    made = [create(api, f"s{n}")["id"] for n in range(7)]
    found = list(pages(api, "/v1/sessions", limit=limit))
    assert [session["id"] for page in found for session in page] == made[::-1]
    assert all(len(page) <= limit for page in found)


def test_a_listing_has_fifty_sessions_by_default(api: httpx.Client) -> None:
    """A page without a limit has 50 sessions."""
    for n in range(51):
        create(api, f"s{n}")
    assert [len(page) for page in pages(api, "/v1/sessions")] == [50, 1]


def test_a_listing_of_nothing_is_an_empty_page(api: httpx.Client) -> None:
    """A tenant without sessions gets an empty page."""
    assert read(api, "/v1/sessions") == {"data": [], "next_cursor": None}


def test_a_listing_is_filtered(api: httpx.Client) -> None:
    """Sessions are found by their user, by whether they are archived, and by both."""
    for session, user in (("a", "u"), ("b", "u"), ("c", "v"), ("d", None)):
        create(api, session, user_id=user)
    patch(api, {"archived": True}, "b")
    patch(api, {"archived": True}, "c")
    assert sorted(listed(api, user_id="u")) == ["a", "b"]
    assert sorted(listed(api, archived="true")) == ["b", "c"]
    assert sorted(listed(api, archived="false")) == ["a", "d"]
    assert sorted(listed(api, archived="true", user_id="u")) == ["b"]
    assert listed(api, user_id="nobody") == []
    assert sorted(listed(api)) == ["a", "b", "c", "d"]


def test_a_filter_follows_the_changes(api: httpx.Client) -> None:
    """A session is found by its present user, not by a former one."""
    create(api, user_id="u")
    patch(api, {"user_id": "v"})
    assert (listed(api, user_id="u"), listed(api, user_id="v")) == ([], ["s"])


def test_a_filter_is_text_and_no_pattern(api: httpx.Client) -> None:
    """What means something to a database is plain text in a filter."""
    for session, user in (("a", "100%"), ("b", "100x"), ("c", "' OR 1=1 --")):
        create(api, session, user_id=user)
    assert listed(api, user_id="100%") == ["a"]
    assert listed(api, user_id="' OR 1=1 --") == ["c"]


def test_a_filtered_listing_is_followed_to_its_end(api: httpx.Client) -> None:
    """The cursors of a filtered listing stay within the filter."""
    for n in range(6):
        create(api, f"s{n}", user_id="even" if n % 2 == 0 else "odd")
    found = [s["id"] for page in pages(api, "/v1/sessions", user_id="even", limit=1) for s in page]
    assert found == ["s4", "s2", "s0"]


def cursor_of(client: httpx.Client, path: str = "/v1/sessions", **params: Any) -> str:
    """The cursor behind a first page of one session."""
    for n in range(3):
        create(client, f"s{n}", user_id="u")
    cursor = read(client, path, **params, limit=1)["next_cursor"]
    assert isinstance(cursor, str)
    return cursor


def test_a_cursor_of_another_tenant_is_refused(api: httpx.Client, stranger: httpx.Client) -> None:
    """A cursor is worth nothing to another tenant, even one that has such sessions."""
    cursor_of(stranger)
    response = stranger.get("/v1/sessions", params={"limit": 1, "cursor": cursor_of(api)})
    problem(response, 400, "invalid-request")


@pytest.mark.parametrize(
    ("given_for", "used_for"),
    [
        ({"user_id": "u"}, {"user_id": "v"}),
        ({"user_id": "u"}, {}),
        ({}, {"user_id": "u"}),
        ({}, {"archived": "false"}),
    ],
    ids=str,
)
def test_a_cursor_of_another_query_is_refused(
    api: httpx.Client, given_for: dict[str, str], used_for: dict[str, str]
) -> None:
    """A cursor goes on with the query that it was given for, and with no other."""
    cursor = cursor_of(api, **given_for)
    response = api.get("/v1/sessions", params={"limit": 1, "cursor": cursor, **used_for})
    problem(response, 400, "invalid-request")


def test_a_cursor_of_another_listing_is_refused(api: httpx.Client) -> None:
    """A cursor of the events is none of the sessions."""
    cursor = cursor_of(api, "/v1/events")
    problem(api.get("/v1/sessions", params={"limit": 1, "cursor": cursor}), 400, "invalid-request")


@pytest.mark.parametrize(
    "damage",
    [
        lambda cursor: cursor[:-1],
        lambda cursor: cursor[1:],
        lambda cursor: cursor + "A",
        lambda cursor: cursor + "é",
        lambda cursor: " " + cursor,
        lambda cursor: cursor[:-1] + ("A" if cursor[-1] != "A" else "B"),
        lambda cursor: cursor[:-1] + chr(ord(cursor[-1]) ^ 1),
    ],
    ids=[
        "no end",
        "no start",
        "one more",
        "one more beyond ASCII",
        "a space before",
        "another end",
        "a bit off",
    ],
)
def test_a_damaged_cursor_is_refused(api: httpx.Client, damage: Callable[[str], str]) -> None:
    """A cursor with a character changed, cut off or added is refused."""
    broken = damage(cursor_of(api))
    problem(api.get("/v1/sessions", params={"limit": 1, "cursor": broken}), 400, "invalid-request")


def test_a_cursor_with_any_character_changed_is_refused(api: httpx.Client) -> None:
    """Each character of a cursor matters."""
    cursor = cursor_of(api)
    for at, character in enumerate(cursor):
        changed = cursor[:at] + ("A" if character != "A" else "B") + cursor[at + 1 :]
        response = api.get("/v1/sessions", params={"limit": 1, "cursor": changed})
        problem(response, 400, "invalid-request")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"title": "new"}, {"title": "new"}),
        ({"title": None}, {"title": None}),
        ({"title": ""}, {"title": ""}),
        ({"user_id": "u2"}, {"user_id": "u2"}),
        ({"user_id": None}, {"user_id": None}),
        ({"archived": True}, {"archived": True}),
        ({"traits": {"b": 2}}, {"traits": {"a": 1, "b": 2}}),
        ({"traits": None}, {"traits": {}}),
        (
            {"title": "t", "archived": True, "traits": {"a": None}},
            {"title": "t", "archived": True, "traits": {}},
        ),
    ],
    ids=json.dumps,
)
def test_a_patch_changes_what_it_names(api: httpx.Client, changes: Json, expected: Json) -> None:
    """A patch is one event that changes the fields it names, a null removes, and the rest stays."""
    made = create(api, title="old", user_id="u", traits={"a": 1})
    answer = patch(api, changes)
    assert answer == {**made, **expected, "version": 2, "updated_at": answer["updated_at"]}
    assert answer["updated_at"] > made["updated_at"]
    assert read(api, "/v1/sessions/s") == answer


@pytest.mark.parametrize(("original", "changes", "result"), MERGE_PATCHES, ids=json.dumps)
def test_traits_are_merged_as_rfc_7396_says(api: httpx.Client, original: Json, changes: Json, result: Json) -> None:
    """Each example of RFC 7396 that is about objects holds for traits."""
    create(api, traits=original)
    assert patch(api, {"traits": changes})["traits"] == result
    assert read(api, "/v1/sessions/s")["traits"] == result


def test_a_patch_is_taken_under_its_own_media_type(api: httpx.Client) -> None:
    """A patch may be sent as application/merge-patch+json, which RFC 7396 registers."""
    create(api)
    headers = {"content-type": "application/merge-patch+json"}
    response = api.patch("/v1/sessions/s", content='{"title": "t"}', headers=headers)
    assert (response.status_code, response.json()["title"]) == (200, "t")


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"title": "t"},
        {"user_id": "u", "archived": False},
        {"traits": {}},
        {"traits": {"a": {"b": [1, True, None]}}},
        {"traits": {"absent": None}},
        {"traits": {"a": {"absent": None}}},
    ],
    ids=json.dumps,
)
def test_a_patch_that_changes_nothing_writes_no_event(api: httpx.Client, changes: Json) -> None:
    """A patch to what is so already answers with the session as it is."""
    made = create(api, title="t", user_id="u", traits={"a": {"b": [1, True, None]}})
    response = api.patch("/v1/sessions/s", json=changes)
    assert (response.status_code, response.json(), response.headers["etag"]) == (200, made, '"1"')
    assert len(events(api)) == 1


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("1", "true"),
        ("false", "0"),
        ("[0]", "[false]"),
        ("1", "1.0"),
        ("1e400", "2e400"),
        ("12345678901234567890123456789", "12345678901234567890123456788"),
    ],
)
def test_values_that_only_look_equal_are_a_change(api: httpx.Client, before: str, after: str) -> None:
    """A patch from 1 to true, or to other digits of a number, is a change."""
    headers = {"content-type": "application/json"}
    api.post("/v1/sessions", content=f'{{"id": "s", "traits": {{"a": {before}}}}}', headers=headers)
    response = api.patch("/v1/sessions/s", content=f'{{"traits": {{"a": {after}}}}}', headers=headers)
    assert exact(response.text)["traits"] == exact(f'{{"a": {after}}}')
    assert response.headers["etag"] == '"2"'


def test_a_deleted_session_is_gone_to_readers(api: httpx.Client) -> None:
    """After its deletion a session is not found by any call of readers or writers, in no former state."""
    made = create(api, messages=talk(1))
    response = api.delete("/v1/sessions/s")
    assert (response.status_code, response.content) == (204, b"")
    message = {"role": "user", "content": "late"}
    for method, path, body in (
        ("GET", "/v1/sessions/s", None),
        ("GET", "/v1/sessions/s?messages=1", None),
        ("GET", "/v1/sessions/s?as_of_version=1", None),
        ("GET", f"/v1/sessions/s?as_of={made['updated_at']}", None),
        ("GET", "/v1/sessions/s/messages", None),
        ("GET", "/v1/sessions/s/messages/m1", None),
        ("PATCH", "/v1/sessions/s", {"title": "t"}),
        ("PATCH", "/v1/sessions/s", {}),
        ("POST", "/v1/sessions/s/messages", message),
        ("POST", "/v1/sessions/s/messages", talk(1)[0]),
        ("POST", "/v1/sessions/s/messages", {"messages": [message]}),
        ("POST", "/v1/sessions/s/fork", {}),
        ("DELETE", "/v1/sessions/s/messages/m1", None),
        ("DELETE", "/v1/sessions/s", None),
    ):
        problem(api.request(method, path, json=body), 404, "not-found")
    assert listed(api) == []
    assert len(events(api)) == 3


def test_a_deleted_id_stays_taken(api: httpx.Client) -> None:
    """The id of a deleted session is not given out again, neither to a new session nor to a fork."""
    create(api)
    create(api, "other")
    assert api.delete("/v1/sessions/s").status_code == 204
    problem(api.post("/v1/sessions", json={"id": "s"}), 409, "session-exists")
    problem(api.post("/v1/sessions/other/fork", json={"id": "s"}), 409, "session-exists")


def test_a_fork_has_copies_of_the_messages(api: httpx.Client) -> None:
    """A fork is a new session that names its source and starts with copies of its messages."""
    create(api, messages=talk(3))
    response = api.post("/v1/sessions/s/fork", json={"id": "f", "title": "branch"})
    answer = response.json()
    assert response.status_code == 201
    assert response.headers["location"] == "/v1/sessions/f"
    assert response.headers["etag"] == f'"{answer["version"]}"'
    assert (answer["id"], answer["title"], answer["message_count"]) == ("f", "branch", 3)
    assert answer["forked_from"] == {"session_id": "s", "version": 4}
    assert read(api, "/v1/sessions/f") == answer
    assert read(api, "/v1/sessions", limit=1)["data"] == [answer]
    assert [without(m, "session_id") for m in messages(api, "f")] == [without(m, "session_id") for m in messages(api)]
    assert {m["session_id"] for m in messages(api, "f")} == {"f"}


def test_a_fork_without_fields_gets_an_id(api: httpx.Client) -> None:
    """A fork needs no field: it gets an id and the messages of now."""
    create(api, messages=talk(2))
    answer = fork(api)
    assert uuid.UUID(answer["id"]).version == 7
    assert [m["content"] for m in messages(api, answer["id"])] == ["message 1", "message 2"]


def test_a_fork_of_a_version_has_the_messages_of_then(api: httpx.Client) -> None:
    """A fork as of a version has what readers saw then: no later message, and a later removed one."""
    create(api, messages=talk(3))
    assert api.delete("/v1/sessions/s/messages/m2").status_code == 204
    answer = fork(api, id="then", version=3)
    assert answer["forked_from"] == {"session_id": "s", "version": 3}
    assert [m["id"] for m in messages(api, "then")] == ["m1", "m2"]
    fork(api, id="now")
    assert [m["id"] for m in messages(api, "now")] == ["m1", "m3"]


def test_a_fork_of_the_first_version_is_empty(api: httpx.Client) -> None:
    """At its creation a session has no messages, and so has a fork from there."""
    create(api, messages=talk(1))
    assert fork(api, version=1)["message_count"] == 0


def test_a_fork_and_its_source_go_their_own_ways(api: httpx.Client) -> None:
    """A change to the fork or to its source does not show in the other; neither does a deletion."""
    create(api, messages=talk(2))
    source = read(api, "/v1/sessions/s")
    fork(api, id="f")
    assert read(api, "/v1/sessions/s") == source
    append(api, "f", content="in the fork")
    append(api, "s", content="in the source")
    assert api.delete("/v1/sessions/f/messages/m1").status_code == 204
    assert [m["content"] for m in messages(api)] == ["message 1", "message 2", "in the source"]
    assert api.delete("/v1/sessions/s").status_code == 204
    assert [m["content"] for m in messages(api, "f")] == ["message 2", "in the fork"]


def test_a_fork_is_forked_again(api: httpx.Client) -> None:
    """A fork of a fork names the fork as its source."""
    create(api, messages=talk(2))
    version = fork(api, id="f")["version"]
    assert fork(api, "f", id="g")["forked_from"] == {"session_id": "f", "version": version}
    assert [m["content"] for m in messages(api, "g")] == ["message 1", "message 2"]


def test_a_fork_keeps_the_messages_as_they_are(api: httpx.Client) -> None:
    """All members of a message are copied: a parent, metadata, the time that the client gave."""
    first, second = talk(2, created_at="2024-05-15T15:00:00.000001Z", metadata={"n": [1, None]})
    create(api, messages=[first, {**second, "parent_id": "m1", "name": "n"}])
    fork(api, id="f")
    copy = messages(api, "f")[1]
    assert copy == {**messages(api)[1], "session_id": "f"}
    assert (copy["parent_id"], copy["created_at"]) == ("m1", "2024-05-15T15:00:00.000001Z")


@pytest.mark.parametrize("taken", ["s", "other"])
def test_a_fork_into_an_id_in_use_is_refused(api: httpx.Client, taken: str) -> None:
    """A fork needs an id that no session has, its source's neither."""
    create(api, "other")
    create(api, messages=talk(1))
    problem(api.post("/v1/sessions/s/fork", json={"id": taken}), 409, "session-exists")
    assert len(events(api)) == 3


@pytest.mark.parametrize("version", [0, -1, 3, 9007199254740993])
def test_a_fork_of_a_version_that_never_was_is_refused(api: httpx.Client, version: int) -> None:
    """A fork needs a version that the session has reached."""
    create(api, messages=talk(1))
    problem(api.post("/v1/sessions/s/fork", json={"version": version}), 400, "invalid-request")
    assert len(events(api)) == 2
