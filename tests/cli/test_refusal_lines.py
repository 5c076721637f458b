"""What commands say when they refuse, word by word where it matters, and that they leave nothing behind then."""

import os
import signal
import subprocess
from pathlib import Path

import apsw
import pytest

from chatledger.errors import LedgerLocked
from chatledger.settings import Settings
from chatledger.storage import paths
from chatledger.storage.paths import Location, exclusive
from support.command import COMMAND, refuse, run, succeed, write_lines
from support.scenes import NAMESPACE, OTHER_UID, has_namespaces

SESSION = {"id": "s", "messages": [{"role": "user", "content": "Hello"}]}
DATABASE = ("--database", "l.db")
NEEDS_ROOT = pytest.mark.skipif(
    os.geteuid() != 0 or not has_namespaces(), reason="only root can give a folder away, and be nobody in a namespace"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a ledger, its backup, and a file to import."""
    write_lines(tmp_path / "a.jsonl", [SESSION])
    succeed("import", *DATABASE, "a.jsonl", cwd=tmp_path)
    succeed("backup", *DATABASE, "b.db", cwd=tmp_path)
    return tmp_path


def names(folder: Path) -> set[str]:
    """The files that are there."""
    return {path.name for path in folder.iterdir()}


# Files


@pytest.mark.parametrize("command", ["serve", "status", "export", "verify", "replay", "key list", "import a.jsonl"])
def test_a_folder_in_place_of_the_ledger_is_named(folder: Path, command: str) -> None:
    """With what to do; no disk is to blame."""
    said = refuse(*command.split(), "--database", ".", cwd=folder)
    assert said == f"chatledger: {folder} is a folder: name a file, such as {folder}/ledger.db.\n"


@NEEDS_ROOT
@pytest.mark.parametrize("command", ["serve", "status", "export", "verify", "replay", "key list", "backup x.db"])
def test_somebody_elses_folder_is_named(folder: Path, command: str) -> None:
    """The commonest mistake of a deployment is one line, with the remedy."""
    inner = folder / "inner"
    inner.mkdir(mode=0o700)
    os.chown(inner, OTHER_UID, OTHER_UID)
    done = run(*command.split(), "--database", "inner/l.db", cwd=folder, command=[*NAMESPACE, *COMMAND])
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"chatledger: Cannot use {inner}/l.db: permission denied. Check the owner and the permissions of it and of its "
        f"folders, and the user that runs chatledger.\n"
    )


@NEEDS_ROOT
def test_a_folder_without_write_permission_is_no_unfinished_transaction(folder: Path) -> None:
    """SQLite's error is the same one, and the remedy another."""
    for path in (*folder.iterdir(), folder):
        path.chmod(0o755 if path == folder else 0o444)
        os.chown(path, OTHER_UID, OTHER_UID)
    done = run("verify", *DATABASE, cwd=folder, command=[*NAMESPACE, *COMMAND])
    assert "unfinished transaction" not in done.stderr
    assert "Traceback" not in done.stderr
    assert "l.db" in done.stderr or done.returncode == 0


def test_an_unfinished_transaction_is_one(folder: Path) -> None:
    """A journal that a power cut has left: only a command that may write can play it back."""
    connection = apsw.Connection(str(folder / "l.db"))
    connection.pragma("journal_mode", "delete")
    connection.close()
    if (pid := os.fork()) == 0:
        writing = apsw.Connection(str(folder / "l.db"))
        writing.execute("BEGIN IMMEDIATE; CREATE TABLE x (a); INSERT INTO x VALUES (1)")
        writing.cache_flush()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert (folder / "l.db-journal").exists()
    said = refuse("status", *DATABASE, cwd=folder)
    assert said == "chatledger: l.db has an unfinished transaction; the next start of the server finishes it.\n"
    succeed("replay", *DATABASE, cwd=folder)
    succeed("status", *DATABASE, cwd=folder)


@pytest.mark.parametrize("command", ["status", "export", "verify", "replay", "key list", "backup x.db"])
def test_an_empty_file_is_no_ledger(tmp_path: Path, command: str) -> None:
    """What reads does not make one of it."""
    (tmp_path / "l.db").touch()
    said = refuse(*command.split(), *DATABASE, cwd=tmp_path)
    assert said == "chatledger: There is no ledger at l.db: the file is empty.\n"
    assert names(tmp_path) == {"l.db"}


@pytest.mark.parametrize("length", [201, 300, 5000])
def test_a_name_that_leaves_no_room_for_those_beside_it_is_refused(tmp_path: Path, length: int) -> None:
    """Before anything is made; both ends of it are shown."""
    said = refuse("key", "create", "--operator", "--database", "a" * length + "z", cwd=tmp_path)
    assert "is too long: the name of a ledger has at most 200 bytes" in said
    assert "z is" in said or "z…" in said or "az" in said
    assert len(said) < 500
    assert names(tmp_path) == set()


def test_the_longest_name_works(tmp_path: Path) -> None:
    """All names that are made of it can be had: of views, of a rebuild, of a restore."""
    name = "n" * 200
    write_lines(tmp_path / "a.jsonl", [SESSION])
    for arguments in (["import", "a.jsonl"], ["replay"], ["replay", "--check"], ["verify"], ["backup", "b.db"]):
        succeed(*arguments, "--database", name, cwd=tmp_path)
    (tmp_path / "r").mkdir()
    succeed("restore", "--database", f"r/{name}", "--to-position", "1", "b.db", cwd=tmp_path)


def test_a_name_that_sqlite_would_take_for_another_one_is_refused(folder: Path) -> None:
    """In a shell whose language is not UTF-8 the system's name of a file is not SQLite's: a backup would be empty."""
    posix = {"LC_ALL": "POSIX", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    before = names(folder)
    for arguments in (["backup", *DATABASE, "büro.db"], ["key", "create", "--operator", "--database", "büro.db"]):
        assert "is written differently in the locale" in refuse(*arguments, cwd=folder, env=posix)
    assert names(folder) == before
    succeed("backup", *DATABASE, "büro.db", cwd=folder, env={**posix, "PYTHONUTF8": "1"})
    succeed("verify", "--database", "büro.db", cwd=folder)


@pytest.mark.parametrize("host", ["nowhere.invalid", "a" * 64, ".", "a..b"])
def test_a_host_that_is_none_is_named(tmp_path: Path, host: str) -> None:
    """Also one that cannot even be asked for."""
    said = refuse("serve", "--host", host, *DATABASE, cwd=tmp_path)
    assert said == f"chatledger: The host {host!r} cannot be resolved.\n"
    assert names(tmp_path) == set()


# What is left behind


def test_a_refused_restore_leaves_nothing(folder: Path) -> None:
    """No folder, no lock."""
    before = names(folder)
    (folder / "text").write_text("Dear diary\n" * 100)
    for arguments in (["nowhere.db"], ["text"], ["--to-position", "99", "b.db"]):
        refuse("restore", "--database", "new/r.db", *arguments, cwd=folder)
    assert names(folder) == before | {"text"}
    refuse("restore", *DATABASE, "b.db", cwd=folder)
    assert names(folder) == before | {"text"}


@pytest.mark.parametrize(
    "command", ["import a.jsonl", "replay", "key create --operator", "export", "erase --user u --reason r"]
)
def test_a_refused_command_leaves_no_lock_beside_somebody_elses_file(folder: Path, command: str) -> None:
    """It is looked at before."""
    (folder / "diary").write_text("Dear diary\n" * 1000)
    before = names(folder)
    assert "diary" in refuse(*command.split(), "--database", "diary", cwd=folder)
    assert names(folder) == before


def test_a_lock_whose_file_was_removed_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the opening of the file and the lock somebody refuses and removes it, and another one makes it anew."""
    place = Location.of(Settings(database_path=str(tmp_path / "l.db")))
    real, other = paths._lock, []

    def late(descriptor: int, where: Location) -> None:
        monkeypatch.setattr(paths, "_lock", real)
        (tmp_path / "l.db.lock").unlink()
        context = exclusive(where)
        context.__enter__()
        other.append(context)
        real(descriptor, where)

    monkeypatch.setattr(paths, "_lock", late)
    with pytest.raises(LedgerLocked), exclusive(place):
        pass
    other[0].__exit__(None, None, None)
    with exclusive(place):
        pass


# Streams


def closed(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command without a standard output."""
    return run(*arguments, cwd=folder, command=["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND])


def full(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command with a standard output that takes nothing."""
    return run(*arguments, cwd=folder, command=["sh", "-c", 'exec "$@" >/dev/full', "sh", *COMMAND])


@pytest.mark.parametrize("command", ["export", "export --events", "key create --operator"])
def test_what_nobody_would_see_is_not_made(folder: Path, command: str) -> None:
    """Standard output is closed: a key's text is shown once."""
    before = (folder / "l.db").read_bytes()
    done = closed(*command.split(), *DATABASE, folder=folder)
    assert (done.returncode, done.stderr) == (
        1,
        "chatledger: Standard output is closed: there is nowhere to write to.\n",
    )
    assert (folder / "l.db").read_bytes() == before


@pytest.mark.parametrize(
    "command",
    ["status", "settings", "key list", "--help", "--version", "key list --help", "export", "verify", "replay --check"],
)
def test_a_full_disk_behind_standard_output_is_said(folder: Path, command: str) -> None:
    """In one line and once, and with exit code 1."""
    options = () if "--" in command.removesuffix(" --check") or command == "settings" else DATABASE
    done = full(*command.split(), *options, folder=folder)
    said = [line for line in done.stderr.splitlines() if line.startswith("chatledger: ")]
    assert done.returncode == 1
    assert said == ["chatledger: Standard output cannot be written: no space left on device."]
    assert "Exception" not in done.stderr


def test_a_key_whose_text_is_lost_is_named(folder: Path) -> None:
    """It was made, and has to be revoked."""
    done = full("key", "create", "--operator", *DATABASE, folder=folder)
    key = succeed("key", "list", *DATABASE, cwd=folder).splitlines()[1].split()[0]
    assert done.returncode == 1
    assert f"Revoke the key {key}, whose text is lost, and make another." in done.stderr


def test_debug_shows_the_traceback_before_the_line(folder: Path) -> None:
    """For a report of a fault; the line is still the last."""
    done = run("status", "--database", "nowhere.db", cwd=folder, env={"CHATLEDGER_LOG_LEVEL": "debug"})
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.splitlines()[-1] == "chatledger: There is no ledger at nowhere.db."


# Options


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["serve", "--port", "abc"], "Invalid value for '--port': 'abc' is not a whole number from 0 to 65535."),
        (["serve", "--port", "70000"], "Invalid value for '--port': '70000' is not a whole number from 0 to 65535."),
        (["serve", "--workers", "0"], "Invalid value for '--workers': '0' is not a whole number from 1 to 64."),
        (["restore", "--to-position", "May", "b"], "'--to-position': 'May' is not a whole number of at least 1."),
        (["import", "nowhere"], "Invalid value for 'FILE': nowhere: no such file or directory."),
        (["import", "."], "Invalid value for 'FILE': . is a folder."),
        (["import", "n" * 300], "file name too long."),
        (
            ["key", "create", "--tenant", "a", "--scopes", "read,wrte"],
            "scopes: expected one of read, write, audit, erase, admin; got 'wrte'.",
        ),
        (["key", "create", "--operator", "--scopes", "read"], "scopes: an operator's key has none."),
    ],
)
def test_a_wrong_option_says_what_is_right(tmp_path: Path, arguments: list[str], says: str) -> None:
    """The choice, and which part of it is wrong."""
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(says)
    assert names(tmp_path) == set()
