"""The signing key of a ledger: made with it, missed when it is gone, and replaced only when somebody asks for it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.command import assert_clear, environment, refuse, run, succeed, write_lines
from support.old_ledgers import older_ledger, schema_of
from support.server import Server, ServerDidNotStart
from support.store import Store, create, message

HELLO = {"role": "user", "content": "Hello"}
LEDGER, KEY = "ledger.db", "ledger.db.key"
WORKERS = pytest.mark.parametrize("workers", ["1", "2"])


class KeyServer(Server):
    """A server that is started with further options, and whose log has the lines of level info."""

    def __init__(self, folder: Path, *options: str, workers: str = "1", **env: str) -> None:
        super().__init__(LEDGER, cwd=folder, env={"CHATLEDGER_LOG_LEVEL": "info", "CHATLEDGER_WORKERS": workers, **env})
        self.options = options

    def spawn(self) -> "subprocess.Popen[str]":
        """Begin to start it, and wait for nothing."""
        command = [sys.executable, "-m", "chatledger", "serve", "--database", self.database, *self.options]
        return subprocess.Popen(
            [*command, "--port", str(self.port)],
            env=self._env,
            cwd=self._cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def refused(folder: Path, *options: str, workers: str = "1", **env: str) -> str:
    """What a start says that is refused; it makes and changes no file of data."""
    before = data_of(folder)
    with pytest.raises(ServerDidNotStart) as refusal, KeyServer(folder, *options, workers=workers, **env):
        pass
    assert data_of(folder) == before
    lines = [line for line in str(refusal.value).splitlines() if not line.startswith("{")]
    assert len(lines) == 1, lines
    return lines[0]


def data_of(folder: Path) -> dict[str, bytes]:
    """Ledger, views and keys, byte by byte."""
    names = (LEDGER, KEY, "other.db", "other.db.key")
    found = [*(folder / name for name in names), *folder.glob("*.views.*.db")]
    return {path.name: path.read_bytes() for path in found if path.exists()}


def said_of_keys(server: Server) -> list[dict[str, object]]:
    """The lines about keys in the log of a server that has ended, without the time."""
    found = [json.loads(line) for line in server.stderr.splitlines() if line.startswith("{")]
    return [{name: each[name] for name in each if name != "time"} for each in found if "signing key" in each["event"]]


def public_key(server: Server) -> str:
    """The key that the server signs with."""
    with server.client() as client:
        return str(client.get("/v1/ledger/head").json()["public_key"])


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """The folder of a ledger with events, its key and its views."""
    with Store(tmp_path / LEDGER) as store:
        store.commit_all(create("s", message("m1"), message("m2")))
    assert (tmp_path / KEY).exists()
    return tmp_path


# ---------------------------------------------------------------- made with the ledger


def made_by(folder: Path, *command: object) -> list[str]:
    """The lines that a command writes on standard error about keys."""
    done = run(*command, cwd=folder)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stderr.splitlines() if "signing key" in line]


@pytest.mark.parametrize("first", ["import", "key create"])
def test_whatever_makes_the_ledger_makes_its_key(tmp_path: Path, first: str) -> None:
    """Before any event is there; it is said once, with the public key; the first server signs with it."""
    lines = write_lines(tmp_path / "a.jsonl", [{"id": "s", "messages": [HELLO]}])
    commands: dict[str, tuple[object, ...]] = {
        "import": ("import", "--database", LEDGER, lines),
        "key create": ("key", "create", "--database", LEDGER, "--tenant", "acme", "--scopes", "read"),
    }
    (line,) = made_by(tmp_path, *commands[first])
    said = f"{first.partition(' ')[0]}: made the ledger's signing key {tmp_path / KEY}; its public key is "
    assert line.startswith(said)
    verifier = line.removeprefix(said)
    assert (tmp_path / KEY).stat().st_mode & 0o777 == 0o600
    assert made_by(tmp_path, *commands[first]) == []
    succeed("verify", "--database", LEDGER, "--save-head", "head", cwd=tmp_path)
    done = succeed("verify", "--database", LEDGER, "--head", "head", "--public-key", verifier, cwd=tmp_path)
    assert "extends the head" in done
    with KeyServer(tmp_path) as server:
        server.stop()
    assert said_of_keys(server) == []


def test_the_last_line_of_key_create_is_the_key_alone(tmp_path: Path) -> None:
    """What is said of a signing key goes to standard error: scripts take the last line of standard output."""
    done = run("key", "create", "--database", LEDGER, "--operator", cwd=tmp_path)
    assert done.stdout.splitlines()[-1].startswith("clk_")
    assert "signing" not in done.stdout


@WORKERS
def test_a_first_start_makes_a_key_and_says_so(tmp_path: Path, workers: str) -> None:
    """Once, whatever the number of workers; the second start finds it."""
    with KeyServer(tmp_path, workers=workers) as server:
        used = public_key(server)
        assert server.stop() == 0
        assert said_of_keys(server) == [
            {
                "event": "signing key made",
                "key": str(tmp_path / KEY),
                "verifier": used,
                "events": 0,
                "level": "info",
            }
        ]
        server.start()
        assert public_key(server) == used
        assert server.stop() == 0
    assert len(said_of_keys(server)) == 1


def test_a_crash_between_ledger_and_key_costs_nothing(tmp_path: Path) -> None:
    """The ledger has its name and no events yet: whoever opens it next makes the key."""
    with Store(tmp_path / LEDGER):
        pass
    (tmp_path / KEY).unlink()
    (tmp_path / (KEY + ".unfinished")).write_text("half")
    with KeyServer(tmp_path) as server:
        server.stop()
    assert [line["event"] for line in said_of_keys(server)] == ["signing key made"]
    assert not (tmp_path / (KEY + ".unfinished")).exists()


# ---------------------------------------------------------------- missing


@WORKERS
def test_a_ledger_that_has_lost_its_key_is_not_served(ledger: Path, workers: str) -> None:
    """The file and both ways on are named, and nothing is touched; with the key back it starts."""
    aside = ledger / "aside"
    aside.mkdir()
    shutil.move(ledger / KEY, aside / KEY)
    (ledger / f"{LEDGER}.views.000001.db").unlink()  # nor are views built that nobody will read
    said = refused(ledger, workers=workers)
    for word in ("The ledger has 3 events", str(ledger / KEY), "CHATLEDGER_SIGNING_KEY", "--new-signing-key"):
        assert word in said
    with KeyServer(ledger, workers=workers, CHATLEDGER_SIGNING_KEY=str(aside / KEY)) as server:
        assert server.stop() == 0
    shutil.move(aside / KEY, ledger / KEY)
    with KeyServer(ledger, workers=workers) as server:
        assert server.stop() == 0


@WORKERS
def test_a_new_key_is_begun_where_it_is_asked_for(ledger: Path, workers: str) -> None:
    """It is said in the log with its verifier key, signs from then on, and the option is refused once it is there."""
    (ledger / KEY).unlink()
    with KeyServer(ledger, "--new-signing-key", workers=workers) as server:
        used = public_key(server)
        assert server.stop() == 0
    assert said_of_keys(server) == [
        {"event": "signing key made", "key": str(ledger / KEY), "verifier": used, "events": 3, "level": "info"}
    ]
    assert "start without --new-signing-key" in refused(ledger, "--new-signing-key", workers=workers)
    with KeyServer(ledger, workers=workers) as server:
        assert public_key(server) == used


def test_a_ledger_that_was_renamed_names_the_key_that_lies_beside_it(ledger: Path) -> None:
    """`mv ledger.db other.db` leaves it behind; renamed too, all goes on."""
    (ledger / LEDGER).rename(ledger / "other.db")
    server = KeyServer(ledger)
    server.database = "other.db"
    with pytest.raises(ServerDidNotStart) as refusal:
        server.start()
    assert f"its signing key {ledger / 'other.db.key'} is not there" in str(refusal.value)
    assert f"({ledger / KEY} is this ledger's key: rename it)" in str(refusal.value)
    (ledger / KEY).rename(ledger / "other.db.key")
    with server:
        assert server.stop() == 0


def test_a_key_without_its_ledger_stops_the_next_one(ledger: Path) -> None:
    """A lost ledger is not replaced by an empty one, neither by a server nor by a command; a restore may."""
    succeed("backup", "--database", LEDGER, "b.db", cwd=ledger)
    for path in ledger.glob("ledger.db*"):
        if path.name != KEY:
            path.unlink()
    lines = write_lines(ledger / "a.jsonl", [{"id": "s"}])
    words = f"There is no ledger at {LEDGER}, but the signing key {ledger / KEY} of one."
    assert words in refused(ledger)
    for command in (("import", "--database", LEDGER, lines), ("key", "create", "--database", LEDGER, "--operator")):
        assert words in refuse(*command, cwd=ledger)
    assert not (ledger / LEDGER).exists()
    said = succeed("restore", "--database", LEDGER, "b.db", cwd=ledger)
    assert len(said.splitlines()) == 1  # its key is there
    with KeyServer(ledger) as server:
        assert server.stop() == 0


def test_commands_that_sign_nothing_go_on_without_a_key(ledger: Path) -> None:
    """Import, erase, export, verify, backup: none of them makes one, either."""
    (ledger / KEY).unlink()
    succeed("import", "--database", LEDGER, write_lines(ledger / "a.jsonl", [{"id": "new"}]), cwd=ledger)
    succeed("erase", "--database", LEDGER, "--session", "new", "--reason", "r", cwd=ledger)
    for command in (["export"], ["verify"], ["status"], ["replay"], ["key", "list"]):
        succeed(*command, "--database", LEDGER, cwd=ledger)
    succeed("backup", "--database", LEDGER, "b.db", cwd=ledger)
    assert not (ledger / KEY).exists()


def test_a_head_is_not_saved_without_the_key(ledger: Path) -> None:
    """Before the whole ledger is read, and no file is made; a head in the file that is there is kept."""
    (ledger / KEY).unlink()
    (ledger / "head").write_text("kept")
    said = refuse("verify", "--database", LEDGER, "--save-head", "head", cwd=ledger)
    assert "verify:" not in said
    for word in (str(ledger / KEY), "CHATLEDGER_SIGNING_KEY", "chatledger serve --new-signing-key"):
        assert word in said
    assert (ledger / "head").read_text() == "kept"
    assert not (ledger / KEY).exists()


def test_a_restored_ledger_says_what_to_do_about_its_key(ledger: Path) -> None:
    """A backup never has it: the file is named, and what if it is lost; both ways work."""
    succeed("backup", "--database", LEDGER, "b.db", cwd=ledger)
    said = succeed("restore", "--database", "new/ledger.db", "b.db", cwd=ledger)
    place = ledger / "new" / KEY
    first, second = said.splitlines()
    assert first.startswith("3 events restored")
    assert second == (
        f"its signing key is not in a backup: copy it to {place} before the next start; "
        f"if it is lost, start once with --new-signing-key"
    )
    assert f"its signing key {place} is not there" in refused(ledger / "new")
    shutil.copy(ledger / KEY, place)
    with KeyServer(ledger / "new") as server, KeyServer(ledger) as original:
        assert public_key(server) == public_key(original)
    place.unlink()
    with KeyServer(ledger / "new", "--new-signing-key") as server:
        assert public_key(server) != (ledger / KEY).read_text()


def test_a_restore_beside_another_ledgers_key_says_so(ledger: Path) -> None:
    """The key lies in the way of the right one."""
    succeed("backup", "--database", LEDGER, "b.db", cwd=ledger)
    (ledger / "new").mkdir()
    with Store(ledger / "new" / "other.db"):
        pass
    (ledger / "new" / "other.db.key").rename(ledger / "new" / KEY)
    said = succeed("restore", "--database", "new/ledger.db", "b.db", cwd=ledger)
    assert "its signing key cannot be used: The signing key ledger.db.key is that of" in said.splitlines()[1]


@pytest.mark.parametrize("schema", [1, 3])
def test_an_older_ledger_without_its_key_is_not_migrated(ledger: Path, tmp_path: Path, schema: int) -> None:
    """A start that is refused leaves every file as it was, the schema too."""
    folder = tmp_path / "older"
    folder.mkdir()
    older_ledger(ledger / LEDGER, folder / LEDGER, schema)
    assert "its signing key" in refused(folder)
    assert schema_of(folder / LEDGER) == schema


# ---------------------------------------------------------------- readable by others


def test_a_key_that_the_group_can_read_starts_with_a_warning(ledger: Path) -> None:
    """As a volume of Kubernetes with fsGroup makes it at the second start; others' bits still refuse."""
    (ledger / KEY).chmod(0o660)
    with KeyServer(ledger) as server:
        assert server.stop() == 0
    (said,) = said_of_keys(server)
    assert (said["event"], said["level"]) == ("signing key readable by group", "warning")
    assert (said["key"], said["mode"]) == (str(ledger / KEY), "660")
    (ledger / KEY).chmod(0o604)
    assert f"The signing key {ledger / KEY} is readable by other users. Run chmod 600" in refused(ledger)


def test_a_ledger_in_memory_takes_no_such_option(tmp_path: Path) -> None:
    """It has a new key at each start: exit code 2."""
    done = run("serve", "--database", ":memory:", "--port", 0, "--new-signing-key", cwd=tmp_path)
    assert_clear(done)
    assert done.returncode == 2
    assert "--new-signing-key" in done.stderr


def test_a_log_that_is_closed_does_not_stop_a_command(ledger: Path) -> None:
    """Commands have somewhere to say that a key was made, or say nothing."""
    command = [sys.executable, "-m", "chatledger", "status", "--database", os.fspath(ledger / LEDGER)]
    program = f"import os, subprocess, sys; os.close(2); sys.exit(subprocess.call({command!r}))"
    assert subprocess.run([sys.executable, "-c", program], env=environment(), check=False).returncode == 0
