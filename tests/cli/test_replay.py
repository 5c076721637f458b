"""`chatledger replay`: beside a server, and as a check that changes nothing."""

import json
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import apsw
import httpx
import pytest

from chatledger.storage.paths import Address, exclusive, note_address
from support import gated_projection
from support.command import COMMAND, environment, refuse, run, succeed
from support.server import Server
from support.store import Store, append, create, delete, message, remove
from support.tables import dump

ROOT = Path(__file__).parents[2]
HELLO = {"role": "user", "content": "Hello"}


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A closed ledger with its views."""
    path = tmp_path / "ledger.db"
    with Store(path) as store:
        store.commit_all(create("s", message("m1"), message("m2")), create("t", tenant="b"), create("gone"))
        store.commit_all(*(append("s", message(f"n{number}")) for number in range(30)))
        store.commit_all(remove("s", "m1"), delete("gone"))
    return path


def views_files(ledger: Path) -> list[str]:
    """The names of the views' files, without what SQLite has beside them."""
    names = {path.name for path in ledger.parent.glob("*.views.*")}
    return sorted(name for name in names if not name.endswith(("-wal", "-shm")))


def change(ledger: Path, sql: str) -> None:
    """What somebody does to the views by hand."""
    connection = apsw.Connection(str(next(ledger.parent.glob("*.views.*.db"))))
    connection.execute(sql)
    connection.close()


# Beside a server


def test_a_replay_beside_a_server_is_the_servers(server: Server, client: httpx.Client) -> None:
    """It ends once the new views are live, shows how far it was, and the server has not stopped."""
    assert client.post("/v1/sessions", json={"id": "s", "messages": [HELLO]}).status_code == 201
    ledger = Path(server.database)
    note = ledger.with_name("ledger.db.lock")
    assert json.loads(note.read_text())["url"] == server.url
    assert note.stat().st_mode & 0o777 == 0o600
    done = run("replay", "--database", ledger, cwd=ledger.parent)
    assert (done.returncode, done.stdout) == (0, f"the server at {server.url} has rebuilt its views: generation 2\n")
    assert "replay: " in done.stderr
    assert views_files(ledger) == ["ledger.db.views.000002.db"]
    assert client.get("/v1/sessions/s").json()["message_count"] == 1
    assert client.post("/v1/sessions/s/messages", json=HELLO).status_code == 201


@pytest.fixture
def gated(tmp_path: Path) -> Iterator[Server]:
    """A server whose rebuilds wait in the middle, without end."""
    gate = tmp_path / "gate"
    env = {
        gated_projection.GATE: str(gate),
        "CHATLEDGER_PROJECTIONS": "support.gated_projection:GATED",
        "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}",
    }
    with Server(tmp_path / "ledger.db", cwd=tmp_path, env=env) as server:
        with server.client() as client:
            assert client.post("/v1/sessions", json={"id": "s"}).status_code == 201
        gate.touch()
        yield server
        gate.unlink(missing_ok=True)


def start_replay(server: Server) -> "subprocess.Popen[str]":
    """The command, once the server has begun what it asks for."""
    ledger = Path(server.database)
    process = subprocess.Popen(
        [*COMMAND, "replay", "--database", str(ledger)],
        cwd=ledger.parent,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with server.client() as client:
        while client.get("/v1/admin/projections").json()["rebuild"] is None:
            assert process.poll() is None
    return process


def test_a_replay_that_is_cancelled_has_failed(gated: Server) -> None:
    """Exit code 1 and a clear line: the views are not the new ones."""
    process = start_replay(gated)
    with gated.client() as client:
        refused = run("replay", "--database", gated.database, cwd=Path(gated.database).parent)
        assert "running already" in refused.stderr
        assert refused.returncode == 1
        assert client.delete("/v1/admin/projections/rebuild").status_code == 204
        Path(gated.database).with_name("gate").unlink()
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the views are as they were" in said
    assert "Traceback" not in said


def test_a_replay_whose_server_dies_has_failed(gated: Server) -> None:
    """It does not wait for it."""
    process = start_replay(gated)
    gated.kill()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "does not answer" in said
    assert "Traceback" not in said


def test_a_replay_beside_another_command_is_refused(ledger: Path) -> None:
    """It holds the ledger and serves nothing."""
    with Store(ledger):
        assert "in use" in refuse("replay", "--database", ledger, cwd=ledger.parent)


def test_an_address_from_before_is_not_asked(ledger: Path) -> None:
    """Whoever holds the ledger next has begun with an empty note."""
    with Store(ledger) as store:
        note_address(store.location, Address("http://127.0.0.1:9", "cll_nobody"))
        with pytest.raises(AssertionError, match="does not answer"):
            succeed("replay", "--database", ledger, cwd=ledger.parent)
    with exclusive(store.location):
        assert "in use" in refuse("replay", "--database", ledger, cwd=ledger.parent)


# --check


def test_a_check_finds_nothing_in_views_that_are_right(ledger: Path) -> None:
    """It says how far they have come, and leaves no file."""
    before = sorted(path.name for path in ledger.parent.iterdir())
    assert succeed("replay", "--check", "--database", ledger, cwd=ledger.parent) == (
        "the views are what 37 events make of them\n"
    )
    after = {path.name for path in ledger.parent.iterdir() if not path.name.endswith(("-wal", "-shm"))}
    assert sorted(after) == before


@pytest.mark.parametrize(
    ("sql", "line"),
    [
        (
            "UPDATE messages SET payload = replace(payload, 'Hello', 'Hallo') WHERE id = 'n7'",
            "messages position=13: differs in payload",
        ),
        ("UPDATE sessions SET title = 'T', version = 9 WHERE id = 't'", "sessions key=2: differs in version, title"),
        ("DELETE FROM feed WHERE position = 12", "feed tenant=1 type=2 position=12: only in the rebuild"),
        ("INSERT INTO feed_tenants VALUES (3, 'x')", "feed_tenants key=3: only in the live views"),
        ("DROP INDEX messages_by_id", "sqlite_schema type='index' name='messages_by_id': only in the rebuild"),
        ("CREATE TABLE notes (text)", "sqlite_schema type='table' name='notes': only in the live views"),
    ],
)
def test_a_check_finds_what_was_changed_by_hand(ledger: Path, sql: str, line: str) -> None:
    """The table, the key, the side; no content; exit code 1; and it changes nothing."""
    change(ledger, sql)
    done = run("replay", "--check", "--database", ledger, cwd=ledger.parent)
    assert done.returncode == 1
    assert done.stdout == f"{line}\n1 differences between the views and a rebuild of 37 events\n"
    assert views_files(ledger) == ["ledger.db.views.000001.db"]
    assert run("replay", "--check", "--database", ledger, cwd=ledger.parent).stdout == done.stdout


def test_a_check_names_the_first_differences_and_counts_all(ledger: Path) -> None:
    """Views of nothing differ in each row."""
    change(ledger, "DELETE FROM messages")
    done = run("replay", "--check", "--database", ledger, cwd=ledger.parent)
    lines = done.stdout.splitlines()
    assert len(lines) == 22
    assert lines[-2].startswith("… and more")
    assert lines[-1].startswith("32 differences")


def test_a_replay_mends_what_a_check_found(ledger: Path) -> None:
    """And then the check finds nothing."""
    change(ledger, "UPDATE sessions SET title = 'forged'")
    assert run("replay", "--check", "--database", ledger, cwd=ledger.parent).returncode == 1
    succeed("replay", "--database", ledger, cwd=ledger.parent)
    succeed("replay", "--check", "--database", ledger, cwd=ledger.parent)


def test_a_check_works_beside_a_running_server(server: Server, client: httpx.Client) -> None:
    """Which goes on; and it finds there what was changed."""
    assert client.post("/v1/sessions", json={"id": "s", "messages": [HELLO]}).status_code == 201
    ledger = Path(server.database)
    succeed("replay", "--check", "--database", ledger, cwd=ledger.parent)
    change(ledger, "UPDATE sessions SET title = 'forged'")
    done = run("replay", "--check", "--database", ledger, cwd=ledger.parent)
    assert (done.returncode, done.stdout.splitlines()[0]) == (1, "sessions key=1: differs in title")
    assert client.post("/v1/sessions/s/messages", json=HELLO).status_code == 201


def test_views_that_are_behind_are_checked_as_far_as_they_are(ledger: Path, tmp_path: Path) -> None:
    """That is no difference: the next start brings them up to date."""
    views = next(ledger.parent.glob("*.views.*.db"))
    old = views.read_bytes()
    with Store(ledger) as store:
        store.commit_all(append("s", message("later")))
        assert dump(store.views.db)
    views.write_bytes(old)
    done = succeed("replay", "--check", "--database", ledger, cwd=tmp_path)
    assert done == (
        "the views are what 37 events make of them\n"
        "the views lack the newest 1 events, which the next start gives them\n"
    )


VERSIONS = """UPDATE views SET projections = replace(projections, '"sessions":', '"sessions":1')"""


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        (VERSIONS, "The views were not checked: they were built by the projections"),
        ("UPDATE views SET leaf = x'00'", "The views have events that the ledger does not have"),
        ("UPDATE views SET position = 38", "The views have events that the ledger does not have"),
        ("UPDATE views SET ledger_id = 'other'", "The views are those of another ledger"),
        ("UPDATE views SET projections = x'ff'", "The views are damaged"),
        ("DELETE FROM views", "The views are damaged"),
        ("DROP TABLE views", "The views are damaged"),
    ],
)
def test_views_that_no_rebuild_can_be_held_against_are_named(ledger: Path, sql: str, said: str) -> None:
    """One line instead of differences in each row; a rebuild mends them all."""
    with closing(sqlite3.connect(next(ledger.parent.glob("*.views.*.db")))) as db, db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        if "x'ff'" in sql:  # not of the column's type
            db.execute("ALTER TABLE views RENAME TO kept")
            db.execute("CREATE TABLE views AS SELECT * FROM kept")
        db.execute(sql)
    assert said in refuse("replay", "--check", "--database", ledger, cwd=ledger.parent)
    succeed("replay", "--database", ledger, cwd=ledger.parent)
    succeed("replay", "--check", "--database", ledger, cwd=ledger.parent)


def test_damaged_pages_of_the_views_are_named(ledger: Path) -> None:
    """Zeros over a page in the middle of the table of messages: no traceback."""
    path = next(ledger.parent.glob("*.views.*.db"))
    with closing(sqlite3.connect(path)) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'messages'").fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    raw = bytearray(path.read_bytes())
    raw[(page - 1) * size : page * size] = bytes(size)
    path.write_bytes(raw)
    done = run("replay", "--check", "--database", ledger, cwd=ledger.parent)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == "chatledger: The views are damaged; the next start builds them anew."


def test_without_views_there_is_nothing_to_check(ledger: Path) -> None:
    """And none are made."""
    next(ledger.parent.glob("*.views.*.db")).unlink()
    assert "The views were not checked: there are none." in refuse(
        "replay", "--check", "--database", ledger, cwd=ledger.parent
    )
    assert views_files(ledger) == []
