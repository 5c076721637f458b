"""`chatledger backup` and `restore`: beside a server, killed in the middle, over what is left of an old ledger."""

import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chatledger.ledger.merkle import Frontier
from chatledger.maintenance import backup
from chatledger.maintenance.restore import COPIED
from chatledger.settings import Settings
from chatledger.storage import ledger_file
from chatledger.storage.paths import Location, exclusive
from chatledger.writing import erasure
from support.command import assert_clear, environment, exported, refuse, run, status, succeed
from support.documents import ROOT
from support.old_ledgers import older_ledger
from support.server import Server
from support.store import Store, append, create, delete, message, remove, update
from support.tables import dump, dump_rebuilt

HELLO = {"role": "user", "content": "Hello"}
SESSIONS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped ledger with every kind of event, and a backup of it, `b.db`."""
    folder = tmp_path_factory.mktemp("backup")
    with Store(folder / "ledger.db") as store:
        for number in range(SESSIONS):
            name = f"s{number}"
            store.commit_all(create(name, message("m1", f"secret of {name}."), message("m2", "x" * 5_000), title=name))
            store.commit_all(append(name, message("m3")), update(name, title=f"{name} again"), remove(name, "m1"))
        store.commit_all(delete("s3"))
    succeed("backup", "--database", "ledger.db", "b.db", cwd=folder)
    return folder


def events_of(ledger: Path) -> list[str]:
    """The lines of its export of events."""
    return succeed("export", "--events", "--database", ledger, cwd=ledger.parent).splitlines()


def verified(ledger: Path) -> str:
    """What `chatledger verify` says of it; a backup has no views, so what is said of them is left out."""
    return succeed("verify", "--database", ledger, cwd=ledger.parent).splitlines(keepends=True)[0]


def refuse_late(*arguments: object, cwd: Path) -> str:
    """Run the command, which has to refuse behind lines of progress, and return its last line."""
    done = run(*arguments, cwd=cwd)
    assert_clear(done)
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.startswith("chatledger: ")
    return said


@contextmanager
def load(server: Server, threads: int = 2) -> Iterator[list[str]]:
    """Clients that append to a session each while the block runs; the ids of the messages that were acknowledged."""
    stop = threading.Event()
    acknowledged: list[str] = []
    failed: list[str] = []

    def work(number: int) -> None:
        with server.client() as client:
            assert client.post("/v1/sessions", json={"id": f"load{number}"}).status_code == 201
            count = 0
            while not stop.is_set():
                name = f"l{number}-{count}"
                answer = client.post(f"/v1/sessions/load{number}/messages", json={"id": name, **HELLO})
                (acknowledged if answer.status_code == 201 else failed).append(name)
                count += 1

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    try:
        while len(acknowledged) < 20 and any(worker.is_alive() for worker in workers):
            stop.wait(0.01)
        yield acknowledged
    finally:
        stop.set()
        for worker in workers:
            worker.join()
    assert failed == []


# backup


def test_a_backup_is_one_private_verified_file(folder: Path) -> None:
    """No log beside it, its owner's alone, readable in a folder that cannot be written, with every event."""
    assert {path.name for path in folder.glob("b.db*")} == {"b.db"}
    assert stat.S_IMODE((folder / "b.db").stat().st_mode) == 0o600
    assert (folder / "b.db").read_bytes()[18:20] == b"\x01\x01"  # not in write-ahead mode (SQLite's file format, 1.3)
    assert status(folder / "b.db")["events"] == status(folder / "ledger.db")["events"]
    assert verified(folder / "b.db") == verified(folder / "ledger.db")
    assert {path.name for path in folder.glob("b.db*")} == {"b.db"}


def test_a_backup_has_no_key(folder: Path, tmp_path: Path) -> None:
    """The signing key lies beside the ledger, and does not go where backups go."""
    with Server(tmp_path / "ledger.db") as server, server.client() as client:
        assert client.get("/v1/ledger/head").status_code == 200
        server.stop()
    key = next(tmp_path.glob("*.key")).read_text().strip().split("+", 4)[4]
    succeed("backup", "--database", "ledger.db", "b.db", cwd=tmp_path)
    assert key.encode() not in (tmp_path / "b.db").read_bytes()
    assert not list(folder.glob("b.db*.key"))


@pytest.mark.parametrize("taken", ["dest.db", "dest.db-wal", "dest.db-journal"])
def test_a_name_that_is_taken_is_refused(folder: Path, tmp_path: Path, taken: str) -> None:
    """Also where only a log of that name is there, which SQLite would take for the copy's."""
    (tmp_path / taken).write_bytes(b"precious")
    said = refuse("backup", "--database", folder / "ledger.db", "dest.db", cwd=tmp_path)
    assert f"{taken} is there already" in said
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(taken, b"precious")]


def test_a_folder_that_is_not_there_is_refused(folder: Path, tmp_path: Path) -> None:
    """A backup goes where its operator says, or nowhere."""
    said = refuse("backup", "--database", folder / "ledger.db", "nowhere/b.db", cwd=tmp_path)
    assert "Cannot use nowhere/b.db: no such file or directory." in said


def test_a_damaged_ledger_gives_no_backup(folder: Path, tmp_path: Path) -> None:
    """What is not as it must be is found while there is still an older backup to go back to."""
    content = (folder / "b.db").read_bytes()
    place = content.index(b"secret of s5.")
    (tmp_path / "ledger.db").write_bytes(content[:place] + b"S" + content[place + 1 :])
    assert "does not match its leaf" in refuse_late("backup", "--database", "ledger.db", "b.db", cwd=tmp_path)
    assert not list(tmp_path.glob("b.db*"))


def test_a_writer_does_not_make_a_backup_start_over(tmp_path: Path) -> None:
    """One page a step and a commit behind each: every page is copied once, and the copy is as of its beginning."""
    with Store(tmp_path / "ledger.db") as store:
        store.commit_all(create("s", *(message(f"m{number}", "x" * 3_000) for number in range(150))))
        before = status(tmp_path / "ledger.db")["events"]
        steps: list[int] = []

        def write(done: int, total: int) -> None:
            del total
            steps.append(done)
            store.commit_all(append("s", message(f"w{done}", "y" * 3_000)))

        found = backup.backup(
            store.settings, tmp_path / "b.db", on_copied=write, on_verified=lambda *_: None, pages_a_step=1
        )
        assert steps == list(range(1, len(steps) + 1))
        assert len(steps) > 50
        assert found.size == before
        assert status(tmp_path / "ledger.db")["events"] == before + len(steps)
    assert verified(tmp_path / "b.db").startswith(f"{before} events")


STUCK = """
import sys
from pathlib import Path
from chatledger.maintenance import backup
from chatledger.settings import Settings
def stuck(done, total):
    if 2 * done > total:
        print(done, total, flush=True)
        sys.stdin.read()
settings = Settings(database_path=sys.argv[1])
backup.backup(settings, Path(sys.argv[2]), on_copied=stuck, on_verified=stuck, pages_a_step=1)
"""


def test_a_backup_that_is_killed_leaves_one_file_that_the_next_replaces(tmp_path: Path) -> None:
    """SIGKILL half way, beside a server; while it is alive another backup to the same name is refused."""
    with Server(tmp_path / "ledger.db") as server, server.client() as client:
        messages = [{"id": f"m{n}", "role": "user", "content": "x" * 2_000} for n in range(200)]
        assert client.post("/v1/sessions", json={"id": "s", "messages": messages}).status_code == 201
        destination = tmp_path / "kept" / "b.db"
        destination.parent.mkdir()
        with subprocess.Popen(
            [sys.executable, "-c", STUCK, server.database, str(destination)],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            done, total = map(int, process.stdout.readline().split())
            assert 0 < done < total
            said = refuse("backup", "--database", server.database, destination, cwd=tmp_path)
            assert "is being written by another process" in said
            assert client.post("/v1/sessions/s/messages", json=HELLO).status_code == 201
            process.kill()
        assert [path.name for path in destination.parent.iterdir()] == ["b.db.unfinished"]
        succeed("backup", "--database", server.database, destination, cwd=tmp_path)
        assert [path.name for path in destination.parent.iterdir()] == ["b.db"]
        assert verified(destination).startswith("202 events verified")


# restore


def test_a_restore_gives_the_same_events_and_sessions(folder: Path, tmp_path: Path) -> None:
    """Byte by byte; its views are there, so that the next start has nothing to build."""
    said = succeed("restore", "--database", "new/ledger.db", folder / "b.db", cwd=tmp_path)
    assert "events restored into new/ledger.db" in said
    ledger = tmp_path / "new" / "ledger.db"
    assert {path.name for path in ledger.parent.iterdir()} == {
        "ledger.db",
        "ledger.db.lock",
        "ledger.db.views.000001.db",
    }
    assert events_of(ledger) == events_of(folder / "ledger.db")
    assert exported(ledger) == exported(folder / "ledger.db")
    assert verified(ledger) == verified(folder / "ledger.db")
    for path in (ledger.parent, *ledger.parent.iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    with Store(ledger) as store:
        assert store.rebuilt is None


def test_a_restore_over_a_ledger_is_refused(folder: Path, tmp_path: Path) -> None:
    """Even over a damaged one, which may be all that there is of its newest events."""
    (tmp_path / "ledger.db").write_bytes(b"was a ledger")
    said = refuse("restore", "--database", "ledger.db", folder / "b.db", cwd=tmp_path)
    assert "There is a ledger at ledger.db" in said
    assert (tmp_path / "ledger.db").read_bytes() == b"was a ledger"


def test_a_restore_where_another_process_holds_the_place_is_refused(folder: Path, tmp_path: Path) -> None:
    """Whose ledger may not have its name yet, or no longer."""
    with exclusive(Location(str(tmp_path / "ledger.db"), memory=False)):
        assert "in use" in refuse("restore", "--database", "ledger.db", folder / "b.db", cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.db.lock"]


def test_without_a_backup_nothing_is_made(tmp_path: Path) -> None:
    """Not even the folder."""
    assert "There is no backup at b.db" in refuse("restore", "--database", "new/ledger.db", "b.db", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_backup_is_not_put_in_place(folder: Path, tmp_path: Path) -> None:
    """One letter of one message is another one: the position is named and no ledger is there."""
    content = (folder / "b.db").read_bytes()
    place = content.index(b"secret of s5.")
    (tmp_path / "b.db").write_bytes(content[:place] + b"S" + content[place + 1 :])
    assert "does not match its leaf" in refuse_late("restore", "--database", "ledger.db", "b.db", cwd=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"b.db"}


def test_what_is_no_backup_is_refused(tmp_path: Path) -> None:
    """A text, for one."""
    (tmp_path / "b.db").write_text("Dear diary\n" * 1000)
    assert "b.db is not an SQLite database" in refuse("restore", "--database", "ledger.db", "b.db", cwd=tmp_path)
    assert not (tmp_path / "ledger.db").exists()


@pytest.mark.slow
def test_the_drill(tmp_path: Path) -> None:
    """Back up under load, lose the machine and the ledger's file, restore over what is left, and go on.

    The old ledger's log and shared memory, and views that know more than the backup, are still there.
    """
    ledger = tmp_path / "ledger.db"
    with Server(ledger) as server:
        with load(server) as acknowledged:
            before = list(acknowledged)
            succeed("backup", "--database", ledger, "b.db", cwd=tmp_path)
        with server.client() as client:  # at least one event that the backup does not have
            assert client.post("/v1/sessions", json={"id": "behind"}).status_code == 201
        server.kill()
        left = {path.name for path in tmp_path.iterdir()}
        assert {"ledger.db-wal", "ledger.db-shm", "ledger.db.views.000001.db"} <= left
        assert (tmp_path / "ledger.db-wal").stat().st_size
        everything = sorted(events_of_dead(ledger, tmp_path / "aside"))
        ledger.unlink()
        succeed("restore", "--database", ledger, "b.db", cwd=tmp_path)
        verified(ledger)
        restored = events_of(ledger)
        assert restored == events_of(tmp_path / "b.db")
        assert set(restored) < set(everything)
        found = {message["id"] for session in exported(ledger) for message in session["messages"]}
        assert set(before) <= found <= set(acknowledged)
        server.start()
        with server.client() as client:
            assert client.post("/v1/sessions/load0/messages", json={"id": "after", **HELLO}).status_code == 201
            assert client.get("/health/ready").status_code == 200
        assert server.stop() == 0
    assert verified(ledger).startswith(f"{len(restored) + 1} events verified")


def events_of_dead(ledger: Path, aside: Path) -> list[str]:
    """The events of a ledger that was left by a SIGKILL, read from a copy of its files."""
    aside.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(f"{ledger}{suffix}", aside / f"ledger.db{suffix}")
    return events_of(aside / "ledger.db")


STUCK_RESTORE = """
import sys
from pathlib import Path
from chatledger.maintenance.restore import Steps, restore
from chatledger.settings import Settings
def stuck(done, total):
    if 2 * done > total:
        print(done, total, flush=True)
        sys.stdin.read()
step = sys.argv[3]
steps = Steps(**{"copied": lambda *_: None, "verified": lambda *_: None, "viewed": lambda *_: None, step: stuck})
restore(Settings(database_path=sys.argv[1]), Path(sys.argv[2]), steps)
"""


@pytest.mark.parametrize(("step", "placed"), [("copied", False), ("verified", False), ("viewed", True)])
def test_a_restore_that_is_killed_leaves_no_half_of_a_ledger(
    folder: Path,
    tmp_path: Path,
    step: str,
    placed: bool,  # noqa: FBT001
) -> None:
    """Before the ledger has its name there is none, and the next restore begins anew; behind it there is all of it."""
    ledger = tmp_path / "ledger.db"
    with subprocess.Popen(
        [sys.executable, "-c", STUCK_RESTORE, str(ledger), str(folder / "b.db"), step],
        cwd=ROOT,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.kill()
    assert ledger.exists() is placed
    assert (tmp_path / "ledger.db.new").exists() is not placed
    if not placed:
        succeed("restore", "--database", ledger, folder / "b.db", cwd=tmp_path)
    assert verified(ledger) == verified(folder / "ledger.db")
    assert exported(ledger) == exported(folder / "ledger.db")
    assert not list(tmp_path.glob("ledger.db.new*"))


# to a position


@pytest.mark.parametrize("position", [1, 7, 30])
def test_a_ledger_as_of_a_position_is_the_beginning_of_the_ledger(folder: Path, tmp_path: Path, position: int) -> None:
    """The first n events, in the ledger of the same identity, with the tree that it had then; sessions as of then."""
    ledger = tmp_path / "ledger.db"
    succeed("restore", "--to-position", position, "--database", ledger, folder / "b.db", cwd=tmp_path)
    assert events_of(ledger) == events_of(folder / "ledger.db")[:position]
    with Store(folder / "ledger.db") as store:
        rows = store.ledger.execute("SELECT leaf FROM events WHERE position <= ? ORDER BY position", (position,))
        frontier = Frontier()
        frontier.append([leaf for (leaf,) in rows])
    assert verified(ledger) == f"{position} events verified; the tree's root is {frontier.root().hex()}\n"
    with Store(ledger) as store:
        assert store.rebuilt is None
        assert dump(store.views.db) == dump_rebuilt(store, tmp_path)
        store.commit_all(create("later"))
    verified(ledger)


@pytest.mark.parametrize("position", [0, 10_000])
def test_a_position_that_the_backup_does_not_have_is_refused(folder: Path, tmp_path: Path, position: int) -> None:
    """Rather than giving less than was asked for."""
    command = ["restore", "--to-position", str(position), "--database", "ledger.db", str(folder / "b.db")]
    if position:
        assert "and no 10000" in refuse(*command, cwd=tmp_path)
    else:
        with pytest.raises(AssertionError, match="--to-position"):
            succeed(*command, cwd=tmp_path)
    assert not (tmp_path / "ledger.db").exists()


def test_retries_are_known_as_far_as_their_events_are_there(tmp_path: Path) -> None:
    """A key whose events were left out is new; one whose events are there gives its first answer."""
    keys = {"first": "m1", "second": "m2"}
    with Server(tmp_path / "ledger.db") as server, server.client() as client:
        assert client.post("/v1/sessions", json={"id": "s"}).status_code == 201
        for key, name in keys.items():
            answer = client.post(
                "/v1/sessions/s/messages", json={"id": name, **HELLO}, headers={"Idempotency-Key": key}
            )
            assert answer.status_code == 201
        succeed("backup", "--database", server.database, "b.db", cwd=tmp_path)
        server.stop()
    said = succeed("restore", "--to-position", 2, "--database", "then/ledger.db", "b.db", cwd=tmp_path)
    key = tmp_path / "then" / "ledger.db.key"
    assert f"its signing key is not in a backup: copy it to {key} before the next start" in said
    shutil.copy(tmp_path / "ledger.db.key", key)
    with Server(tmp_path / "then" / "ledger.db") as server, server.client() as client:
        for key, name in keys.items():
            answer = client.post(
                "/v1/sessions/s/messages", json={"id": name, **HELLO}, headers={"Idempotency-Key": key}
            )
            assert answer.status_code == 201
            assert ("idempotency-replayed" in answer.headers) is (key == "first")


def test_every_table_of_the_ledger_is_copied(tmp_path: Path) -> None:
    """A table that the schema gets has to be thought of in a restore to a position, too."""
    with Store(tmp_path / "ledger.db") as store:
        names = {
            name
            for (name,) in store.ledger.execute("SELECT name FROM main.sqlite_schema WHERE type = 'table'")
            if not name.startswith("sqlite_")
        }
    assert names == COPIED


# erasures


def erase(folder: Path, *names: str) -> None:
    """Erase sessions of the stopped ledger in *folder*."""
    with Store(folder / "ledger.db") as store:
        for name in names:
            erasure.erase(store.committer, tenant_id="default", session_id=name, reason="asked for", actor="open")
        erasure.finish_now(store.committer)


@pytest.fixture
def erased(folder: Path, tmp_path: Path) -> Path:
    """A copy of the ledger with two sessions erased behind the backup; the backup; and a later backup."""
    for name in ("ledger.db", "b.db"):
        shutil.copy(folder / name, tmp_path / name)
    erase(tmp_path, "s1", "s3")
    succeed("backup", "--database", "ledger.db", "later.db", cwd=tmp_path)
    return tmp_path


@pytest.mark.parametrize("options", [[], ["--to-position", "60"]])
def test_what_was_erased_behind_a_backup_is_erased_in_the_restore(erased: Path, options: list[str]) -> None:
    """As new events; nothing of the content is in any file, and a second restore does the same again."""
    assert b"secret of s1." in (erased / "b.db").read_bytes()
    for _ in range(2):
        (erased / "ledger.db").unlink()
        succeed("restore", "--database", "ledger.db", *options, "b.db", cwd=erased)
        verified(erased / "ledger.db")
        events = events_of(erased / "ledger.db")
        assert sum('"type":"session.erased"' in line for line in events) == 2
        assert {"s1", "s3"}.isdisjoint(session["id"] for session in exported(erased / "ledger.db"))
        for path in erased.glob("ledger.db*"):
            content = path.read_bytes()
            assert b"secret of s1." not in content, path
            assert b"secret of s3." not in content, path
        assert b"secret of s2." in (erased / "ledger.db").read_bytes()
        assert not list(erased.glob("ledger.db.new*"))


def test_a_list_of_erasures_that_cannot_be_read_stops_a_restore(erased: Path) -> None:
    """Rather than bringing back what somebody had a right to see gone."""
    (erased / "ledger.db").unlink()
    (erased / "ledger.db.erasures").write_text("not ours\n")
    said = refuse("restore", "--database", "ledger.db", "b.db", cwd=erased)
    assert "The list of erasures ledger.db.erasures cannot be read" in said
    assert not (erased / "ledger.db").exists()
    assert not list(erased.glob("ledger.db.new*"))


def test_a_past_position_does_not_undo_an_erasure_that_the_backup_has(erased: Path, tmp_path: Path) -> None:
    """The payloads are gone from the backup; that they were erased is recorded anew, without any list."""
    ledger = tmp_path / "elsewhere" / "ledger.db"
    succeed("restore", "--to-position", 30, "--database", ledger, erased / "later.db", cwd=tmp_path)
    verified(ledger)
    events = events_of(ledger)
    assert len(events) == 32
    assert events[:30] == events_of(erased / "later.db")[:30]
    assert ['"type":"session.erased"' in line for line in events[30:]] == [True, True]
    verified(ledger)


@pytest.mark.parametrize("form", ["whole", "to its end"])
def test_a_backup_behind_an_erasure_needs_no_list(erased: Path, tmp_path: Path, form: str) -> None:
    """It is restored as it is, on another machine."""
    ledger = tmp_path / "elsewhere" / "ledger.db"
    newest = status(erased / "later.db")["events"]
    options = [] if form == "whole" else ["--to-position", newest]
    succeed("restore", *options, "--database", ledger, erased / "later.db", cwd=tmp_path)
    assert events_of(ledger) == events_of(erased / "ledger.db")
    assert verified(ledger) == verified(erased / "ledger.db")


def test_an_older_schema_is_brought_up_to_date_in_the_copy(tmp_path: Path) -> None:
    """A ledger of version 0.1 has no tree: its backup, and a restore to a position, have one."""
    with Store(tmp_path / "ledger.db") as store:
        for number in range(5):
            store.commit_all(create(f"s{number}", message("m1")))
    settings = Settings(database_path=str(tmp_path / "ledger.db"))
    old = ledger_file.open_unfinished(settings.database_path, settings)
    ledger_file.close_as_one_file(old)
    older_ledger(tmp_path / "ledger.db", tmp_path / "old.db", 1)
    succeed("backup", "--database", "old.db", "b.db", cwd=tmp_path)
    assert verified(tmp_path / "b.db").startswith("10 events verified")
    succeed("restore", "--to-position", 4, "--database", "then.db", "old.db", cwd=tmp_path)
    assert verified(tmp_path / "then.db").startswith("4 events verified")
