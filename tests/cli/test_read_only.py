"""Evidence is read where it lies: on read-only media, and in folders of other people; and nothing is left there."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from subprocess import CompletedProcess

import apsw
import pytest

from support.command import assert_clear, succeed
from support.command import run as run_command
from support.places_to_read import folder_to_read, leave_as_killed, public_folder, read_only_mount, run_as_stranger
from support.server import Server
from support.store import Store, create, message

HELLO = {"role": "user", "content": "Hello"}
EVENTS = 6
KILLED = """
import os, sys
from pathlib import Path
from support.store import Store, append, message
store = Store(Path(sys.argv[1])).open()
store.commit_all(append("s", message("in-the-log")))
os._exit(9)
"""
HOT_JOURNAL = """
import os, sys, apsw
db = apsw.Connection(sys.argv[1])
db.pragma("journal_mode", "delete")
db.pragma("cache_size", 1)
db.execute("BEGIN IMMEDIATE")
db.execute("CREATE TABLE rubbish (x)")
for _ in range(999):
    db.execute("INSERT INTO rubbish VALUES (randomblob(900))")
db.cache_flush()
os._exit(9)
"""
Run = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def originals() -> Iterator[dict[str, Path]]:
    """Folders with a ledger in each state that its files can be left in: `stopped`, `killed`, `backup` and others."""
    with public_folder() as base:
        stopped, killed = base / "stopped", base / "killed"
        stopped.mkdir()
        with Store(stopped / "ledger.db") as store:
            store.commit_all(create("s", message("m1"), message("m2")), create("t", message("m1")))
            store.commit_all(create("u"))
        shutil.copytree(stopped, killed)
        leave_as_killed(killed, KILLED, killed / "ledger.db")
        assert (killed / "ledger.db-wal").stat().st_size
        found = {"stopped": stopped, "killed": killed}
        for name, source in (("empty log", stopped), ("log alone", killed), ("hot journal", stopped)):
            found[name] = base / name.replace(" ", "-")
            shutil.copytree(source, found[name])
        (found["empty log"] / "ledger.db-wal").touch()
        for path in found["log alone"].glob("*-shm"):
            path.unlink()
        leave_as_killed(found["hot journal"], HOT_JOURNAL, found["hot journal"] / "ledger.db")
        assert (found["hot journal"] / "ledger.db-journal").stat().st_size
        found["backup"] = base / "backup"
        found["backup"].mkdir()
        succeed("backup", "--database", stopped / "ledger.db", found["backup"] / "ledger.db", cwd=base)
        (stopped / "ledger.db-shm").unlink()  # that a reader has left
        (stopped / "ledger.db-wal").unlink()
        yield found


@pytest.fixture
def base(originals: dict[str, Path]) -> Iterator[dict[str, Path]]:
    """Copies of them for one test."""
    with public_folder() as folder:
        yield {name: shutil.copytree(path, folder / path.name) for name, path in originals.items()}


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Names, sizes and times of the files."""
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.iterdir()}


def assert_all_is_read(run: Run, folder: Path, scratch: Path, *, events: int, views: bool = True) -> None:
    """Status, verify, both exports and a backup give what is there; nothing is left in the folder."""
    scratch.mkdir()
    scratch.chmod(0o777)
    before = listing(folder)
    database = folder / "ledger.db"

    def told(*arguments: object) -> str:
        done = run(*arguments, cwd=scratch)
        assert done.returncode == 0, done.stderr
        return done.stdout

    found = json.loads(told("status", "--json", "--database", database))
    assert (found["events"], found["in_use"]) == (events, False)
    assert (found["sessions"], found["views_position"]) == ((3, events) if views else (None, None))
    lines = told("verify", "--database", database).splitlines()
    assert lines[0].startswith(f"{events} events verified")
    said = (
        f"the views are what {events} events make of them" if views else "The views were not checked: there are none."
    )
    assert lines[1:] == [said]
    assert len(told("export", "--events", "--database", database).splitlines()) == events
    ids = {json.loads(line)["id"] for line in told("export", "--database", database).splitlines()}
    assert ids == {"s", "t", "u"}
    assert told("export", "--session", "s", "--markdown", "--database", database).startswith("# Session")
    told("backup", "--database", database, scratch / "b.db")
    assert listing(folder) == before
    copy = ["verify", "--database", "b.db"]
    assert run(*copy, cwd=scratch).stdout.startswith(f"{events} events verified")


def assert_refused(run: Run, folder: Path, scratch: Path, *words: str) -> None:
    """Each reading command says in one line why it cannot, and what to do."""
    scratch.mkdir()
    scratch.chmod(0o777)
    before = listing(folder)
    for command in (["status"], ["verify"], ["export"], ["export", "--events"], ["backup", "b.db"]):
        done = run(*command, "--database", folder / "ledger.db", cwd=scratch)
        assert_clear(done)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert [word for word in words if word not in line] == [], line
    assert listing(folder) == before
    assert not list(scratch.iterdir())


# ---------------------------------------------------------------- read-only media

MOUNTS = pytest.mark.parametrize("as_bind", [True, False], ids=["bind mount", "tmpfs"])


@MOUNTS
@pytest.mark.parametrize(
    ("state", "events"), [("stopped", EVENTS), ("empty log", EVENTS), ("killed", EVENTS + 1), ("backup", EVENTS)]
)
def test_a_ledger_on_read_only_media_is_read(
    base: dict[str, Path], tmp_path: Path, state: str, events: int, *, as_bind: bool
) -> None:
    """As an orderly stop, a crash or a backup has left it; also by root, who may do everything."""
    with read_only_mount(base[state], as_bind=as_bind) as place:
        assert_all_is_read(run_command, place, tmp_path / "x", events=events, views=state != "backup")


@pytest.mark.parametrize("state", ["stopped", "killed"])
def test_a_ledger_on_read_only_media_without_its_views_is_read(
    base: dict[str, Path], tmp_path: Path, state: str
) -> None:
    """Sessions are exported out of views that are made elsewhere, in the folder of temporary files, and removed."""
    for path in base[state].glob("*.views.*"):
        path.unlink()
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with read_only_mount(base[state], as_bind=True) as place:
        env = {"TMPDIR": str(temporary)}

        def run(*arguments: object, cwd: Path) -> CompletedProcess[str]:
            return run_command(*arguments, cwd=cwd, env=env)

        events = EVENTS if state == "stopped" else EVENTS + 1
        assert_all_is_read(run, place, tmp_path / "x", events=events, views=False)
    assert not list(temporary.iterdir())


@MOUNTS
def test_a_log_that_cannot_be_taken_in_is_said_to_be_copied(
    base: dict[str, Path], tmp_path: Path, *, as_bind: bool
) -> None:
    """Without its index a write-ahead log is of no use there; in the copy, all of it can be read."""
    with read_only_mount(base["log alone"], as_bind=as_bind) as place:
        words = ["copy ledger.db and ledger.db-wal into another folder, and use the copy", "read-only"]
        assert_refused(run_command, place, tmp_path / "x", *words)
        for name in ("ledger.db", "ledger.db-wal"):
            shutil.copy(place / name, tmp_path / name)
    said = succeed("verify", "--database", "ledger.db", cwd=tmp_path)
    assert said.startswith(f"{EVENTS + 1} events verified")


@MOUNTS
def test_an_unfinished_transaction_on_read_only_media_is_not_for_the_next_start(
    base: dict[str, Path], tmp_path: Path, *, as_bind: bool
) -> None:
    """No server can start there: the files are to be copied, which then are as before that transaction."""
    with read_only_mount(base["hot journal"], as_bind=as_bind) as place:
        assert_refused(run_command, place, tmp_path / "x", "copy ledger.db and ledger.db-journal into another folder")
        for name in ("ledger.db", "ledger.db-journal"):
            shutil.copy(place / name, tmp_path / name)
    with Store(tmp_path / "ledger.db") as store:
        assert store.views.position == EVENTS


def test_beside_a_server_that_writes_a_read_only_mount_shows_what_it_has(tmp_path: Path) -> None:
    """A container that is given the server's folder to read: with locks, so that it sees each state whole."""
    folder = tmp_path / "served"
    folder.mkdir()
    with (
        Server(folder / "ledger.db", cwd=folder) as server,
        server.client() as client,
        read_only_mount(folder, as_bind=True) as place,
    ):
        assert client.post("/v1/sessions", json={"id": "s", "messages": [HELLO]}).status_code == 201
        for number in range(3):
            said = succeed("verify", "--database", place / "ledger.db", cwd=tmp_path)
            assert said.startswith(f"{2 + number} events verified")
            found = json.loads(succeed("status", "--json", "--database", place / "ledger.db", cwd=tmp_path))
            assert (found["events"], found["messages"], found["in_use"]) == (2 + number, 1 + number, True)
            assert len(succeed("export", "--events", "--database", place / "ledger.db", cwd=tmp_path).splitlines()) > 1
            assert client.post("/v1/sessions/s/messages", json=HELLO).status_code == 201
        assert server.stop() == 0
    assert succeed("verify", "--database", folder / "ledger.db", cwd=tmp_path).startswith("5 events verified")


def test_the_keys_of_the_evidence_are_read_there_too(base: dict[str, Path], tmp_path: Path) -> None:
    """A head is saved and checked with the key beside the ledger; nothing is made there."""
    with read_only_mount(base["stopped"], as_bind=False) as place:
        database = place / "ledger.db"
        succeed("verify", "--database", database, "--save-head", "head", cwd=tmp_path)
        assert "extends the head" in succeed("verify", "--database", database, "--head", "head", cwd=tmp_path)


def test_a_restore_reads_its_source_from_read_only_media(base: dict[str, Path], tmp_path: Path) -> None:
    """Whole and to a position; a copy of a stopped ledger serves as well as a backup."""
    for state in ("stopped", "backup", "killed"):
        with read_only_mount(base[state], as_bind=False) as place:
            for options in ([], ["--to-position", "4"]):
                target = f"{state}{len(options)}/ledger.db"
                said = succeed("restore", "--database", target, *options, place / "ledger.db", cwd=tmp_path)
                events = 4 if options else EVENTS + (state == "killed")
                assert said.startswith(f"{events} events restored")


# ---------------------------------------------------------------- other people's folders


@pytest.mark.parametrize(("state", "events"), [("killed", EVENTS + 1), ("backup", EVENTS)])
def test_a_ledger_in_somebody_elses_folder_is_read(base: dict[str, Path], state: str, events: int) -> None:
    """With the files beside it that a crash leaves, or as a backup, which needs none."""
    with folder_to_read(base[state]) as place, public_folder() as elsewhere:
        assert_all_is_read(run_as_stranger, place, elsewhere / "x", events=events, views=state != "backup")


@pytest.mark.parametrize("state", ["stopped", "empty log", "log alone"])
def test_what_is_missing_in_somebody_elses_folder_is_said(base: dict[str, Path], state: str) -> None:
    """Its owner may start a server any moment, so that it is not read without locks."""
    with folder_to_read(base[state]) as place, public_folder() as elsewhere:
        words = ["ledger.db-shm", "run the command as the folder's owner", "copy ledger.db, and ledger.db-wal"]
        assert_refused(run_as_stranger, place, elsewhere / "x", *words)


def test_an_unfinished_transaction_in_somebody_elses_folder_is_for_its_next_start(base: dict[str, Path]) -> None:
    """There it is true."""
    with folder_to_read(base["hot journal"]) as place, public_folder() as elsewhere:
        words = ["has an unfinished transaction; the next start of the server finishes it"]
        assert_refused(run_as_stranger, place, elsewhere / "x", *words)


@pytest.mark.parametrize("hidden", ["ledger.db", "ledger.db-wal"])
def test_a_file_that_one_may_not_read_is_named(base: dict[str, Path], hidden: str) -> None:
    """With the remedy."""
    with folder_to_read(base["killed"]) as place, public_folder() as elsewhere:
        (place / hidden).chmod(0o600)
        assert_refused(run_as_stranger, place, elsewhere / "x", "may not read it", "run the command as its owner")


def test_a_folder_that_one_may_not_enter_is_one_line(base: dict[str, Path]) -> None:
    """No traceback; the ledger is named."""
    with folder_to_read(base["killed"]) as place, public_folder() as elsewhere:
        place.chmod(0o700)
        (elsewhere / "x").mkdir()
        for command in (["status"], ["verify"], ["export"], ["export", "--events"], ["backup", "b.db"]):
            done = run_as_stranger(*command, "--database", place / "ledger.db", cwd=elsewhere / "x")
            assert_clear(done)
            assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
            assert f"Cannot use {place / 'ledger.db'}: permission denied" in done.stderr


def test_views_that_one_may_not_read_are_said_not_to_be_checked(base: dict[str, Path]) -> None:
    """The ledger is verified, exit code 0; and sessions are exported all the same."""
    with folder_to_read(base["killed"]) as place, public_folder() as elsewhere:
        for path in place.glob("*.views.*"):
            path.chmod(0o600)
        done = run_as_stranger("verify", "--database", place / "ledger.db", cwd=elsewhere)
        assert (done.returncode, done.stdout.splitlines()[0][:17]) == (0, f"{EVENTS + 1} events verified"[:17])
        assert "The views were not checked: ledger.db.views.000001.db cannot be opened" in done.stdout
        found = run_as_stranger("status", "--json", "--database", place / "ledger.db", cwd=elsewhere)
        assert json.loads(found.stdout)["sessions"] is None
        assert "cannot be opened for reading" in json.loads(found.stdout)["views_problem"]
        done = run_as_stranger("export", "--database", place / "ledger.db", cwd=elsewhere)
        assert len(done.stdout.splitlines()) == 3


def test_a_folder_that_one_may_not_list_hides_its_views_only(base: dict[str, Path]) -> None:
    """Enter, but not list: the ledger has a known name."""
    with folder_to_read(base["killed"]) as place, public_folder() as elsewhere:
        place.chmod(0o711)
        done = run_as_stranger("verify", "--database", place / "ledger.db", cwd=elsewhere)
        assert done.returncode == 0, done.stderr
        assert "The views were not checked: the folder cannot be listed (Permission denied)." in done.stdout


def test_a_server_of_another_user_is_read_beside(base: dict[str, Path], tmp_path: Path) -> None:
    """Its log and index can be read: so they are, with locks; whether it runs cannot be known without its lock file."""
    with folder_to_read(base["stopped"]) as place, public_folder() as elsewhere, ExitStack() as stack:
        (place / "ledger.db.key").chmod(0o600)
        server = stack.enter_context(Server(place / "ledger.db", cwd=tmp_path))
        client = stack.enter_context(server.client())
        assert client.post("/v1/sessions/u/messages", json=HELLO).status_code == 201
        for path in place.glob("ledger.db*"):
            path.chmod(0o644 if "lock" not in path.name and "key" not in path.name else 0o600)
        done = run_as_stranger("verify", "--database", place / "ledger.db", cwd=elsewhere)
        assert done.stdout.startswith(f"{EVENTS + 1} events verified"), done.stderr
        found = run_as_stranger("status", "--json", "--database", place / "ledger.db", cwd=elsewhere)
        assert json.loads(found.stdout)["in_use"] is None
        assert client.post("/v1/sessions/u/messages", json=HELLO).status_code == 201


# ---------------------------------------------------------------- status, where it may write


def test_status_makes_no_lock_and_takes_none(base: dict[str, Path], tmp_path: Path) -> None:
    """It says whether the ledger is in use by the lock of whoever holds it, and lets go of what it has looked at."""
    folder = base["stopped"]
    lock = folder / "ledger.db.lock"
    lock.unlink(missing_ok=True)

    def in_use() -> bool:
        text = succeed("status", "--json", "--database", folder / "ledger.db", cwd=tmp_path)
        return bool(json.loads(text)["in_use"])

    assert not in_use()
    assert not lock.exists()
    lock.write_text("left")
    assert not in_use()
    assert lock.read_text() == "left"
    with Store(folder / "ledger.db"):
        assert in_use()
    assert not in_use()


def test_a_damaged_views_file_is_said_by_status_and_verify(base: dict[str, Path], tmp_path: Path) -> None:
    """No traceback: a file that is none, the header alone, and a page of noise."""
    folder = base["stopped"]
    (views,) = folder.glob("*.views.*.db")
    good = views.read_bytes()
    with closing(apsw.Connection(str(views))) as db:
        page = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'sessions'").get
        size = db.pragma("page_size")
    spoiled = [
        b"Dear diary\n" * 2000,
        good[:100] + bytes(len(good) - 100),
        good[: (page - 1) * size] + b"\xa5" * size + good[page * size :],
    ]
    for content in spoiled:
        for log in folder.glob("*.views.*-*"):
            log.unlink()
        views.write_bytes(content)
        found = json.loads(succeed("status", "--json", "--database", folder / "ledger.db", cwd=tmp_path))
        assert found["events"] == EVENTS
        if content != spoiled[-1]:  # of which it reads an index only
            assert (found["sessions"], "damaged" in found["views_problem"]) == (None, True)
        done = run_command("verify", "--database", folder / "ledger.db", cwd=tmp_path)
        assert "Traceback" not in done.stderr
        assert done.stdout.startswith(f"{EVENTS} events verified")
        assert "damaged" in done.stdout + done.stderr.splitlines()[-1]


def test_the_module_is_run_as_root_where_that_is_possible() -> None:
    """A reminder in the output of a run by another user: its tests of mounts and strangers were skipped."""
    if os.geteuid() != 0:
        pytest.skip("run as root to test read-only mounts and other users' folders")
