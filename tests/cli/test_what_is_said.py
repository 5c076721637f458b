"""What commands say where nothing is wrong: the announcement, the status, the help, the list of keys, the settings."""

import io
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest

from chatledger import __version__
from chatledger.cli.main import cli
from chatledger.cli.progress import Progress
from chatledger.settings import Settings, variable_of
from support.command import environment, status, succeed, write_lines
from support.server import Server

SESSION = {"id": "s", "messages": [{"role": "user", "content": "Hello"}]}
DATABASE = ("--database", "l.db")


# The announcement


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_start_says_which_ledger_it_serves(tmp_path: Path, workers: str) -> None:
    """By its absolute path, and whether it is new or how much is in it: a wrong path begins a new one."""
    with Server("sub/l.db", cwd=tmp_path, env={"CHATLEDGER_WORKERS": workers}) as server:
        assert server.said.splitlines()[0] == f"chatledger serves {tmp_path}/sub/l.db (new ledger) on {server.url}"
        with server.client() as client:
            assert client.post("/v1/sessions", json={"id": "s"}).status_code == 201
        assert server.stop() == 0
        server.start()
        assert server.said.splitlines()[0] == f"chatledger serves {tmp_path}/sub/l.db (1 event) on {server.url}"
        with server.client() as client:
            document = {"messages": [{"role": "user", "content": "x"}] * 1000}
            assert client.post("/v1/sessions", json=document).status_code == 201
        assert server.stop() == 0
        server.start()
        assert "(1,002 events)" in server.said


def test_a_start_in_memory_says_that_nothing_is_kept(tmp_path: Path) -> None:
    """It names no path."""
    with Server(":memory:", cwd=tmp_path) as server:
        shown = f"chatledger serves a ledger in memory, of which nothing is kept, on {server.url}"
        assert server.said.splitlines()[0] == shown


def test_a_server_starts_with_every_number_at_its_end(tmp_path: Path) -> None:
    """No limit is beyond what the system, SQLite and the HTTP server take."""
    env = {}
    for field in msgspec.structs.fields(Settings):
        kind = msgspec.inspect.type_info(field.type)
        if isinstance(kind, msgspec.inspect.IntType) and field.name not in ("port", "metrics_port", "workers"):
            env[variable_of(field.name)] = str(kind.le)
    assert len(env) > 25
    with Server("l.db", cwd=tmp_path, env=env) as server, server.client() as client:
        assert client.post("/v1/sessions", json=SESSION, headers={"Idempotency-Key": "k"}).status_code == 201
        assert client.get("/v1/sessions/s?messages=1").json()["message_count"] == 1
        assert client.post("/v1/sessions/s/fork", json={"id": "t"}).status_code == 201
        assert server.stop() == 0
    succeed("export", "--database", "l.db", cwd=tmp_path, env=env)
    succeed("import", "--database", "l.db", write_lines(tmp_path / "a.jsonl", [SESSION]), cwd=tmp_path, env=env)


# The status


def test_a_status_without_views_does_not_say_that_there_is_nothing(tmp_path: Path) -> None:
    """What is counted in them is not known; the ledger's own figures are."""
    succeed("import", *DATABASE, write_lines(tmp_path / "a.jsonl", [SESSION]), cwd=tmp_path)
    for path in tmp_path.glob("l.db.views.*"):
        path.unlink()
    found = status(tmp_path / "l.db")
    assert (found["events"], found["sessions"], found["messages"]) == (2, None, None)
    lines = dict(re.split(r"  +", line) for line in succeed("status", *DATABASE, cwd=tmp_path).splitlines())
    assert lines["sessions"] == lines["messages"] == "unknown until the views are built"
    assert (lines["views"], lines["views position"], lines["in use"], lines["url"]) == ("no views", "-", "no", "-")
    assert lines["version"] == __version__


def test_a_status_beside_a_server_has_its_url_and_the_keys(server: Server) -> None:
    """Those that are good now."""
    database = Path(server.database)
    assert (status(database)["url"], status(database)["keys"]) == (server.url, 0)
    for options in (["--operator"], ["--tenant", "a", "--scopes", "read", "--expires", "1h"]):
        succeed("key", "create", "--database", database, *options, cwd=database.parent)
    first = succeed("key", "list", "--database", database, cwd=database.parent).splitlines()[1].split()[0]
    assert status(database)["keys"] == 2
    succeed("key", "revoke", "--database", database, first, cwd=database.parent)
    assert status(database)["keys"] == 1
    assert "in use            yes\n" in succeed("status", "--database", database, cwd=database.parent)


def test_damaged_views_are_named_with_what_mends_them(tmp_path: Path) -> None:
    """The status counts in them, and shows all else where it cannot."""
    succeed("import", *DATABASE, write_lines(tmp_path / "a.jsonl", [SESSION]), cwd=tmp_path)
    (views,) = tmp_path.glob("l.db.views.*.db")
    views.write_bytes(b"\xa5" * views.stat().st_size)
    said = succeed("status", *DATABASE, cwd=tmp_path)
    assert f"views problem     {views.name} is damaged; `chatledger replay` builds them anew\n" in said
    succeed("replay", *DATABASE, cwd=tmp_path)
    succeed("status", *DATABASE, cwd=tmp_path)


# Keys


def test_the_list_of_keys_has_a_header_and_columns(tmp_path: Path) -> None:
    """Each begins under its name, whatever its width."""
    for tenant in ("a", "a-tenant-of-a-long-name"):
        options = ("--tenant", tenant, "--scopes", "read", "--name", f"for {tenant}")
        succeed("key", "create", *DATABASE, *options, cwd=tmp_path)
    header, *rows = succeed("key", "list", *DATABASE, cwd=tmp_path).splitlines()
    assert re.split(r"  +", header) == ["id", "tenant", "scopes", "state", "last used", "name"]
    for row, tenant in zip(rows, ("a", "a-tenant-of-a-long-name"), strict=True):
        assert row[header.index("tenant") :].startswith(tenant)
        assert row[header.index("name") :] == f"for {tenant}"
    assert succeed("key", "list", *DATABASE, "--tenant", "nobody", cwd=tmp_path).split()[0] == "id"


# Help


def commands(group: click.Group, path: str = "chatledger") -> Iterator[tuple[str, click.Command]]:
    """All commands, with their names."""
    for name, command in group.commands.items():
        yield f"{path} {name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")


@pytest.mark.parametrize(
    ("path", "command"), list(commands(cli)), ids=lambda value: value if isinstance(value, str) else ""
)
def test_the_short_help_of_a_command_is_a_whole_sentence(path: str, command: click.Command) -> None:
    """It fits on the line, and is not cut off; each option's help is a sentence too."""
    sentence = r"[A-Z0-9][^.]*(\.[^ ][^.]*)*\."
    assert command.short_help, path
    assert re.fullmatch(sentence, command.short_help)
    assert len(command.short_help) <= 64
    for option in command.params:
        if isinstance(option, click.Option):
            assert option.help, option.name
            assert re.fullmatch(sentence, option.help.partition("  [")[0]), option.help


@pytest.mark.parametrize("arguments", [[], ["key"]])
def test_no_line_of_the_help_is_cut_off(tmp_path: Path, arguments: list[str]) -> None:
    """As people see it."""
    shown = succeed(*arguments, "--help", cwd=tmp_path, env={"COLUMNS": "80"})
    assert "..." not in shown.replace("[ARGS]...", "")


# Settings


def test_the_settings_are_shown_with_their_places(tmp_path: Path) -> None:
    """As one would write them, for people and for machines."""
    (tmp_path / ".env").write_text("CHATLEDGER_READERS=2\n")
    env = {"CHATLEDGER_LOG_LEVEL": "debug", "CHATLEDGER_ALLOW_NETWORK_FILESYSTEM": "1"}
    lines = succeed("settings", cwd=tmp_path, env=env).splitlines()
    assert len(lines) == len(msgspec.structs.fields(Settings))
    assert "DATABASE_PATH=./data/ledger.db" in lines
    assert "CHATLEDGER_READERS=2  (.env, line 1)" in lines
    assert "CHATLEDGER_LOG_LEVEL=debug  (environment)" in lines
    assert "CHATLEDGER_ALLOW_NETWORK_FILESYSTEM=true  (environment)" in lines
    found = [json.loads(line) for line in succeed("settings", "--json", cwd=tmp_path, env=env).splitlines()]
    assert {"variable": "CHATLEDGER_READERS", "value": 2, "place": ".env, line 1"} in found


def test_the_test_runs_without_settings_of_its_own() -> None:
    """Else a line above would be from elsewhere."""
    assert not [name for name in environment() if name.startswith("CHATLEDGER_")]


# Bars


class Terminal(io.StringIO):
    """Somebody looks at it."""

    def isatty(self) -> bool:
        """Yes."""
        return True


def test_a_bar_counts_things_in_whole_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has 1.87k messages, nor 1.00 sessions."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("export", unit="messages", total=1870) as progress:
        progress.update(1870)
    assert "1870/1870" in terminal.getvalue()
    assert "1.87k" not in terminal.getvalue()
