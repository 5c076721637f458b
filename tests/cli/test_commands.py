"""The other commands: export, replay, status, serve in memory; settings, help and exit codes."""

import datetime as dt
import json
import re
import stat
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import apsw
import click
import httpx
import pytest
from click.testing import CliRunner

from chatledger import __version__
from chatledger.cli.main import cli
from support.command import (
    COMMAND,
    assert_clear,
    environment,
    exported,
    refuse,
    run,
    status,
    succeed,
    write_lines,
)
from support.server import Server
from support.store import Store
from support.tables import dump, leaf

Json = dict[str, Any]

COMMANDS = sorted(cli.commands)
READING = [["export"], ["replay"], ["status"]]
HELLO = {"role": "user", "content": "Hello"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ledger of two tenants; one of the sessions is deleted, one changed."""
    folder = tmp_path_factory.mktemp("commands")
    with Server(folder / "ledger.db", cwd=folder) as server:
        for tenant in ("default", "acme"):
            with server.client(tenant=tenant) as client:
                for name in ("b", "a", "gone"):
                    document = {"id": name, "title": tenant, "messages": [{"id": "m1", **HELLO}]}
                    assert client.post("/v1/sessions", json=document).status_code == 201
                assert client.patch("/v1/sessions/a", json={"traits": {"x": 1}}).status_code == 200
                assert client.delete("/v1/sessions/gone").status_code == 204
                assert client.post("/v1/sessions/b/messages", json=HELLO).status_code == 201
                assert client.delete("/v1/sessions/b/messages/m1").status_code == 204
        server.stop()
    return folder


EVENTS_A_TENANT = 3 * 2 + 4


# export


def test_an_export_has_one_tenants_sessions_in_order_of_their_ids(folder: Path) -> None:
    """What readers do not see is not in it; the default is the tenant `default`."""
    for tenant, options in (("default", []), ("acme", ["--tenant", "acme"])):
        text = succeed("export", "--database", "ledger.db", *options, cwd=folder)
        sessions = [json.loads(line) for line in text.splitlines()]
        assert [session["id"] for session in sessions] == ["a", "b"]
        assert {session["title"] for session in sessions} == {tenant}
        assert [len(session["messages"]) for session in sessions] == [1, 1]


def test_an_unknown_tenants_export_is_empty(folder: Path) -> None:
    """No tenant is made known by an error; the exit code is 0."""
    assert exported(folder / "ledger.db", "nobody") == []


def test_a_wrong_tenant_name_is_refused(folder: Path) -> None:
    """The option is named."""
    done = run("export", "--database", "ledger.db", "--tenant", "a b", cwd=folder)
    assert_clear(done)
    assert done.returncode == 2
    assert "--tenant" in done.stderr


def test_an_export_into_a_file_is_whole_and_private(folder: Path, tmp_path: Path) -> None:
    """It replaces what was there, leaves nothing beside it, and only its owner can read it."""
    file = tmp_path / "export.jsonl"
    file.write_text("old")
    assert succeed("export", "--database", folder / "ledger.db", "--output", file, cwd=tmp_path) == ""
    assert file.read_text() == succeed("export", "--database", folder / "ledger.db", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == [file]
    assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0


def test_an_output_that_cannot_be_written_is_refused(folder: Path, tmp_path: Path) -> None:
    """A folder that is not there: one clear line that names the file."""
    done = run("export", "--database", folder / "ledger.db", "--output", "nowhere/export.jsonl", cwd=tmp_path)
    assert_clear(done)
    assert "nowhere" in done.stderr


def test_a_reader_that_goes_away_is_no_fault(folder: Path, tmp_path: Path) -> None:
    """`chatledger export | head -1` shows no traceback."""
    sessions = [{"id": f"s{n}", "messages": [{"role": "user", "content": "x" * 50_000}]} for n in range(20)]
    database = tmp_path / "ledger.db"
    succeed("import", "--database", database, write_lines(tmp_path / "a.jsonl", sessions), cwd=tmp_path)
    process = subprocess.Popen(
        [*COMMAND, "export", "--database", str(database)],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(10) == '{"id":"s0"'
        process.stdout.close()
        assert "Traceback" not in process.stderr.read()


def cloud_events(folder: Path, *options: str) -> list[Json]:
    """The lines of `chatledger export --events`."""
    text = succeed("export", "--events", "--database", "ledger.db", *options, cwd=folder)
    return [json.loads(line) for line in text.splitlines()]


def test_every_event_is_a_line_in_ledger_order(folder: Path) -> None:
    """All tenants' events without a gap, deleted sessions and removed messages included."""
    events = cloud_events(folder)
    assert [event["position"] for event in events] == [str(n) for n in range(1, 2 * EVENTS_A_TENANT + 1)]
    assert {event["tenant"] for event in events} == {"default", "acme"}
    assert {event["type"] for event in events} == {
        "session.created",
        "message.appended",
        "session.updated",
        "session.deleted",
        "message.removed",
    }
    only = cloud_events(folder, "--tenant", "acme")
    assert only == [event for event in events if event["tenant"] == "acme"]
    assert len(only) == EVENTS_A_TENANT
    assert cloud_events(folder, "--tenant", "nobody") == []


def test_event_lines_are_cloudevents(folder: Path) -> None:
    """CloudEvents 1.0: required attributes, names, string values, RFC 3339 times, unique source and id."""
    events = cloud_events(folder)
    assert len({(event["source"], event["id"]) for event in events}) == len(events)
    for event in events:
        assert event["specversion"] == "1.0"
        assert event["datacontenttype"] == "application/json"
        assert re.fullmatch(r"urn:uuid:[0-9a-f-]{36}", event["source"])
        dt.datetime.fromisoformat(event["time"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", event["time"])
        for name, value in event.items():
            assert re.fullmatch(r"[a-z0-9]{1,20}", name), name
            assert name == "data" or (isinstance(value, str) and value), name
        assert isinstance(event["data"], dict)


def test_an_event_line_is_enough_to_compute_its_leaf(folder: Path) -> None:
    """The data as they stand in the line, with the salt and the attributes, give the leaf that is there."""
    text = succeed("export", "--events", "--database", "ledger.db", cwd=folder)
    for line in text.splitlines():
        event = json.loads(line)
        payload = line[line.index('"data":') + 7 : line.index(',"tenant":')].encode()
        assert json.loads(payload) == event["data"]
        moment = dt.datetime.fromisoformat(event["time"]) - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
        record = {
            "actor": event["actor"],
            "position": int(event["position"]),
            "recorded_at": moment // dt.timedelta(microseconds=1),
            "request_id": event.get("requestid"),
            "schema": int(event["payloadschema"]),
            "session": event["subject"],
            "tenant": event["tenant"],
            "type": event["type"],
            "version": int(event["sessionversion"]),
        }
        assert leaf(record, salt=bytes.fromhex(event["salt"]), payload=payload).hex() == event["leaf"]


def test_an_export_beside_a_running_server_has_what_was_acknowledged(server: Server, client: httpx.Client) -> None:
    """No stop is needed to take an export."""
    assert client.post("/v1/sessions", json={"id": "s", "messages": [HELLO]}).status_code == 201
    database = Path(server.database)
    assert [session["id"] for session in exported(database)] == ["s"]
    assert len(succeed("export", "--events", "--database", database, cwd=database.parent).splitlines()) == 2
    assert client.get("/health/ready").status_code == 200


# replay


def test_a_replay_gives_the_rows_that_lived_through_the_events(folder: Path) -> None:
    """`chatledger replay` says what it did, and the next start has nothing to rebuild."""
    with Store(folder / "ledger.db") as store:
        lived = dump(store.views.db)
    done = succeed("replay", "--database", "ledger.db", cwd=folder)
    assert f"{2 * EVENTS_A_TENANT} events replayed" in done
    assert len(list(folder.glob("ledger.db.views.*.db"))) == 1
    with Store(folder / "ledger.db") as store:
        assert store.rebuilt is None
        assert dump(store.views.db) == lived


def test_a_replay_mends_views_that_were_changed_by_hand(folder: Path) -> None:
    """Whatever somebody wrote into the views is gone."""
    with Store(folder / "ledger.db") as store:
        lived = dump(store.views.db)
        store.views.db.execute("UPDATE sessions SET title = 'forged'")
        assert dump(store.views.db) != lived
    succeed("replay", "--database", "ledger.db", cwd=folder)
    with Store(folder / "ledger.db") as store:
        assert dump(store.views.db) == lived


# status


def test_status_counts_what_is_there(folder: Path) -> None:
    """Events of all tenants; sessions and messages that readers see; no lag."""
    found = status(folder / "ledger.db")
    assert (found["events"], found["sessions"], found["messages"]) == (2 * EVENTS_A_TENANT, 4, 4)
    assert (found["views_position"], found["views_lag_events"]) == (2 * EVENTS_A_TENANT, 0)
    assert found["ledger_bytes"] > 0
    assert found["in_use"] is False


def test_status_for_people_has_the_same_numbers(folder: Path) -> None:
    """One line for each; yes and no, and a dash where there is nothing to tell."""
    shown = {"True": "yes", "False": "no", "None": "-"}
    found = status(folder / "ledger.db")
    lines = succeed("status", "--database", "ledger.db", cwd=folder).splitlines()
    assert len(lines) == len(found)
    for (name, value), line in zip(found.items(), lines, strict=True):
        assert line.startswith(name.replace("_", " "))
        assert line.replace(",", "").endswith(" " + shown.get(str(value), str(value)))


def test_status_changes_nothing(folder: Path, tmp_path: Path) -> None:
    """It does not even make views where there are none."""
    succeed("replay", "--database", "ledger.db", cwd=folder)
    copy = tmp_path / "ledger.db"
    copy.write_bytes((folder / "ledger.db").read_bytes())
    found = status(copy)
    assert found["events"] == 2 * EVENTS_A_TENANT
    assert (found["views"], found["views_position"]) == ("", None)
    assert list(tmp_path.glob("*.views.*")) == []


def test_status_beside_a_running_server(server: Server, client: httpx.Client) -> None:
    """It shows what was acknowledged just now, and that the ledger is in use; the server goes on."""
    assert client.post("/v1/sessions", json={"id": "s", "messages": [HELLO]}).status_code == 201
    found = status(Path(server.database))
    assert (found["events"], found["sessions"], found["messages"]) == (2, 1, 1)
    assert (found["views_lag_events"], found["in_use"]) == (0, True)
    assert client.post("/v1/sessions/s/messages", json=HELLO).status_code == 201


# Refusals that all have in common


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_without_a_ledger_a_reading_command_is_refused(tmp_path: Path, command: list[str]) -> None:
    """The path is named and nothing is made: a typing error must not look like an empty ledger."""
    said = refuse(*command, "--database", "nowhere.db", cwd=tmp_path)
    assert "nowhere.db" in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", READING, ids=" ".join)
@pytest.mark.parametrize("kind", ["text", "sqlite", "views"])
def test_a_file_that_is_no_ledger_is_refused(folder: Path, tmp_path: Path, command: list[str], kind: str) -> None:
    """Text, another SQLite file, our own views: one clear line, and the file stays as it was."""
    path = tmp_path / "ledger.db"
    contents = {
        "text": b"Dear diary\n" * 1000,
        "sqlite": SQLITE_FILE,
        "views": next(folder.glob("ledger.db.views.*.db")).read_bytes(),
    }
    path.write_bytes(contents[kind])
    assert "ledger.db" in refuse(*command, "--database", "ledger.db", cwd=tmp_path)
    assert path.read_bytes() == contents[kind]


def _sqlite_file() -> bytes:
    connection = apsw.Connection(":memory:")
    connection.execute("CREATE TABLE notes (text)")
    return bytes(connection.serialize("main"))


SQLITE_FILE = _sqlite_file()


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_a_ledger_in_memory_cannot_be_reached(tmp_path: Path, command: list[str]) -> None:
    """There is none to read from another process."""
    assert "memory" in refuse(*command, "--database", ":memory:", cwd=tmp_path)


# Help, options, settings


def test_help_names_every_command(tmp_path: Path) -> None:
    """`chatledger --help`, and `-h`, list them all; `--version` says which this is."""
    text = succeed("--help", cwd=tmp_path)
    assert all(re.search(rf"^  {name} ", text, re.MULTILINE) for name in COMMANDS)
    assert succeed("-h", cwd=tmp_path) == text
    assert __version__ in succeed("--version", cwd=tmp_path)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It says how to use it, what each option is for, and makes no file."""
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(cli, [name, "--help"], prog_name="chatledger")
    assert shown.exit_code == 0
    assert shown.output.startswith(f"Usage: chatledger {name}")
    for option in cli.commands[name].params:
        if isinstance(option, click.Option):
            assert option.opts[0] in shown.output
            assert option.help
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["status", "--databse", "x"], "--databse"),
        (["stats"], "stats"),
        (["serve", "--port", "99999"], "--port"),
        (["serve", "--port", "http"], "--port"),
        (["import"], "FILE"),
        (["export", "more"], "more"),
    ],
)
def test_a_wrong_command_line_names_what_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], word: str
) -> None:
    """Exit code 2, as usual for usage errors."""
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(cli, arguments)
    assert shown.exit_code == 2
    assert word in shown.output


def valued_options(command: click.Command, *names: str) -> Iterator[tuple[str, ...]]:
    """Each option that takes a value, of a command and of all below it, behind the command's names."""
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            yield from valued_options(below, *names, name)
    for option in command.params:
        if isinstance(option, click.Option) and not option.is_flag:
            yield (*names, option.opts[0])


@pytest.mark.parametrize("words", list(valued_options(cli)), ids=" ".join)
def test_an_option_that_is_given_twice_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """One of the two would be passed over: of two heads, an auditor would believe both to be checked."""
    monkeypatch.chdir(tmp_path)
    *command, option = words
    shown = CliRunner().invoke(cli, [*command, option, "1", option, "1"])
    assert shown.exit_code == 2
    assert f"{option} is given twice" in shown.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CHATLEDGER_READERS", "0"),
        ("CHATLEDGER_REDERS", "4"),
        ("CHATLEDGER_PROJECTIONS", "nowhere:NOTHING"),
    ],
)
def test_a_wrong_setting_names_itself(tmp_path: Path, name: str, value: str) -> None:
    """Also one that does not exist, and one whose value only shows later; nothing is made."""
    message = refuse("serve", "--database", "new/ledger.db", "--port", 0, cwd=tmp_path, env={name: value})
    assert name in message or value in message
    assert not (tmp_path / "new" / "ledger.db").exists()


def test_the_ledgers_path_comes_from_the_environment_over_dotenv(tmp_path: Path) -> None:
    """`.env` in the current folder, `DATABASE_PATH` before it, `--database` before both."""
    file = write_lines(tmp_path / "a.jsonl", [{"id": "s"}])
    (tmp_path / ".env").write_text("DATABASE_PATH=from-dotenv.db\n")
    environment = {"DATABASE_PATH": "from-environment.db"}
    succeed("import", file, cwd=tmp_path)
    assert (tmp_path / "from-dotenv.db").exists()
    succeed("import", file, cwd=tmp_path, env=environment)
    assert (tmp_path / "from-environment.db").exists()
    succeed("import", "--database", "from-option.db", file, cwd=tmp_path, env=environment)
    assert (tmp_path / "from-option.db").exists()
    assert len(list(tmp_path.glob("*.lock"))) == 3


def test_the_folder_of_a_new_ledger_is_made(tmp_path: Path) -> None:
    """By default it is `data` in the current folder; only its owner can look inside."""
    succeed("import", write_lines(tmp_path / "a.jsonl", [{"id": "s"}]), cwd=tmp_path)
    assert status(tmp_path / "data" / "ledger.db")["events"] == 1
    for path in (tmp_path / "data", *(tmp_path / "data").iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


# In memory


@pytest.fixture(scope="module")
def in_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server that keeps everything in memory, and the folder in which it runs."""
    folder = tmp_path_factory.mktemp("memory")
    with Server(":memory:", cwd=folder) as server:
        yield server, folder


def test_a_server_in_memory_does_all_that_one_on_files_does(in_memory: tuple[Server, Path]) -> None:
    """Create, append, page, as of a version, fork, events; and it leaves no file."""
    server, folder = in_memory
    with server.client(tenant="all") as client:
        messages = [{"id": f"m{n}", **HELLO} for n in range(1, 6)]
        assert client.post("/v1/sessions", json={"id": "s", "messages": messages}).status_code == 201
        assert client.post("/v1/sessions/s/messages", json={"id": "m6", **HELLO}).status_code == 201
        page = client.get("/v1/sessions/s/messages", params={"after": 2, "limit": 3}).json()
        assert [message["id"] for message in page["data"]] == ["m3", "m4", "m5"]
        assert page["has_more"] is True
        before = client.get("/v1/sessions/s", params={"as_of_version": 3, "messages": 10}).json()
        assert [message["id"] for message in before["messages"]] == ["m1", "m2"]
        fork = client.post("/v1/sessions/s/fork", json={"id": "f", "version": 3})
        assert fork.status_code == 201, fork.text
        assert len(client.get("/v1/sessions/f/messages").json()["data"]) == 2
        assert client.delete("/v1/sessions/s/messages/m1").status_code == 204
        assert client.delete("/v1/sessions/f").status_code == 204
        assert client.get("/v1/sessions/f").status_code == 404
        assert len(client.get("/v1/events", params={"limit": 200}).json()["data"]) == 12
        assert client.get("/health/ready").status_code == 200
    assert list(folder.iterdir()) == []


def test_a_server_in_memory_serves_many_at_a_time(in_memory: tuple[Server, Path]) -> None:
    """Eight clients write and read what they wrote at once: no answer is a fault of the server's."""
    server, folder = in_memory
    rounds = 60

    def talk(number: int) -> list[int]:
        codes = []
        with server.client(tenant="many") as client:
            assert client.post("/v1/sessions", json={"id": f"s{number}"}).status_code == 201
            for n in range(1, rounds + 1):
                written = client.post(f"/v1/sessions/s{number}/messages", json=HELLO)
                read = client.get(f"/v1/sessions/s{number}/messages", params={"limit": 1000})
                other = client.get(f"/v1/sessions/s{(number + 1) % 8}", params={"messages": 5})
                codes += [written.status_code, read.status_code]
                assert other.status_code in (200, 404), other.text
                if codes[-2:] == [201, 200]:
                    assert [message["seq"] for message in read.json()["data"]] == list(range(1, n + 1))
        return codes

    with ThreadPoolExecutor(8) as pool:
        for codes in pool.map(talk, range(8)):
            assert codes == [201, 200] * rounds
    assert list(folder.iterdir()) == []


def test_a_server_in_memory_forgets_everything(tmp_path: Path) -> None:
    """It stops with exit code 0, and its successor begins anew."""
    with Server(":memory:", cwd=tmp_path) as server, server.client() as client:
        assert client.post("/v1/sessions", json={"id": "s"}).status_code == 201
        assert server.stop() == 0
        server.start()
        assert client.get("/v1/sessions/s").status_code == 404
    assert list(tmp_path.iterdir()) == []
