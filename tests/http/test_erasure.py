"""`POST /v1/sessions/{id}/erase` and `chatledger erase`, with the real server on real files."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from chatledger.domain.timestamps import parse_us
from chatledger.ledger import event_store
from chatledger.settings import Settings
from chatledger.storage import ledger_file, transactions
from chatledger.storage.paths import Location
from support import command
from support.api import append, create, events, problem, read
from support.canary import CANARY, copied, found_beside_views, found_in
from support.server import Server
from support.workers import until

WHY = {"reason": "request 17"}
AT_ONCE = {"CHATLEDGER_SCRUB_S": "1"}
"""Views that may have copies are built anew after half a second."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The data folder, with nothing else in it."""
    path = tmp_path / "data"
    path.mkdir()
    return path


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    """A server of its own, that logs each request."""
    with Server(folder / "ledger.db", env={"CHATLEDGER_LOG_LEVEL": "debug", **AT_ONCE}) as started:
        yield started


@pytest.fixture
def own(server: Server) -> Iterator[httpx.Client]:
    """A client of it."""
    with server.client() as client:
        yield client


def write(client: httpx.Client, session: str = "s") -> None:
    """Write a session that has the canary everywhere, beside one that does not."""
    first = {"id": "m0", "role": "user", "content": CANARY, "name": CANARY}
    body = {"id": session, "title": CANARY, "user_id": CANARY, "traits": {CANARY: CANARY}, "messages": [first]}
    made = client.post("/v1/sessions", json=body, headers={"Idempotency-Key": f"make-{session}"})
    assert made.status_code == 201, made.text
    create(client, f"o-{session}", title="kept")
    for number in range(1, 20):
        message = {"id": f"m{number}", "role": "user", "content": f"{CANARY} " * (1_000 if number % 5 == 0 else 3)}
        path = f"/v1/sessions/{session}/messages"
        said = client.post(path, json=message, headers={"Idempotency-Key": f"say-{session}-{number}"})
        assert said.status_code == 201, said.text
        append(client, f"o-{session}", id=f"m{number}", content="kept")
    assert client.delete(f"/v1/sessions/{session}/messages/m2").status_code == 204
    assert client.patch(f"/v1/sessions/{session}", json={"title": CANARY * 9}).status_code == 200


def scrubbed(client: httpx.Client, *sessions: str) -> None:
    """Wait until no file can have a copy of what the erased *sessions* said: what is promised within `SCRUB_S`."""
    for session in sessions:
        until(lambda session=session: read(client, f"/v1/sessions/{session}/erasure")["scrubbed"])  # type: ignore[misc]


def test_the_content_is_in_no_file_and_in_no_log_line(own: httpx.Client, server: Server, folder: Path) -> None:
    """While the server runs, once it has stopped, and after the next start; other sessions are as they were."""
    write(own)
    kept = read(own, "/v1/sessions/o-s", messages=100)
    assert found_in(folder) != []
    answer = own.post("/v1/sessions/s/erase", json=WHY)
    assert answer.status_code == 200, answer.text
    expected = {"session_id": "s", "version": 24, "events_erased": 23, "forks": [], "scrubbed": False}
    assert answer.json() == expected
    assert found_beside_views(folder) == []
    scrubbed(own, "s")
    assert found_in(folder) == []
    assert read(own, "/v1/sessions/o-s", messages=100) == kept
    append(own, "o-s", content="more")
    server.stop()
    assert found_in(folder) == []
    assert CANARY not in server.stderr
    assert '"route":"/v1/sessions/{session_id}/erase"' in server.stderr.replace(": ", ":")
    server.start()
    assert found_in(folder) == []
    problem(own.get("/v1/sessions/s"), 404, "not-found")


def test_the_history_says_who_when_and_why(own: httpx.Client) -> None:
    """Each event of the session stays with its leaf and without its data; the last one is the erasure."""
    write(own)
    before = events(own, "/v1/sessions/s/events")
    answer = own.post("/v1/sessions/s/erase", json=WHY, headers={"X-Request-Id": "r-1"})
    after = events(own, "/v1/sessions/s/events")
    assert answer.headers["etag"] == f'"{len(after)}"'
    assert answer.json()["events_erased"] == len(before) == len(after) - 1
    assert after[:-1] == [event | {"data": None, "erased": True} for event in before]
    last = after[-1]
    assert (last["type"], last["actor"], last["request_id"], last["data"]) == ("session.erased", "open", "r-1", WHY)
    assert "erased" not in last
    assert [event for event in events(own) if event["session_id"] == "s"] == after


def test_how_an_erasure_stands_can_be_asked(own: httpx.Client, server: Server) -> None:
    """Who, when, why, how much; and by when no file can have a copy, until none can. Of no other session."""
    write(own)
    problem(own.get("/v1/sessions/s/erasure"), 404)
    answer = own.post("/v1/sessions/s/erase", json=WHY)
    last = events(own, "/v1/sessions/s/events")[-1]
    asked = own.get("/v1/sessions/s/erasure")
    found = asked.json()
    assert asked.headers["etag"] == answer.headers["etag"]
    expected = {"session_id": "s", "version": 24, "erased_at": last["recorded_at"], "actor": "open", "events": 23} | WHY
    assert {name: found[name] for name in expected} == expected
    assert found["scrubbed"] or parse_us(found["scrub_by"]) == parse_us(found["erased_at"]) + 1_000_000
    scrubbed(own, "s")
    assert read(own, "/v1/sessions/s/erasure")["scrub_by"] is None
    assert own.post("/v1/sessions/s/erase", json=WHY).json()["scrubbed"]
    problem(own.get("/v1/sessions/o-s/erasure"), 404)
    problem(own.get("/v1/sessions/nothing/erasure"), 404)
    with server.client(tenant="b") as stranger:
        problem(stranger.get("/v1/sessions/s/erasure"), 404)


def test_many_erasures_share_one_rebuild(own: httpx.Client) -> None:
    """It is the next one that was begun after them."""
    for number in range(10):
        create(own, f"s{number}")
    generation = read(own, "/v1/admin/projections")["generation"]
    for number in range(10):
        assert own.post(f"/v1/sessions/s{number}/erase", json=WHY).status_code == 200
    scrubbed(own, *(f"s{number}" for number in range(10)))
    assert read(own, "/v1/admin/projections")["generation"] in (generation + 1, generation + 2)


def test_readers_and_writers_find_no_session(own: httpx.Client) -> None:
    """As after a deletion: 404, and the id stays taken."""
    write(own)
    own.post("/v1/sessions/s/erase", json=WHY)
    problem(own.get("/v1/sessions/s"), 404)
    problem(own.get("/v1/sessions/s?as_of_version=2"), 404)
    problem(own.get("/v1/sessions/s/messages"), 404)
    problem(own.post("/v1/sessions/s/messages", json={"role": "user", "content": "x"}), 404)
    problem(own.post("/v1/sessions/s/fork", json={}), 404)
    problem(own.post("/v1/sessions", json={"id": "s"}), 409, "session-exists")
    assert [each["id"] for each in read(own, "/v1/sessions")["data"]] == ["o-s"]


def test_old_keys_answer_404_and_leak_nothing(own: httpx.Client) -> None:
    """The creation's, and an append's, repeated as they were."""
    write(own)
    own.post("/v1/sessions/s/erase", json=WHY)
    first = {"id": "m0", "role": "user", "content": CANARY, "name": CANARY}
    body = {"id": "s", "title": CANARY, "user_id": CANARY, "traits": {CANARY: CANARY}, "messages": [first]}
    again = own.post("/v1/sessions", json=body, headers={"Idempotency-Key": "make-s"})
    problem(again, 404)
    message = {"id": "m1", "role": "user", "content": f"{CANARY} " * 3}
    said = own.post("/v1/sessions/s/messages", json=message, headers={"Idempotency-Key": "say-s-1"})
    problem(said, 404)
    assert CANARY not in again.text + said.text


def test_a_second_erasure_is_the_first(own: httpx.Client) -> None:
    """No event is added, whatever reason, `If-Match` or key it comes with; and a repeated key says so."""
    create(own)
    first = own.post("/v1/sessions/s/erase", json=WHY, headers={"Idempotency-Key": "k"})
    again = own.post("/v1/sessions/s/erase", json=WHY, headers={"Idempotency-Key": "k"})
    other = own.post("/v1/sessions/s/erase", json={"reason": "another"}, headers={"If-Match": '"1"'})
    assert first.json() == again.json() == other.json()
    assert (first.status_code, again.status_code, other.status_code) == (200, 200, 200)
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert len(events(own, "/v1/sessions/s/events")) == 2
    mismatch = own.post("/v1/sessions/s/erase", json={"reason": "another"}, headers={"Idempotency-Key": "k"})
    problem(mismatch, 422, "idempotency-mismatch")


def test_a_deleted_session_can_be_erased(own: httpx.Client, folder: Path) -> None:
    """Deleting keeps the events; erasing removes what they say."""
    write(own)
    own.delete("/v1/sessions/s")
    assert found_in(folder) != []
    assert own.post("/v1/sessions/s/erase", json=WHY).status_code == 200
    assert found_beside_views(folder) == []
    scrubbed(own, "s")
    assert found_in(folder) == []


def test_what_is_not_there_and_what_is_anothers_is_not_found(own: httpx.Client, server: Server) -> None:
    """One answer for both."""
    create(own)
    with server.client(tenant="b") as stranger:
        refused = problem(stranger.post("/v1/sessions/s/erase", json=WHY), 404)
    nothing = problem(own.post("/v1/sessions/nothing/erase", json=WHY), 404)
    assert refused["detail"] == nothing["detail"]
    assert own.get("/v1/sessions/s").status_code == 200


def test_the_forks_that_hold_copies_are_named(own: httpx.Client, server: Server) -> None:
    """Forks of forks and deleted ones too; not erased ones, and not another tenant's."""
    write(own)
    for source, fork in (("s", "f1"), ("f1", "f2"), ("s", "f3"), ("s", "f4")):
        assert own.post(f"/v1/sessions/{source}/fork", json={"id": fork}).status_code == 201
    own.delete("/v1/sessions/f3")
    own.post("/v1/sessions/f4/erase", json=WHY)
    with server.client(tenant="b") as stranger:
        create(stranger)
        stranger.post("/v1/sessions/s/fork", json={"id": "foreign"})
    assert own.post("/v1/sessions/s/erase", json=WHY).json()["forks"] == ["f1", "f2", "f3"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "$.reason"),
        ({"reason": ""}, "$.reason"),
        ({"reason": "x" * 1001}, "$.reason"),
        ({"reason": None}, "$.reason"),
        ({"reason": "r", "more": 1}, "$.more"),
    ],
)
def test_a_reason_is_needed(api: httpx.Client, body: dict[str, object], field: str) -> None:
    """Text of 1 to 1000 characters; nothing else is taken."""
    create(api)
    assert problem(api.post("/v1/sessions/s/erase", json=body), 400)["field"] == field
    assert api.get("/v1/sessions/s").status_code == 200


def test_a_reason_has_no_nul(api: httpx.Client) -> None:
    """As no string has."""
    create(api)
    problem(api.post("/v1/sessions/s/erase", json={"reason": "a\0b"}), 400)


def test_a_stale_version_is_refused(api: httpx.Client) -> None:
    """As for any change."""
    create(api)
    append(api)
    refused = problem(api.post("/v1/sessions/s/erase", json=WHY, headers={"If-Match": '"1"'}), 412)
    assert (refused["expected_version"], refused["actual_version"]) == (1, 2)
    assert api.post("/v1/sessions/s/erase", json=WHY, headers={"If-Match": '"2"'}).status_code == 200


def test_erasing_while_others_read_and_write(own: httpx.Client, server: Server, folder: Path) -> None:
    """Every request of the others is answered as it should, and the content is gone with the answer."""
    for number in range(4):
        write(own, f"s{number}")
    failures: list[str] = []
    done = threading.Event()

    def others() -> None:
        with server.client() as client:
            while not done.is_set():
                said = client.post("/v1/sessions/o-s0/messages", json={"role": "user", "content": "kept"})
                page = client.get("/v1/sessions/o-s0/messages")
                failures.extend(answer.text for answer in (said, page) if answer.status_code not in (200, 201))

    threads = [threading.Thread(target=others) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        answers = [own.post(f"/v1/sessions/s{number}/erase", json=WHY) for number in range(4)]
        seen = found_beside_views(folder)
        scrubbed(own, *(f"s{number}" for number in range(4)))
        seen += found_in(folder)
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert [answer.status_code for answer in answers] == [200] * 4
    assert seen == []
    assert failures == []


def test_a_kill_behind_the_answer_leaves_nothing(own: httpx.Client, server: Server, folder: Path) -> None:
    """SIGKILL: the files as they are, and after a normal start."""
    write(own)
    assert own.post("/v1/sessions/s/erase", json=WHY).status_code == 200
    server.kill()
    assert found_beside_views(folder) == []
    server.start()
    assert own.get("/v1/sessions/o-s").status_code == 200
    scrubbed(own, "s")
    assert found_in(folder) == []


@pytest.mark.slow
def test_a_kill_in_the_middle_is_finished_by_the_next_start(tmp_path: Path, folder: Path) -> None:
    """SIGKILL while erasures run: what is recorded is gone after the next start, and the rest can be repeated."""
    for attempt in range(5):
        data = folder / str(attempt)
        data.mkdir()
        with Server(data / "ledger.db") as server, server.client() as client:
            for number in range(6):
                write(client, f"s{number}")
            server.stop()
            server.start()
            thread = threading.Thread(target=erase_until_it_dies, args=(server,))
            thread.start()
            for _ in range(attempt * 2):
                client.get("/v1/sessions/o-s0/messages")
            server.kill()
            thread.join()
            image = copied(data, tmp_path / f"image-{attempt}")
        with Server(image / "ledger.db", env=AT_ONCE) as again, again.client() as client:
            gone = [event["session_id"] for event in events(client, type="session.erased")]
            for number in range(6):
                assert (f"s{number}" in gone) == (client.get(f"/v1/sessions/s{number}").status_code == 404)
            assert [erase_with(client, f"s{number}") for number in range(6)] == [200] * 6
            scrubbed(client, *(f"s{number}" for number in range(6)))
            assert found_in(image) == []


def erase_with(client: httpx.Client, session: str) -> int:
    """The answer's status."""
    return client.post(f"/v1/sessions/{session}/erase", json=WHY).status_code


def erase_until_it_dies(server: Server) -> None:
    """Erase one session after the other."""
    with server.client() as client:
        for number in range(6):
            try:
                erase_with(client, f"s{number}")
            except httpx.TransportError:
                return


def test_the_command_erases_a_session_without_a_server(own: httpx.Client, server: Server, folder: Path) -> None:
    """It says how many events it erased, and which forks hold copies; its actor is in the history."""
    write(own)
    own.post("/v1/sessions/s/fork", json={"id": "f"})
    server.stop()
    said = command.succeed("erase", "--database", "ledger.db", "--session", "s", "--reason", "request 17", cwd=folder)
    assert "events erased" in said
    assert "s: the fork f holds copies" in said
    command.succeed("erase", "--database", "ledger.db", "--session", "f", "--reason", "request 17", cwd=folder)
    assert found_beside_views(folder) == []
    server.start()
    scrubbed(own, "s", "f")
    assert found_in(folder) == []
    assert events(own, "/v1/sessions/s/events")[-1]["actor"] == "cli"
    assert "events verified" in command.succeed("verify", "--database", "ledger.db", cwd=folder)


@pytest.mark.parametrize("running", [True, False])
def test_the_command_erases_all_of_a_user(own: httpx.Client, server: Server, folder: Path, *, running: bool) -> None:
    """Deleted sessions too; beside a running server by way of it."""
    write(own, "s1")
    write(own, "s2")
    own.delete("/v1/sessions/s2")
    create(own, "else", user_id="someone")
    if not running:
        server.stop()
    said = command.succeed("erase", "--database", "ledger.db", "--user", CANARY, "--reason", "gone", cwd=folder)
    assert [line.split(":")[0] for line in said.splitlines()] == ["s1", "s2"]
    assert found_beside_views(folder) == []
    if not running:
        server.start()
    scrubbed(own, "s1", "s2")
    assert found_in(folder) == []
    assert [each["id"] for each in read(own, "/v1/sessions", user_id="someone")["data"]] == ["else"]


def test_the_command_refuses_what_is_not_there(own: httpx.Client, server: Server, folder: Path) -> None:
    """In one line, with a server and without."""
    create(own)
    arguments = ("erase", "--database", "ledger.db", "--session", "nothing", "--reason", "r")
    assert "No such session" in command.refuse(*arguments, cwd=folder)
    server.stop()
    assert "No such session" in command.refuse(*arguments, cwd=folder)
    assert command.run("erase", "--database", "ledger.db", "--reason", "r", cwd=folder).returncode == 2


def test_a_program_that_holds_the_files_leaves_it_pending(folder: Path) -> None:
    """503 while somebody reads the ledger for long; nobody sees the session, and the repeat is 200 once it is free."""
    path = folder / "ledger.db"
    with Server(path, env={"CHATLEDGER_BUSY_TIMEOUT_MS": "500"}) as server, server.client() as own:
        write(own)
        settings = Settings(database_path=str(path))
        with closing(ledger_file.open_ledger_reader(Location.of(settings), settings)) as other:
            with transactions.snapshot(other):
                assert event_store.head(other).position > 0
                refused = own.post("/v1/sessions/s/erase", json=WHY)
                problem(refused, 503, "erasure-pending")
                assert int(refused.headers["retry-after"]) > 0
                problem(own.get("/v1/sessions/s"), 404)
                append(own, "o-s", content="kept")
            assert own.post("/v1/sessions/s/erase", json=WHY).status_code == 200
        assert found_beside_views(folder) == []
        assert [event["type"] for event in events(own, type="session.erased")] == ["session.erased"]


def test_exports_and_proofs_of_erased_sessions(own: httpx.Client, folder: Path) -> None:
    """Both still work, and neither has the content."""
    write(own)
    own.post("/v1/sessions/s/erase", json=WHY)
    exported = command.succeed("export", "--events", "--database", "ledger.db", cwd=folder)
    assert len(exported.splitlines()) == len(events(own))
    bundle = own.get("/v1/sessions/s/proof")
    assert bundle.status_code == 200
    (folder / "bundle.json").write_bytes(bundle.content)
    assert "verified, 23 of them erased" in command.succeed("verify", "--bundle", "bundle.json", cwd=folder)
    assert CANARY not in exported + bundle.text


def test_the_list_has_what_a_restore_needs(own: httpx.Client, folder: Path) -> None:
    """A line for each erasure: tenant, session, position, time, reason and actor."""
    create(own)
    own.post("/v1/sessions/s/erase", json=WHY)
    (line,) = (folder / "ledger.db.erasures").read_text().splitlines()
    event = events(own)[-1]
    expected = {"tenant": "default", "session": "s", "position": 2, "time": event["recorded_at"], "actor": "open"}
    assert json.loads(line) == json.loads(line) | expected | WHY
