"""Real conversations, tool calls and all, go in and come back with every JSON value as it was."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from support.command import exported, run, succeed
from support.conversations import FILES, load, path_of
from support.journal import messages_of
from support.server import Server

Json = dict[str, Any]

OWNED = ("session_id", "seq", "created_at")
"""The members of a message that the service adds to all of these files' messages."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose ledger holds both files."""
    folder = tmp_path_factory.mktemp("conversations")
    for name in FILES:
        sessions = load(name)
        said = succeed("import", "--database", "ledger.db", path_of(name), cwd=folder)
        count = sum(len(session["messages"]) for session in sessions)
        expected = f"{len(sessions)} sessions with {count} messages imported, 0 were there already, 0 rejected"
        assert said.strip() == expected
    return folder


@pytest.fixture(scope="module")
def conversations() -> dict[str, Json]:
    """The sessions of both files, by their ids."""
    return {session["id"]: session for name in FILES for session in load(name)}


def assert_same_session(found: Json, given: Json) -> None:
    """What was given is there, and only what the service owns beside it."""
    assert {name: found[name] for name in ("id", "user_id", "traits")} == {
        name: given[name] for name in ("id", "user_id", "traits")
    }
    assert found["title"] is None


def assert_same_messages(found: list[Json], given: list[Json], *, owned: tuple[str, ...] = OWNED) -> None:
    """The messages are those, in order; the service may add its own members, an id among them."""
    assert len(found) == len(given)
    for message, original in zip(found, given, strict=True):
        assert set(message) - set(original) == {*owned, "id"} - set(original)
        assert {name: message[name] for name in original} == original
        assert all(type(message[name]) is type(original[name]) for name in original)


def assert_export_holds(database: Path, conversations: dict[str, Json]) -> None:
    """The export has all sessions, in the order of the file, with all of their messages."""
    sessions = exported(database)
    assert [session["id"] for session in sessions] == list(conversations)
    for session in sessions:
        given = conversations[session["id"]]
        assert_same_session(session, given)
        assert_same_messages(session["messages"], given["messages"], owned=("created_at",))


def test_an_export_gives_back_what_was_imported(folder: Path, conversations: dict[str, Json]) -> None:
    """Each session and message comes out of `chatledger export` with the JSON values of the file."""
    assert_export_holds(folder / "ledger.db", conversations)


def test_pages_give_back_what_was_imported(folder: Path, conversations: dict[str, Json]) -> None:
    """Over HTTP each conversation is the same, in pages of 7, in pages of 1000, and with its session."""
    with Server(folder / "ledger.db", cwd=folder) as server, server.client() as client:
        for session_id, given in conversations.items():
            found = client.get(f"/v1/sessions/{session_id}", params={"messages": 1000}).json()
            assert_same_session(found, given)
            assert found["has_earlier"] is False
            assert found["message_count"] == len(given["messages"])
            assert_same_messages(found["messages"], given["messages"])
            assert [message["seq"] for message in found["messages"]] == list(range(1, 1 + len(given["messages"])))
            for limit in (7, 1000):
                assert messages_of(client, session_id, limit=limit) == found["messages"]
        assert server.stop() == 0


def test_a_replay_gives_back_what_was_imported(folder: Path, conversations: dict[str, Json]) -> None:
    """With all views deleted, `chatledger replay` makes them again from the ledger alone."""
    before = succeed("export", "--database", "ledger.db", cwd=folder)
    views = list(folder.glob("ledger.db.views.*"))
    assert views
    for path in views:
        path.unlink()
    events = sum(1 + len(session["messages"]) for session in conversations.values())
    assert f"{events} events replayed" in succeed("replay", "--database", "ledger.db", cwd=folder)
    assert succeed("export", "--database", "ledger.db", cwd=folder) == before
    assert_export_holds(folder / "ledger.db", conversations)


def test_importing_a_file_again_changes_nothing(folder: Path) -> None:
    """A second import of the same file finds all of it there, ids that the service made included."""
    before = succeed("export", "--database", "ledger.db", cwd=folder)
    for name in FILES:
        said = succeed("import", "--database", "ledger.db", path_of(name), cwd=folder)
        assert said.strip() == f"0 sessions with 0 messages imported, {len(load(name))} were there already, 0 rejected"
    assert succeed("export", "--database", "ledger.db", cwd=folder) == before


def test_an_exports_import_exports_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    """Export, import into a second ledger, export again: the two files are the same, byte for byte."""
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    succeed("export", "--database", folder / "ledger.db", "--output", first, cwd=tmp_path)
    succeed("import", "--database", "second.db", first, cwd=tmp_path)
    succeed("export", "--database", "second.db", "--output", second, cwd=tmp_path)
    assert first.read_bytes() == second.read_bytes()
    again = run("import", "--database", "second.db", first, cwd=tmp_path)
    assert (again.returncode, again.stderr.count("rejected")) == (0, 0), again.stderr


@pytest.mark.parametrize("name", FILES)
def test_sessions_created_over_http_come_back(client: httpx.Client, name: str) -> None:
    """A client that sends each conversation in one request reads it back with the same values."""
    for given in load(name):
        created = client.post("/v1/sessions", json=given)
        assert created.status_code == 201, created.text
        assert_same_session(created.json(), given)
        assert_same_messages(messages_of(client, given["id"]), given["messages"])
