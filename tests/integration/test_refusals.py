"""Rule 10: refuse rather than guess. Each refusal says what is wrong, and every byte stays as it was."""

import shutil
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from chatledger.errors import LedgerDamaged, LedgerLocked, RefusedToStart
from chatledger.storage import paths
from chatledger.storage.paths import filesystem_of
from chatledger.views.live_views import Views
from chatledger.writing.committer import Committer
from support.files import contents
from support.store import Store, append, create, message


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A ledger with three events, closed, and its views beside it."""
    path = tmp_path / "ledger.db"
    with Store(path) as store:
        store.commit_all(create("s", message("m1")), append("s", message("m2")))
    return path


def assert_refused(path: Path, says: str, error: type[RefusedToStart] = RefusedToStart) -> None:
    """Opening *path* is refused with a message that has *says*, and changes nothing."""
    before = contents(path.parent)
    with pytest.raises(error, match=says):
        Store(path).open()
    assert contents(path.parent) == before


def edit(path: Path, *statements: str) -> None:
    """Change the ledger behind our back, without the guards."""
    connection = apsw.Connection(str(path))
    triggers = connection.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall()
    for (name,) in triggers:
        connection.execute(f"DROP TRIGGER {name}")
    for statement in statements:
        connection.execute(statement)
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    connection.close()


@pytest.mark.parametrize(
    "content", [b"Dear diary\n" * 1000, b"\x00" * 8192, b"x", b"SQLite format 3\x00" + b"\xff" * 9000]
)
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    """Text, zeros, one byte, a header with nothing behind it."""
    path = tmp_path / "ledger.db"
    path.write_bytes(content)
    assert_refused(path, r"ledger\.db")


@pytest.mark.parametrize("journal_mode", ["delete", "wal"])
def test_another_applications_database_is_refused(tmp_path: Path, journal_mode: str) -> None:
    """It is not even switched to a write-ahead log."""
    path = tmp_path / "ledger.db"
    connection = apsw.Connection(str(path))
    connection.pragma("journal_mode", journal_mode)
    connection.execute("CREATE TABLE events (id INTEGER PRIMARY KEY); INSERT INTO events VALUES (1)")
    connection.close()
    assert_refused(path, "not a ledger of chatledger")


def test_the_views_are_no_ledger(ledger: Path) -> None:
    """Our own other file, by mistake."""
    (views,) = ledger.parent.glob("*.views.*.db")
    path = ledger.parent / "elsewhere" / "ledger.db"
    path.parent.mkdir()
    shutil.copy(views, path)
    assert_refused(path, "not a ledger of chatledger")


def test_a_newer_schema_is_refused(ledger: Path) -> None:
    """The message says which is known and which was found."""
    connection = apsw.Connection(str(ledger))
    connection.pragma("user_version", 99)
    connection.close()
    assert_refused(ledger, r"schema 99.*Use the newer chatledger")


@pytest.mark.parametrize("missing", [True, False])
def test_a_ledger_that_is_missing_or_empty_beside_its_views_is_refused(ledger: Path, *, missing: bool) -> None:
    """A new one in its place would hide the loss."""
    ledger.unlink()
    if not missing:
        ledger.touch()
    assert_refused(ledger, "missing or empty")
    assert ledger.exists() is not missing


def test_a_new_ledger_is_made_where_nothing_is(tmp_path: Path) -> None:
    """Or where a start that was killed left an empty file."""
    (tmp_path / "ledger.db").touch()
    with Store(tmp_path / "ledger.db") as store:
        store.commit_all(create("s"))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            "UPDATE events SET payload = CAST(replace(CAST(payload AS TEXT), 'm2', 'm3') AS BLOB)",
            id="payload",
        ),
        pytest.param("UPDATE events SET actor = 'somebody' WHERE position = 2", id="actor"),
        pytest.param("UPDATE events SET recorded_at = recorded_at + 1 WHERE position = 1", id="time"),
        pytest.param("UPDATE events SET salt = zeroblob(16) WHERE position = 3", id="salt"),
        pytest.param("UPDATE events SET leaf = zeroblob(32) WHERE position = 3", id="leaf"),
        pytest.param("UPDATE streams SET session_id = 'other'", id="session"),
        pytest.param("UPDATE streams SET tenant_id = 'other'", id="tenant"),
        pytest.param("UPDATE events SET type = 'message.eaten' WHERE position = 3", id="type"),
        pytest.param("UPDATE events SET schema = 9 WHERE position = 3", id="schema"),
        pytest.param("UPDATE events SET payload = x'00' WHERE position = 3", id="no JSON"),
        pytest.param("DELETE FROM events WHERE position = 2", id="an event in the middle"),
        pytest.param("DELETE FROM events WHERE position = 1", id="the first event"),
        pytest.param("DELETE FROM streams", id="the streams"),
        pytest.param("UPDATE events SET position = 4 WHERE position = 3", id="a gap"),
        pytest.param("UPDATE events SET payload = NULL WHERE position = 3", id="the payload alone"),
        pytest.param(
            "UPDATE events SET payload = NULL, salt = NULL WHERE position = 3", id="erased without an erasure"
        ),
    ],
)
def test_a_damaged_tail_is_refused(ledger: Path, change: str) -> None:
    """Whatever was changed in the newest events is seen at the start."""
    edit(ledger, change)
    assert_refused(ledger, "ledger|event", LedgerDamaged)


def test_a_cut_tail_is_noticed_by_the_tree(ledger: Path) -> None:
    """The newest event is gone: the tree over the leaves has one more than there are."""
    edit(ledger, "DELETE FROM events WHERE position = 3")
    assert_refused(ledger, "3 leaves.*2 events", LedgerDamaged)


def test_a_tail_that_was_cut_with_its_tree_is_noticed_by_the_views(ledger: Path) -> None:
    """Whoever did it made the tree fit: the ledger by itself is whole, but the views have seen more than it has."""
    edit(ledger, "DELETE FROM events WHERE position = 3")
    edit(ledger, "UPDATE tree SET size = 0, frontier = x''")
    with Store(ledger) as store:
        assert store.rebuilt == "the views were ahead of the ledger"


@pytest.mark.parametrize("offset", [0, 16, 100])
def test_an_overwritten_header_is_refused(ledger: Path, offset: int) -> None:
    """The file's header, the schema's page."""
    overwrite(ledger, offset)
    assert_refused(ledger, r".+")


@pytest.mark.parametrize("table", ["ledger", "streams", "events"])
def test_an_overwritten_page_of_a_table_is_refused(ledger: Path, table: str) -> None:
    """The pages that each start reads."""
    connection = apsw.Connection(str(ledger), flags=apsw.SQLITE_OPEN_READONLY)
    page = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).get
    page_bytes = connection.pragma("page_size")
    connection.close()
    overwrite(ledger, (page - 1) * page_bytes)
    assert_refused(ledger, r".+")


def overwrite(path: Path, offset: int) -> None:
    """Put noise where a page was."""
    content = bytearray(path.read_bytes())
    content[offset : offset + 4000] = b"\xa5" * 4000
    path.write_bytes(content)


def test_a_truncated_ledger_is_refused(ledger: Path) -> None:
    """Half of the file is not half of the history."""
    content = ledger.read_bytes()
    ledger.write_bytes(content[: len(content) // 2 // 8192 * 8192])
    assert_refused(ledger, r".+")


def test_after_a_refusal_there_is_nothing_to_write_with(ledger: Path) -> None:
    """A damaged ledger is not held open: a writer that goes on must not append to it."""
    edit(ledger, "UPDATE events SET leaf = zeroblob(32) WHERE position = 3")
    store = Store(ledger)
    views = Views(store.location, store.settings)
    committer = Committer(store.location, store.settings, views)
    with pytest.raises(LedgerDamaged):
        committer.open()
    try:
        assert not committer.is_open
    finally:
        committer.close()


def test_a_second_opening_of_the_same_ledger_is_refused(tmp_path: Path) -> None:
    """One writes; the first goes on."""
    with Store(tmp_path / "ledger.db") as store:
        with pytest.raises(LedgerLocked, match="in use"):
            Store(tmp_path / "ledger.db").open()
        store.commit_all(create("s"))
    Store(tmp_path / "ledger.db").open().close()


HOLDER = """
import sys
from pathlib import Path
sys.path.insert(0, "tests")
from support.store import Store
with Store(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused_until_the_first_one_ends(ledger: Path) -> None:
    """The lock ends with its process, however that ends; by another name the file is the same one."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", HOLDER, str(ledger)]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        link = ledger.parent / "link.db"
        link.symlink_to(ledger)
        for path in (ledger, link):
            with pytest.raises(LedgerLocked, match="in use"):
                Store(path).open()
        holder.kill()
    with Store(ledger) as store:
        assert store.views.position == 3


def test_a_network_file_system_is_refused(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the kind that was found, and the way round it."""
    monkeypatch.setattr(paths, "filesystem_of", lambda *_: "nfs4")
    assert_refused(ledger, r"network file system \(nfs4\).*CHATLEDGER_ALLOW_NETWORK_FILESYSTEM=1")
    with Store(ledger, allow_network_filesystem=True) as store:
        assert store.views.position == 3


def test_an_sqlite_with_the_wal_reset_bug_is_refused(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """3.51.2 is the last one that has it."""
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.2")
    assert_refused(ledger, r"3\.51\.2.*3\.51\.3")
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: "3.51.3")
    Store(ledger).open().close()


MOUNTINFO = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /mnt/share rw - nfs4 server:/export rw,vers=4.2
31 30 8:2 / /mnt/share/local rw shared:7 master:2 - xfs /dev/sdb1 rw
32 22 0:41 / /mnt/with\\040space rw - cifs //server/share rw
35 22 0:44 / /mnt/büro rw - smb3 //server/büro rw
33 22 0:42 / /over rw - ext4 /dev/sdc1 rw
34 22 0:43 / /over rw - nfs server:/later rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/home/data", "ext4"),
        ("/mnt/share", "nfs4"),
        ("/mnt/share/data", "nfs4"),
        ("/mnt/shared", "ext4"),
        ("/mnt/share/local/data", "xfs"),
        ("/mnt/with space/data", "cifs"),
        ("/mnt/büro/data", "smb3"),
        ("/over/data", "nfs"),
    ],
)
def test_the_file_system_of_a_path_is_that_of_its_nearest_mount(path: str, kind: str) -> None:
    """By the text of /proc/self/mountinfo: whole names, escaped spaces, the later of two mounts."""
    assert filesystem_of(Path(path), MOUNTINFO) == kind


def test_without_a_mount_the_file_system_is_unknown() -> None:
    """And not refused."""
    assert filesystem_of(Path("/data"), "") == "unknown"
    assert "unknown" not in paths.NETWORK_FILESYSTEMS
