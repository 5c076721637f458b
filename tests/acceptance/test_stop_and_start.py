"""A stop answers what was accepted and leaves whole files; a start is refused clearly, or works."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import apsw
import httpx
import pytest

from support.command import COMMAND, environment, refuse
from support.journal import Journal, all_messages, check, create_shared
from support.seeds import new_seed
from support.server import Server, ServerDidNotStart
from support.store import Store, create, message
from support.tables import dump, dump_rebuilt

DEADLINE_S = 30
STOP_SLACK_S = 5.0
SIGNALS = [signal.SIGTERM, signal.SIGINT]


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Look again and again until *condition* holds."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.001)


def assert_stops(server: Server, *, within_s: float, number: signal.Signals = signal.SIGTERM) -> None:
    """The signal ends the server in time with exit code 0, and its logs are copied back into the files."""
    started_s = time.monotonic()
    os.kill(server.pid, number)
    assert server.wait() == 0, server.stderr
    assert time.monotonic() - started_s < within_s
    assert_checkpointed(Path(server.database))


def assert_checkpointed(database: Path) -> None:
    """Neither file has anything left in a write-ahead log."""
    logs = {path.name: path.stat().st_size for path in database.parent.glob("*-wal")}
    assert not any(logs.values()), logs


def queued(client: httpx.Client) -> int:
    """How many commands wait for the writer."""
    found = re.search(r"^chatledger_queue_commands (\d+)", client.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return int(found[1])


def refuses_connections(server: Server) -> bool:
    """Whether nobody listens on the server's port any more."""
    try:
        socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S).close()
    except ConnectionError:
        return True
    return False


@contextmanager
def writer_held_up(database: str) -> Iterator[None]:
    """Hold SQLite's write lock on the ledger, so that whatever is accepted stays under way."""
    connection = apsw.Connection(database)
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


@pytest.mark.parametrize("number", SIGNALS)
def test_requests_under_way_are_answered_before_the_end(tmp_path: Path, number: signal.Signals) -> None:
    """Six writes that wait for the disk when the signal comes are answered 201 and are there afterwards."""
    count = 6
    settings = {"CHATLEDGER_BUSY_TIMEOUT_MS": "60000"}
    with Server(tmp_path / "ledger.db", cwd=tmp_path, env=settings) as server, ThreadPoolExecutor() as pool:
        with server.client() as client, writer_held_up(server.database):
            sent = [
                pool.submit(httpx.post, f"{server.url}/v1/sessions", json={"id": f"s{n}"}, timeout=DEADLINE_S)
                for n in range(count)
            ]
            wait_until(lambda: queued(client) == count, "the writes did not arrive")
            os.kill(server.pid, number)
            wait_until(lambda: refuses_connections(server), "the server goes on listening")
        answers = [future.result() for future in sent]
        assert [answer.status_code for answer in answers] == [201] * count
        assert server.wait() == 0, server.stderr
        assert_checkpointed(tmp_path / "ledger.db")
        server.start()
        with server.client() as client:
            for answer in answers:
                document = answer.json()
                assert client.get(f"/v1/sessions/{document['id']}").json() == document


@pytest.mark.parametrize("number", SIGNALS)
def test_a_stop_in_the_middle_of_the_load_loses_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """While eight writers write, the server stops in time; all that it acknowledged is there afterwards."""
    journal = Journal(seed=int(number))
    with Server(tmp_path / "ledger.db", cwd=tmp_path) as server, server.client() as client:
        create_shared(client)
        with journal.writing(server):
            journal.wait_for(100)
            assert_stops(server, within_s=10 + STOP_SLACK_S, number=number)
        assert journal.failures == []
        server.start()
        check(journal.writes, all_messages(client))


def test_idle_connections_do_not_hold_up_a_stop(tmp_path: Path) -> None:
    """Clients that keep their connections open without a request are no reason to wait."""
    with Server(tmp_path / "ledger.db", cwd=tmp_path) as server:
        clients = [server.client() for _ in range(5)]
        bare = socket.create_connection(("127.0.0.1", server.port))
        try:
            for number, client in enumerate(clients):
                assert client.post("/v1/sessions", json={"id": f"s{number}"}).status_code == 201
            assert_stops(server, within_s=STOP_SLACK_S)
        finally:
            bare.close()
            for client in clients:
                client.close()


def test_somebody_who_reads_the_ledger_does_not_hold_up_a_stop(tmp_path: Path) -> None:
    """An open read transaction of another process: the write-ahead log stays, exit code 0, and nothing is lost."""
    path = tmp_path / "ledger.db"
    with Server(path) as server, server.client() as client:
        assert client.post("/v1/sessions", json={"id": "s"}).status_code == 201
        reader = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM events").get == 1
        assert client.post("/v1/sessions", json={"id": "t"}).status_code == 201
        assert server.stop() == 0, server.stderr
        reader.close()
        with server.start().client() as again:
            assert [again.get(f"/v1/sessions/{name}").status_code for name in "st"] == [200, 200]


def test_a_stalled_upload_holds_up_a_stop_for_the_timeout_only(tmp_path: Path) -> None:
    """A client that stops in the middle of a body is waited for no longer than the shutdown timeout."""
    settings = {"CHATLEDGER_SHUTDOWN_TIMEOUT_MS": "1000"}
    with Server(tmp_path / "ledger.db", cwd=tmp_path, env=settings) as server:
        with server.client() as client, socket.create_connection(("127.0.0.1", server.port)) as stalled:
            assert client.post("/v1/sessions", json={"id": "s"}).status_code == 201
            stalled.sendall(
                b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                b"Content-Length: 1000\r\n\r\n" + b'{"id": "never'
            )
            assert client.get("/v1/sessions/s").status_code == 200
            assert_stops(server, within_s=1 + STOP_SLACK_S)
        server.start()
        with server.client() as client:
            assert [session["id"] for session in client.get("/v1/sessions").json()["data"]] == ["s"]


def test_a_second_server_on_the_same_ledger_is_refused(server: Server, client: httpx.Client) -> None:
    """It says that the ledger is in use and ends with exit code 1; the first one goes on."""
    said = refuse("serve", "--database", server.database, "--port", 0, cwd=Path(server.database).parent)
    assert "in use" in said
    assert client.post("/v1/sessions", json={"id": "s"}).status_code == 201


def test_a_port_in_use_is_refused(server: Server, tmp_path: Path) -> None:
    """It names the port, ends with exit code 1, and makes no ledger."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    said = refuse("serve", "--database", "ledger.db", "--port", server.port, cwd=elsewhere)
    assert str(server.port) in said
    assert "in use" in said
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104
def test_an_open_service_is_not_bound_to_the_world(tmp_path: Path, host: str) -> None:
    """Without API keys an address that is not loopback is refused, and nothing is made."""
    said = refuse("serve", "--database", "ledger.db", "--host", host, "--port", 0, cwd=tmp_path)
    assert "loopback" in said
    assert list(tmp_path.iterdir()) == []


def test_a_server_refuses_a_file_that_is_no_ledger(tmp_path: Path) -> None:
    """The message names the file, and the file stays as it was."""
    (tmp_path / "ledger.db").write_bytes(b"Dear diary\n" * 1000)
    with pytest.raises(ServerDidNotStart, match=r"chatledger: ledger\.db "):
        Server(tmp_path / "ledger.db", cwd=tmp_path).start()
    assert (tmp_path / "ledger.db").read_bytes() == b"Dear diary\n" * 1000


def kill_first_start(folder: Path, *, after_ms: float, from_first_file: bool) -> list[str]:
    """Start a server in the empty *folder* and SIGKILL it; the files that it left."""
    process = subprocess.Popen(
        [*COMMAND, "serve", "--database", "ledger.db", "--port", "0"],
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    if from_first_file:
        wait_until(lambda: any(folder.iterdir()), "the server makes no files")
    time.sleep(after_ms / 1000)  # the fault's moment, not a synchronisation
    process.kill()
    process.wait()
    return sorted(path.name for path in folder.iterdir())


def test_a_first_start_that_was_killed_can_be_started_again(tmp_path: Path) -> None:
    """Killed 5 to 200 ms after it was begun, or a moment after its first file: the next start works."""
    chance = random.Random(new_seed())
    moments = [(chance.uniform(5, 200), False) for _ in range(2)]
    moments += [(chance.uniform(low, 2 * low), True) for low in (0, 0.5, 1, 2, 4, 8, 16, 32, 64, 100)]
    for number, (after_ms, from_first_file) in enumerate(moments):
        folder = tmp_path / str(number)
        folder.mkdir()
        left = kill_first_start(folder, after_ms=after_ms, from_first_file=from_first_file)
        print(f"{after_ms:.1f} ms: {left}")  # noqa: T201  # shown beside a failure
        image = tmp_path / f"{number}-as-left"
        shutil.copytree(folder, image)
        with Store(folder / "ledger.db") as store:  # opened as a server opens it
            store.commit_all(create("s", message("m1")))
            assert dump(store.views.db) == dump_rebuilt(store, folder)
    with Server(image / "ledger.db", cwd=image) as server, server.client() as client:
        assert client.post("/v1/sessions", json={"id": "s"}).status_code == 201
