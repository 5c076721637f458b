"""`/v1/admin/projections`: how far the views have come, and building them anew while serving."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from support import gated_projection
from support.api import Json, append, create, messages, problem, read, talk
from support.server import Server

ROOT = Path(__file__).parents[2]
PROJECTIONS = "/v1/admin/projections"
REBUILD = "/v1/admin/projections/rebuild"
EVENTS = 40_000


@pytest.fixture
def large(tmp_path: Path) -> Iterator[Server]:
    """A server whose rebuild takes longer than a request."""
    with Server(tmp_path / "ledger.db", cwd=tmp_path) as server:
        with server.client() as client:
            create(client)
            for _ in range(EVENTS // 1000):
                batch = [{"role": "user", "content": "Hello"}] * 1000
                assert client.post("/v1/sessions/s/messages", json={"messages": batch}).status_code == 201
        yield server


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[tuple[Server, Path]]:
    """A server with some messages, whose rebuilds wait in the middle for as long as the file is there."""
    gate = tmp_path / "gate"
    env = {
        gated_projection.GATE: str(gate),
        "CHATLEDGER_PROJECTIONS": "support.gated_projection:GATED",
        "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}",
    }
    with Server(tmp_path / "ledger.db", cwd=tmp_path, env=env) as server:
        with server.client() as client:
            create(client, messages=talk(3))
        gate.touch()
        yield server, gate
        gate.unlink(missing_ok=True)


def rebuild(client: httpx.Client) -> Json:
    """Begin a rebuild, and return the answer."""
    response = client.post(REBUILD)
    assert response.status_code == 202, response.text
    return response.json()


def wait(client: httpx.Client) -> Json:
    """Read on until no rebuild runs, and return the last answer."""
    while (state := read(client, PROJECTIONS))["rebuild"] is not None:
        pass
    return state


def files(server: Server) -> list[str]:
    """The names of the views' files, without what SQLite has beside them."""
    names = {path.name for path in Path(server.database).parent.glob("*.views.*")}
    return sorted(name for name in names if not name.endswith(("-wal", "-shm")))


@contextmanager
def load(server: Server) -> Iterator[list[int]]:
    """Append and read over four connections for as long as the block takes; the statuses of all answers.

    Each reader sees to it that no count falls, and that each writer reads what it has written.
    """
    statuses: list[int] = []
    stop = threading.Event()

    def run(session: str) -> None:
        with server.client(tenant="load") as client:
            create(client, session)
            count = 0
            while not stop.is_set():
                written = client.post(f"/v1/sessions/{session}/messages", json={"role": "user", "content": "x"})
                found = client.get(f"/v1/sessions/{session}")
                ready = client.get("/health/ready")
                statuses.extend((written.status_code, found.status_code, ready.status_code))
                count += 1
                if found.json().get("message_count") != count:
                    statuses.append(-1)

    threads = [threading.Thread(target=run, args=(f"s{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield statuses
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_the_projections_show_what_they_have_reached(server: Server, client: httpx.Client) -> None:
    """By name, with version, position and lag; no rebuild, no progress."""
    create(client, messages=talk(2))
    state = read(client, PROJECTIONS)
    assert [each["name"] for each in state["data"]] == ["sessions", "messages", "feed"]
    assert {(each["position"], each["lag_events"]) for each in state["data"]} == {(3, 0)}
    assert (state["generation"], state["rebuild"]) == (1, None)
    assert files(server) == ["ledger.db.views.000001.db"]


def test_a_rebuild_takes_the_place_of_the_live_views(server: Server, client: httpx.Client) -> None:
    """The next generation shows the same, goes on from there, and the old file is gone."""
    create(client, messages=talk(3))
    before = messages(client)
    begun = rebuild(client)
    assert begun["generation"] in (1, 2)  # so small a ledger may be done already
    assert wait(client)["generation"] == 2
    assert messages(client) == before
    append(client, id="after")
    assert read(client, "/v1/sessions/s")["message_count"] == 4
    assert files(server) == ["ledger.db.views.000002.db"]
    rebuild(client)
    assert wait(client)["generation"] == 3


@pytest.mark.slow
def test_requests_go_on_during_a_rebuild(large: Server) -> None:
    """Not one append, read or look at the readiness fails, and each reads what it wrote, over the swap too."""
    with large.client() as client, load(large) as statuses:
        for generation in (2, 3):
            rebuild(client)
            assert wait(client)["generation"] == generation
    assert set(statuses) == {200, 201}
    with large.client() as client:
        assert {each["lag_events"] for each in read(client, PROJECTIONS)["data"]} == {0}


def test_a_second_rebuild_is_refused_while_one_runs(gated: tuple[Server, Path]) -> None:
    """409; and the first one goes on, and shows how far it is."""
    server, gate = gated
    with server.client() as client:
        begun = rebuild(client)
        problem(client.post(REBUILD), 409, "rebuild-running")
        assert begun["rebuild"]["generation"] == 2
        assert (begun["rebuild"]["events_done"], begun["rebuild"]["events_total"]) == (0, 4)
        gate.unlink()
        assert wait(client)["generation"] == 2


@pytest.mark.slow
def test_a_cancelled_rebuild_leaves_the_live_views(large: Server) -> None:
    """204 once it has stopped; nothing is left of it, and another one may begin."""
    with large.client() as client:
        rebuild(client)
        assert client.delete(REBUILD).status_code == 204
        state = read(client, PROJECTIONS)
        assert (state["generation"], state["rebuild"]) == (1, None)
        assert files(large) == ["ledger.db.views.000001.db"]
        rebuild(client)
        assert wait(client)["generation"] == 2


def test_cancelling_what_does_not_run_is_done_already(client: httpx.Client) -> None:
    """204 all the same."""
    assert client.delete(REBUILD).status_code == 204
    assert read(client, PROJECTIONS)["generation"] == 1


@pytest.mark.slow
def test_a_stop_cancels_a_rebuild(large: Server) -> None:
    """The server ends in good order, the views of before are there, and the next start has nothing to rebuild."""
    with large.client() as client:
        rebuild(client)
    assert large.stop() == 0
    assert files(large) == ["ledger.db.views.000001.db"]
    large.start()
    with large.client() as client:
        assert read(client, PROJECTIONS)["generation"] == 1
        assert read(client, "/v1/sessions/s")["message_count"] == EVENTS


def test_a_kill_in_the_middle_of_a_rebuild_leaves_the_live_views(gated: tuple[Server, Path]) -> None:
    """What it left is removed at the next start."""
    server, gate = gated
    with server.client() as client:
        rebuild(client)
        while not any("building" in name for name in files(server)):
            pass
    server.kill()
    assert any("building" in name for name in files(server))
    gate.unlink()
    server.start()
    with server.client() as client:
        assert read(client, PROJECTIONS)["generation"] == 1
        assert read(client, "/v1/sessions/s")["message_count"] == 3
    assert files(server) == ["ledger.db.views.000001.db"]


def test_in_memory_a_rebuild_does_the_same(tmp_path: Path) -> None:
    """There the writer itself does it."""
    with Server(":memory:", cwd=tmp_path) as server, server.client() as client:
        create(client, messages=talk(3))
        rebuild(client)
        assert wait(client)["generation"] == 2
        assert read(client, "/v1/sessions/s")["message_count"] == 3
        append(client)
        assert read(client, "/v1/sessions/s")["message_count"] == 4


@pytest.mark.parametrize(("method", "path"), [("GET", PROJECTIONS), ("POST", REBUILD), ("DELETE", REBUILD)])
def test_unknown_parameters_are_refused(shared_server: Server, method: str, path: str) -> None:
    """As everywhere."""
    with shared_server.client() as client:
        problem(client.request(method, path, params={"force": "1"}), 400, "invalid-request")
