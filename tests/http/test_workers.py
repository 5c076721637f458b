"""Several workers on one ledger: what holds with one holds with all of them, whichever of them a request reaches."""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from support import workers
from support.altered import REBUILD_GATE, WatchedServer
from support.canary import CANARY, found_beside_views, found_in
from support.command import refuse, status, succeed
from support.journal import Journal, all_messages, check, create_shared
from support.server import Server, ServerDidNotStart, is_gone
from support.wire import ConnectionGone, ask
from support.workers import WORKERS, Client, at_once, until

MESSAGE = {"role": "user", "content": "Hello"}
PROJECTIONS = "/v1/admin/projections"
REBUILD = PROJECTIONS + "/rebuild"


@contextmanager
def serving(folder: Path, *, bug: str = "", **env: str) -> Iterator[WatchedServer]:
    """A server of two workers."""
    with WatchedServer(folder / "ledger.db", log=folder / "server.log", bug=bug, env={**WORKERS, **env}) as server:
        yield server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """A server of two workers, as it is."""
    with serving(tmp_path) as running:
        yield running


@pytest.fixture
def pair(server: Server) -> Iterator[tuple[Client, Client]]:
    """A connection to each of them."""
    with workers.each(server) as (one, other):
        yield one, other


def events(client: Client) -> list[dict[str, Any]]:
    """All events of the tenant."""
    found: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = client.get("/v1/events?limit=200" + (f"&cursor={cursor}" if cursor else ""))
        found += page["data"]
        cursor = page["next_cursor"]
    return found


def check_order(server: Server, *, rounds: int = 60) -> None:
    """Both append to the same session and to others; positions and versions have no gap."""
    with workers.each(server) as (one, other):
        one.post("/v1/sessions", {"id": "shared"})

        def write(client: Client) -> None:
            for number in range(rounds):
                client.post("/v1/sessions/shared/messages", MESSAGE)
                client.post("/v1/sessions", {"id": f"s-{client.pid}-{number}"})

        at_once(lambda: write(one), lambda: write(other))
        for client in (one, other):
            found = events(client)
            assert [event["position"] for event in found] == list(range(1, 4 * rounds + 2))
            shared = [event["version"] for event in found if event["session_id"] == "shared"]
            assert shared == list(range(1, 2 * rounds + 2))


def test_positions_and_versions_have_no_gap(server: Server) -> None:
    """Whoever of the workers appends."""
    check_order(server)


def test_one_key_is_one_event(pair: tuple[Client, Client]) -> None:
    """The same Idempotency-Key sent to both at once: one of them does it, both answer the same."""
    one, other = pair
    one.post("/v1/sessions", {"id": "s"})
    for number in range(40):

        def send(client: Client, key: str = f"key-{number}") -> Any:
            return client.ask("POST", "/v1/sessions/s/messages", MESSAGE, idempotency_key=key)

        first, second = at_once(lambda: send(one), lambda: send(other))
        assert (first.status, second.status) == (201, 201)
        assert first.document == second.document
        assert sum("idempotency-replayed" in answer.headers for answer in (first, second)) == 1
    assert other.get("/v1/sessions/s")["version"] == 41


def test_one_version_is_one_change(pair: tuple[Client, Client]) -> None:
    """The same If-Match sent to both at once: one is 201, the other one 412."""
    one, other = pair
    one.post("/v1/sessions", {"id": "s"})
    for version in range(1, 31):

        def send(client: Client, tag: str = f'"{version}"') -> int:
            return client.ask("POST", "/v1/sessions/s/messages", MESSAGE, if_match=tag).status

        assert sorted(at_once(lambda: send(one), lambda: send(other))) == [201, 412]


def check_reads(server: Server, *, rebuilds: int = 4) -> None:
    """What was written by one is read by the other at once, while views are swapped; no read goes back."""
    with workers.each(server) as (one, other), workers.each(server) as rebuilding:
        one.post("/v1/sessions", {"id": "s"})
        done, wrong = threading.Event(), []

        def read_on() -> None:
            seen = 0
            with workers.each(server) as readers:
                while not done.is_set():
                    for reader in readers:
                        count = reader.get("/v1/sessions/s")["message_count"]
                        if count < seen:
                            wrong.append((seen, count))
                        seen = count

        thread = threading.Thread(target=read_on)
        thread.start()
        try:
            generation, count = 1, 0
            while generation <= rebuilds:
                rebuilding[generation % 2].post(REBUILD, status=202)
                for _ in range(1000):
                    count += 1
                    writer, reader = (one, other) if count % 2 else (other, one)
                    writer.post("/v1/sessions/s/messages", {**MESSAGE, "id": f"m{count}"})
                    assert reader.get(f"/v1/sessions/s/messages?limit=1&after={count - 1}")["data"], count
                    if rebuilding[count % 2].get(PROJECTIONS)["rebuild"] is None:
                        break
                found = [client.get(PROJECTIONS)["generation"] for client in (one, other)]
                assert found == [generation + 1] * 2
                generation += 1
        finally:
            done.set()
            thread.join()
        assert wrong == []


def test_each_reads_what_the_other_wrote(server: Server) -> None:
    """Over swaps of the views too, whichever worker has built them."""
    check_reads(server)


def check_keys(server: Server) -> None:
    """A key counts, and no longer counts, for both at once."""
    with workers.each(server) as (one, other):
        folder = Path(server.database).parent
        text = succeed("key", "create", "--operator", "--database", server.database, cwd=folder).split()[-1]
        operator = f"Bearer {text}"
        for client in (one, other):
            assert client.ask("GET", "/v1/sessions").status == 401  # nobody is let in without one any more
        for number in range(15):
            maker, user = (one, other) if number % 2 else (other, one)
            given = {"tenant_id": "acme", "scopes": ["read"]}
            made = maker.post("/v1/admin/keys", given, authorization=operator)
            assert user.ask("GET", "/v1/sessions", authorization=f"Bearer {made['key']}").status == 200
            assert maker.ask("DELETE", f"/v1/admin/keys/{made['id']}", authorization=operator).status == 204
            assert user.ask("GET", "/v1/sessions", authorization=f"Bearer {made['key']}").status == 401


def test_keys_count_everywhere_at_once(server: Server) -> None:
    """Made and revoked by way of either."""
    check_keys(server)


@pytest.mark.parametrize(
    ("bug", "check"),
    [
        ("others_unnoticed", check_order),
        ("swaps_unnoticed", check_reads),
        ("keys_unnoticed", check_keys),
    ],
)
def test_the_checks_find(bug: str, check: Callable[[Server], None], tmp_path: Path) -> None:
    """The controls."""
    with serving(tmp_path, bug=bug) as server, pytest.raises(AssertionError):
        check(server)


def die_in_the_middle(server: Server, die: Path) -> None:
    """A worker commits, and dies before it tells the others; they go on from what it has committed."""
    with workers.each(server) as (one, other):
        one.post("/v1/sessions", {"id": "s"})
        other.post("/v1/sessions/s/messages", MESSAGE)
        die.touch()
        with pytest.raises(ConnectionGone):
            one.ask("POST", "/v1/sessions/s/messages", {**MESSAGE, "id": "unheard"})
        found = other.post("/v1/sessions/s/messages", MESSAGE)
        assert found["seq"] == 3
        assert [message["id"] for message in other.get("/v1/sessions/s/messages")["data"]][1] == "unheard"


def test_a_death_behind_a_commit_is_noticed(tmp_path: Path) -> None:
    """By the mark that its turn has not ended; and without it the check finds that."""
    die = tmp_path / "die"
    with serving(tmp_path, bug="dies_before_saying", DIE=str(die)) as server:
        die_in_the_middle(server, die)
        until(lambda: len(workers.pids(server)) == 2)
    (tmp_path / "second").mkdir()
    with (
        serving(tmp_path / "second", bug="death_unnoticed", DIE=str(die)) as server,
        pytest.raises(AssertionError),
    ):
        die_in_the_middle(server, die)


def test_a_killed_worker_is_started_again(server: Server, tmp_path: Path) -> None:
    """Under load; nothing that was acknowledged is lost, and the ledger verifies."""
    journal = Journal(1, writers=6)
    with server.client() as client:
        create_shared(client)
    for number in range(4):
        with journal.writing(server):
            journal.wait_for(60)
            victim = workers.pids(server)[number % 2]
            os.kill(victim, signal.SIGKILL)
            until(lambda gone=victim: gone not in workers.pids(server))  # type: ignore[misc]
        until(lambda: workers.listening(server.port) == 2)
        with workers.each(server), server.client() as client:
            assert journal.failures == []
            check(journal.writes, all_messages(client))
    assert server.stop() == 0
    assert server.stderr.count('"worker died"') == 4
    succeed("verify", "--database", tmp_path / "ledger.db", cwd=tmp_path)


def test_workers_go_with_their_supervisor(server: Server, tmp_path: Path) -> None:
    """SIGKILL for it: they end, and a start waits for that."""
    with server.client() as client:
        assert client.post("/v1/sessions", json={"id": "s"}).status_code == 201
    left = workers.pids(server)
    os.kill(left[0], signal.SIGSTOP)  # one that takes its time
    os.kill(server.pid, signal.SIGKILL)
    server.wait()
    other = threading.Thread(target=lambda: os.kill(left[0], signal.SIGCONT))
    process = server.spawn()
    try:
        other.start()
        assert process.stdout is not None
        assert process.stdout.readline().startswith("chatledger serves")
        assert all(map(is_gone, left))
        with server.client() as client:
            assert client.get("/v1/sessions/s").status_code == 200
    finally:
        other.join()
        process.terminate()
        process.communicate()
    assert process.returncode == 0
    assert status(tmp_path / "ledger.db")["events"] == 1


def test_a_stop_leaves_one_file_each(server: Server, tmp_path: Path) -> None:
    """The write-ahead logs are copied back, as with one worker."""
    with workers.each(server) as clients:
        for client in clients:
            client.post("/v1/sessions", {"id": f"s-{client.pid}"})
    assert server.stop() == 0
    found = {path.name for path in tmp_path.glob("ledger.db*")}
    assert found == {"ledger.db", "ledger.db.key", "ledger.db.lock", "ledger.db.views.000001.db"}


def test_the_ledger_is_held(server: Server, tmp_path: Path) -> None:
    """By whichever process of them is left: a second server is refused, and its port too."""
    assert "is in use" in refuse("serve", "--port", 0, "--database", tmp_path / "ledger.db", cwd=tmp_path)
    assert "in use" in refuse("serve", "--port", server.port, "--database", tmp_path / "other.db", cwd=tmp_path)
    assert status(tmp_path / "ledger.db")["in_use"]


def test_metrics_are_those_of_all(server: Server) -> None:
    """Whoever is asked, and also of a worker that is gone: counters do not go back."""
    with workers.each(server) as clients:
        for client in clients:
            client.post("/v1/sessions", {"id": f"s-{client.pid}"})
        for client in clients:
            assert metric(client, "events_total") == 2
            assert metric(client, "position") == 2
            assert metric(client, "workers") == 2
        os.kill(clients[0].pid, signal.SIGKILL)
        until(lambda: clients[0].pid not in workers.pids(server))
        assert metric(clients[1], "events_total") == 2


def metric(client: Client, name: str) -> float:
    """A number of /metrics."""
    answer = client.ask("GET", "/metrics")
    assert answer.status == 200
    (line,) = [line for line in answer.body.decode().splitlines() if line.startswith(f"chatledger_{name} ")]
    return float(line.rpartition(" ")[2])


def test_limits_are_those_of_all(tmp_path: Path) -> None:
    """What a tenant may send is not more by being sent to two."""
    with serving(tmp_path, CHATLEDGER_TENANT_REQUESTS_PER_S="2") as server, workers.each(server) as pair:
        statuses = [pair[number % 2].ask("GET", "/v1/sessions").status for number in range(12)]
    assert statuses[:10] == [200] * 10
    assert 429 in statuses[10:]


@contextmanager
def gated(folder: Path, **environment: str) -> Iterator[tuple[Server, Path]]:
    """A server whose rebuilds do not get on while the file is there that is given with it."""
    gate = folder / "gate"
    gate.touch()
    with serving(folder, **{REBUILD_GATE: str(gate), **environment}) as server:
        yield server, gate


def test_a_rebuild_is_everybodys(tmp_path: Path) -> None:
    """Its progress, the refusal of a second one, and the end of it: from whichever worker."""
    with gated(tmp_path) as (server, gate), workers.each(server) as (one, other):
        one.post("/v1/sessions", {"id": "s"})
        one.post(REBUILD, status=202)
        assert other.get(PROJECTIONS)["rebuild"]["generation"] == 2
        other.post(REBUILD, status=409)
        assert other.ask("DELETE", REBUILD).status == 204
        for client in (one, other):
            assert (client.get(PROJECTIONS)["rebuild"], client.get(PROJECTIONS)["generation"]) == (None, 1)
        other.post(REBUILD, status=202)
        gate.unlink()
        until(lambda: one.get(PROJECTIONS)["rebuild"] is None)
        assert one.get(PROJECTIONS)["generation"] == 2


def test_a_dead_rebuild_is_in_nobodys_way(tmp_path: Path) -> None:
    """Its worker is killed: the live views stay, and the other worker can build new ones."""
    with gated(tmp_path) as (server, gate), workers.each(server) as (one, other):
        one.post("/v1/sessions", {"id": "s"})
        one.post(REBUILD, status=202)
        os.kill(one.pid, signal.SIGKILL)
        until(lambda: one.pid not in workers.pids(server))
        assert other.get("/v1/sessions/s")["version"] == 1
        other.post(REBUILD, status=202)
        gate.unlink()
        until(lambda: other.get(PROJECTIONS)["generation"] == 2)


@pytest.mark.parametrize("dead", [False, True], ids=["alive", "dead"])
def test_an_erasure_reaches_a_rebuild_elsewhere(tmp_path: Path, *, dead: bool) -> None:
    """It goes on and is cleared behind the swap, or what its dead worker left is removed; others follow in time."""
    with gated(tmp_path, CHATLEDGER_SCRUB_S="2") as (server, gate), workers.each(server) as (one, other):
        one.post("/v1/sessions", {"id": "s", "messages": [{**MESSAGE, "content": CANARY}]})
        one.post(REBUILD, status=202)
        until(lambda: other.get(PROJECTIONS)["rebuild"]["events_done"] == 2)
        assert any("building" in name for name in found_in(tmp_path))
        if dead:
            os.kill(one.pid, signal.SIGKILL)
            until(lambda: one.pid not in workers.pids(server))
        other.post("/v1/sessions/s/erase", {"reason": "asked for"}, status=200)
        assert [name for name in found_beside_views(tmp_path) if "building" not in name] == []
        gate.unlink()
        until(lambda: other.get("/v1/sessions/s/erasure")["scrubbed"])
        assert found_in(tmp_path) == []


def test_commands_work_beside(pair: tuple[Client, Client], tmp_path: Path) -> None:
    """A rebuild, a key, an erasure and a backup, as beside one worker."""
    database = tmp_path / "ledger.db"
    for number, client in enumerate(pair):
        client.post("/v1/sessions", {"id": f"s{number}", "messages": [{**MESSAGE, "content": CANARY}]})
    succeed("replay", "--database", database, cwd=tmp_path)
    assert {client.get(PROJECTIONS)["generation"] for client in pair} == {2}
    succeed("backup", tmp_path / "copy.db", "--database", database, cwd=tmp_path)
    for number in range(2):
        succeed("erase", "--database", database, "--session", f"s{number}", "--reason", "asked for", cwd=tmp_path)
    (tmp_path / "copy.db").unlink()
    assert found_in(tmp_path) == []
    made = succeed("key", "create", "--operator", "--database", database, cwd=tmp_path).split()[-1]
    for client in pair:
        assert client.ask("GET", "/metrics").status == 401
        assert client.ask("GET", "/metrics", authorization=f"Bearer {made}").status == 200
    key_id = succeed("key", "list", "--database", database, cwd=tmp_path).splitlines()[1].split()[0]
    succeed("key", "revoke", key_id, "--database", database, cwd=tmp_path)
    for client in pair:
        assert client.ask("GET", "/metrics", authorization=f"Bearer {made}").status == 401


def test_a_cursor_is_good_everywhere(pair: tuple[Client, Client]) -> None:
    """Given out by one, taken by the other."""
    one, other = pair
    for number in range(4):
        one.post("/v1/sessions", {"id": f"s{number}"})
    page = one.get("/v1/sessions?limit=2")
    rest = other.get(f"/v1/sessions?limit=2&cursor={page['next_cursor']}")
    assert len({session["id"] for session in page["data"] + rest["data"]}) == 4


def test_a_ledger_in_memory_is_one_workers(tmp_path: Path) -> None:
    """Nobody else could reach it."""
    said = refuse("serve", "--database", ":memory:", "--port", 0, "--workers", 2, cwd=tmp_path)
    assert "in memory" in said


def test_workers_that_do_not_live_end_the_service(tmp_path: Path) -> None:
    """In words, and not for ever."""
    with pytest.raises(ServerDidNotStart, match="has died 5 times in a row"), serving(tmp_path, bug="no_worker_lives"):
        pass


def test_a_metrics_port_is_of_all(tmp_path: Path) -> None:
    """On a port of its own too."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with serving(tmp_path, CHATLEDGER_METRICS_PORT=str(port)) as server, workers.each(server) as clients:
        for client in clients:
            client.post("/v1/sessions", {"id": f"s-{client.pid}"})
        assert b"chatledger_events_total 2.0" in ask(port, "GET", "/metrics", connection="close").body
