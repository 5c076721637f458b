"""The audit: what happened, in order, as it was sent, also of what is deleted."""

import re
from itertools import pairwise

import httpx
import pytest

from support.api import TIME, Json, append, create, events, exact, messages, pages, problem, read, talk
from support.server import Server

JSON = {"content-type": "application/json"}
HISTORY = "/v1/sessions/s/events"
EVERYTHING = "/v1/events"
TYPES = [
    "session.created",
    "message.appended",
    "message.appended",
    "session.updated",
    "message.removed",
    "session.deleted",
]


def live(client: httpx.Client, session: str = "s") -> None:
    """A session's life, from creation to deletion: one event of each type, of the messages two."""
    path = f"/v1/sessions/{session}"
    create(client, session, title="t", user_id="u", traits={"a": [None]}, messages=talk(1))
    append(client, session, id="m2", metadata={"b": None})
    changes = {"title": None, "traits": {"a": None, "c": {"d": 1}}, "archived": True}
    assert client.patch(path, json=changes).status_code == 200
    assert client.delete(f"{path}/messages/m1").status_code == 204
    assert client.delete(path).status_code == 204


def positions(found: list[Json]) -> list[int]:
    """The events' positions."""
    return [event["position"] for event in found]


def versions(found: list[Json]) -> list[int]:
    """The events' versions."""
    return [event["version"] for event in found]


def test_a_session_has_its_full_history(api: httpx.Client) -> None:
    """Each change is one event, in order, with the session's versions from 1 on, also once it is deleted."""
    live(api)
    found = read(api, HISTORY)
    assert [event["type"] for event in found["data"]] == TYPES
    assert versions(found["data"]) == [1, 2, 3, 4, 5, 6]
    assert (found["has_more"], found["next_cursor"]) == (False, None)
    assert api.get(HISTORY).headers["etag"] == '"6"'


def test_an_event_tells_who_what_and_when(api: httpx.Client) -> None:
    """An event has its place, its type, its tenant and session, its time, actor, request, data and leaf."""
    live(api)
    for event in events(api, HISTORY):
        assert event.keys() == {
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
        }
        assert (event["schema"], event["session_id"], event["actor"]) == (1, "s", "open")
        assert event["tenant_id"] == api.headers["x-tenant-id"]
        assert TIME.fullmatch(event["recorded_at"])
        assert re.fullmatch("[0-9a-f]{64}", event["leaf"])


def test_each_event_has_a_leaf_of_its_own(api: httpx.Client) -> None:
    """Equal messages have different leaves, so that a leaf gives no message away."""
    create(api, messages=[{"role": "user", "content": "yes"}] * 5)
    leaves = {event["leaf"] for event in events(api)}
    assert len(leaves) == 6


def test_an_event_has_the_data_that_was_sent(api: httpx.Client) -> None:
    """The data of each event is what the client sent: fields, messages, changes as a merge patch, ids."""
    live(api)
    created, first, second, updated, removed, deleted = (event["data"] for event in events(api, HISTORY))
    assert created == {"title": "t", "user_id": "u", "traits": {"a": [None]}}
    assert first["message"] == talk(1)[0]
    assert second["message"] == {"role": "user", "content": "Hello", "id": "m2", "metadata": {"b": None}}
    assert updated == {"changes": {"title": None, "traits": {"a": None, "c": {"d": 1}}, "archived": True}}
    assert removed == {"message_id": "m1"}
    assert deleted == {}


def test_an_event_has_the_numbers_that_were_sent(api: httpx.Client) -> None:
    """Numbers come back from the audit digit for digit."""
    traits, metadata = '{"a": 12345678901234567890123456789}', '{"b": [1.10, 1e400, -0.0]}'
    create(api)
    message = f'{{"role": "user", "content": "", "metadata": {metadata}}}'
    assert api.patch("/v1/sessions/s", content=f'{{"traits": {traits}}}', headers=JSON).status_code == 200
    assert api.post("/v1/sessions/s/messages", content=message, headers=JSON).status_code == 201
    for path in (HISTORY, EVERYTHING):
        updated, appended = (event["data"] for event in exact(api.get(path).text)["data"][1:])
        assert updated["changes"]["traits"] == exact(traits)
        assert appended["message"]["metadata"] == exact(metadata)


def test_a_history_goes_on_behind_a_version(api: httpx.Client) -> None:
    """A history can be read from any version on, and a page at a time."""
    live(api)
    assert versions(read(api, HISTORY, after=0)["data"]) == [1, 2, 3, 4, 5, 6]
    assert versions(read(api, HISTORY, after=4)["data"]) == [5, 6]
    assert versions(read(api, HISTORY, after=6)["data"]) == []
    assert versions(read(api, HISTORY, after=1, limit=2)["data"]) == [2, 3]


def test_the_ledger_goes_on_behind_a_position(api: httpx.Client) -> None:
    """The tenant's events can be read from any position on, and a page at a time."""
    live(api)
    everything = events(api)
    third = everything[2]["position"]
    assert read(api, EVERYTHING, after=third)["data"] == everything[3:]
    assert read(api, EVERYTHING, after=third, limit=2)["data"] == everything[3:5]
    assert read(api, EVERYTHING, after=everything[-1]["position"]) == {
        "data": [],
        "has_more": False,
        "next_cursor": None,
    }


@pytest.mark.parametrize("limit", [1, 2, 3, 12, 200])
@pytest.mark.parametrize("path", [HISTORY, EVERYTHING])
def test_events_are_followed_to_their_end(api: httpx.Client, path: str, limit: int) -> None:
    """The cursors lead through all events in order, without skip or repeat, in pages of the limit."""
    live(api)
    live(api, "other")
    expected = read(api, path, limit=200)["data"]
    found = list(pages(api, path, limit=limit))
    assert [event for page in found for event in page] == expected
    assert all(len(page) == limit for page in found[:-1])
    assert 0 < len(found[-1]) <= limit


@pytest.mark.parametrize("path", [HISTORY, EVERYTHING])
def test_a_page_says_if_there_is_more(api: httpx.Client, path: str) -> None:
    """There is a cursor exactly where there is more to read."""
    live(api)
    for limit, more in ((5, True), (6, False), (7, False)):
        page = read(api, path, limit=limit)
        assert page["has_more"] is more
        assert isinstance(page["next_cursor"], str) is more


def test_a_cursor_goes_on_as_the_last_place_does(api: httpx.Client) -> None:
    """The cursor of a page leads to the same events as the place of its last one."""
    live(api)
    for path, place in ((HISTORY, "version"), (EVERYTHING, "position")):
        page = read(api, path, limit=2)
        by_place = read(api, path, limit=2, after=page["data"][-1][place])
        by_cursor = read(api, path, limit=2, cursor=page["next_cursor"])
        assert by_cursor == by_place


def test_new_events_come_behind_the_last(api: httpx.Client) -> None:
    """Who has read to the end finds later events behind the last position, and no others."""
    create(api)
    last = events(api)[-1]["position"]
    append(api)
    create(api, "later")
    assert [(e["type"], e["session_id"]) for e in events(api, after=last)] == [
        ("message.appended", "s"),
        ("session.created", "later"),
    ]


@pytest.mark.parametrize("kind", sorted(set(TYPES)))
def test_events_are_found_by_type(api: httpx.Client, kind: str) -> None:
    """The tenant's events of one type are found, in order, over all pages."""
    for session in ("s", "t", "u"):
        live(api, session)
    expected = [event for event in events(api) if event["type"] == kind]
    assert expected
    assert events(api, type=kind, limit=2) == expected
    assert events(api, type=kind, after=expected[0]["position"]) == expected[1:]


def test_a_type_that_did_not_happen_has_no_events(api: httpx.Client) -> None:
    """A known type of which there is nothing gives an empty page."""
    create(api)
    assert read(api, EVERYTHING, type="session.erased") == {
        "data": [],
        "has_more": False,
        "next_cursor": None,
    }


def test_the_events_of_all_sessions_stand_in_ledger_order(api: httpx.Client) -> None:
    """Sessions that take turns stand in the ledger as they took them, each with its own versions."""
    for session in ("a", "b"):
        create(api, session)
    for session in ("b", "a", "a", "b"):
        append(api, session)
    found = events(api)
    assert [(e["session_id"], e["version"]) for e in found] == [
        ("a", 1),
        ("b", 1),
        ("b", 2),
        ("a", 2),
        ("a", 3),
        ("b", 3),
    ]
    assert all(earlier < later for earlier, later in pairwise(positions(found)))
    for session in ("a", "b"):
        own = [event for event in found if event["session_id"] == session]
        assert events(api, f"/v1/sessions/{session}/events") == own


def test_the_ledger_has_no_gap(server: Server) -> None:
    """The positions of all tenants together are 1, 2, 3 and so on, whatever was refused between."""
    with server.client(tenant="a") as one, server.client(tenant="b") as two:
        for client in (one, two):
            live(client)
            problem(client.post("/v1/sessions", json={"id": "s"}), 409, "session-exists")
            problem(client.post("/v1/sessions", json={"mood": 1}), 400, "invalid-request")
            create(client, "t")
        found = sorted(positions(events(one) + events(two)))
    assert found == list(range(1, 15))


def test_a_batch_stands_together(api: httpx.Client) -> None:
    """The events of one request follow each other at one time."""
    create(api, messages=talk(3))
    assert api.post("/v1/sessions/s/messages", json={"messages": talk(5)[3:]}).status_code == 201
    for group in (events(api)[:4], events(api)[4:]):
        first = group[0]["position"]
        assert positions(group) == list(range(first, first + len(group)))
        assert len({event["recorded_at"] for event in group}) == 1
        assert len({event["request_id"] for event in group}) == 1
    assert len(events(api)) == 6


def test_a_fork_starts_a_history_of_its_own(api: httpx.Client) -> None:
    """A fork's history names its source and holds the copies; the source's history is as it was."""
    create(api, messages=talk(2))
    source = events(api, HISTORY)
    assert api.post("/v1/sessions/s/fork", json={"id": "f", "title": "t"}).status_code == 201
    found = events(api, "/v1/sessions/f/events")
    assert [e["type"] for e in found] == ["session.created", "message.appended", "message.appended"]
    assert versions(found) == [1, 2, 3]
    assert positions(found) == list(range(found[0]["position"], found[0]["position"] + 3))
    assert found[0]["data"]["forked_from"] == {"session_id": "s", "version": 3}
    assert [e["data"]["message"]["content"] for e in found[1:]] == ["message 1", "message 2"]
    assert events(api, HISTORY) == source


def test_a_removed_message_stays_in_the_history(api: httpx.Client) -> None:
    """What readers no longer see is still there for audit."""
    create(api, messages=talk(1))
    appended = events(api, HISTORY)[1]
    assert api.delete("/v1/sessions/s/messages/m1").status_code == 204
    assert messages(api) == []
    assert events(api, HISTORY)[1] == appended


def test_a_history_never_changes(api: httpx.Client) -> None:
    """Later events leave earlier ones as they are, in the history as in the ledger."""
    create(api, messages=talk(2))
    earlier = events(api, HISTORY)
    api.patch("/v1/sessions/s", json={"title": "t"})
    assert api.delete("/v1/sessions/s").status_code == 204
    assert events(api, HISTORY)[:3] == earlier
    assert events(api)[:3] == earlier


def test_a_page_has_fifty_events_by_default(api: httpx.Client) -> None:
    """A page without a limit has 50 events, of the session as of the tenant."""
    create(api, messages=talk(60))
    for path in (HISTORY, EVERYTHING):
        assert [len(page) for page in pages(api, path)] == [50, 11]


def test_the_events_of_another_tenant_are_not_there(api: httpx.Client, stranger: httpx.Client) -> None:
    """A tenant reads its own events only, whatever position it starts from; others' sessions have none."""
    live(stranger)
    create(api)
    live(stranger, "other")
    assert [e["session_id"] for e in events(api)] == ["s"]
    assert events(api, after=events(stranger)[0]["position"]) == events(api)
    assert [e["type"] for e in events(api, HISTORY)] == ["session.created"]
    problem(api.get("/v1/sessions/other/events"), 404, "not-found")


def test_a_cursor_is_bound_to_its_tenant_and_query(api: httpx.Client, stranger: httpx.Client) -> None:
    """A cursor of the events is refused under another tenant, another session, another type, another path."""
    for client in (api, stranger):
        live(client)
        live(client, "other")
    ledger = read(api, EVERYTHING, limit=1)["next_cursor"]
    messages_only = read(api, EVERYTHING, limit=1, type="message.appended")["next_cursor"]
    history = read(api, HISTORY, limit=1)["next_cursor"]
    for client, path, cursor in (
        (stranger, EVERYTHING, ledger),
        (stranger, HISTORY, history),
        (api, f"{EVERYTHING}?type=message.appended", ledger),
        (api, EVERYTHING, messages_only),
        (api, f"{EVERYTHING}?type=session.created", messages_only),
        (api, "/v1/sessions/other/events", history),
        (api, HISTORY, ledger),
        (api, EVERYTHING, history),
    ):
        separator = "&" if "?" in path else "?"
        response = client.get(f"{path}{separator}limit=1&cursor={cursor}")
        problem(response, 400, "invalid-request")
