"""`chatledger key`: keys made, listed and revoked on the machine itself, without a server and beside one."""

import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from chatledger.domain.api_keys import KEY_PATTERN, check_text, id_of
from support.command import assert_clear, refuse, run, status, succeed
from support.server import Server

DATABASE = ("--database", "l.db")
TENANTS = ("--tenant", "acme", "--scopes", "read,write")


@pytest.fixture(params=["offline", "beside a server"])
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder for the ledger `l.db`, which a server may have."""
    if request.param == "offline":
        yield tmp_path
        return
    with Server(tmp_path / "l.db", cwd=tmp_path):
        yield tmp_path


def create(folder: Path, *options: object) -> str:
    """A key, which is the last line of standard output."""
    lines = succeed("key", "create", *DATABASE, *options, cwd=folder).splitlines()
    assert lines[:-1] == [f"key {id_of(lines[-1])} is made; this is its text, which is shown only now:"]
    return lines[-1]


def listed(folder: Path, *options: object) -> list[dict[str, Any]]:
    """The keys."""
    return [json.loads(line) for line in succeed("key", "list", *DATABASE, "--json", *options, cwd=folder).splitlines()]


def test_a_key_is_made_listed_and_revoked(folder: Path) -> None:
    """Its text is shown once; the list has all else, in the order of creation."""
    operators, key = create(folder, "--operator"), create(folder, *TENANTS, "--name", "web frontend")
    for text in (operators, key):
        assert re.fullmatch(KEY_PATTERN, text)
        check_text(text)
    first, second = listed(folder)
    assert (first["id"], first["tenant_id"], first["scopes"]) == (
        id_of(operators),
        None,
        ["admin", "audit", "operator"],
    )
    assert (second["id"], second["tenant_id"], second["name"]) == (id_of(key), "acme", "web frontend")
    assert (second["scopes"], second["expires_at"], second["revoked_at"]) == (["read", "write"], None, None)
    assert listed(folder, "--tenant", "acme") == [second]
    assert listed(folder, "--tenant", "other") == []
    table = succeed("key", "list", *DATABASE, cwd=folder)
    assert table.splitlines()[0].split("  ")[0] == "id"
    assert re.search(rf"^{id_of(key)}  acme +read,write +active +never +web frontend$", table, re.MULTILINE)
    assert re.search(rf"^{id_of(operators)}  \(operator\)  ", table, re.MULTILINE)
    for text in (operators, key):
        assert text[17:] not in table + json.dumps([first, second])

    assert succeed("key", "revoke", id_of(key), *DATABASE, cwd=folder) == f"key {id_of(key)} is revoked\n"
    revoked = listed(folder)[1]
    assert revoked["revoked_at"] > revoked["created_at"]
    assert f"revoked {revoked['revoked_at']}" in succeed("key", "list", *DATABASE, cwd=folder)
    # Again: it stays as it is.
    succeed("key", "revoke", id_of(key), *DATABASE, cwd=folder)
    assert listed(folder)[1] == revoked
    assert status(folder / "l.db")["events"] == 3


def test_a_duration_becomes_a_time(folder: Path) -> None:
    """In hours or days from now."""
    create(folder, *TENANTS, "--expires", "12h")
    create(folder, *TENANTS, "--expires", "90d")
    for key, seconds in zip(listed(folder), (12 * 3600, 90 * 24 * 3600), strict=True):
        assert abs(_seconds(key["expires_at"]) - _seconds(key["created_at"]) - seconds) < 60
    assert "until 20" in succeed("key", "list", *DATABASE, cwd=folder)


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--scopes", "read"),
        ("--operator", *TENANTS),
        ("--operator", "--scopes", "read"),
        ("--tenant", "acme"),
        ("--tenant", "acme", "--scopes", ""),
        ("--tenant", "acme", "--scopes", "all"),
        ("--tenant", "acme", "--scopes", "read,operator"),
        ("--tenant", "acme", "--scopes", "READ"),
        ("--tenant", "$system", "--scopes", "read"),
        ("--tenant", "a b", "--scopes", "read"),
        (*TENANTS, "--name", ""),
        (*TENANTS, "--name", "n" * 201),
        (*TENANTS, "--name", "a\nb"),
        (*TENANTS, "--expires", "0d"),
        (*TENANTS, "--expires", "-1d"),
        (*TENANTS, "--expires", "90"),
        (*TENANTS, "--expires", "90D"),
        (*TENANTS, "--expires", "100000d"),
        (*TENANTS, "--expires", "2099-01-01"),
    ],
    ids=" ".join,
)
def test_wrong_options_are_refused(options: tuple[str, ...], tmp_path: Path) -> None:
    """With exit code 2, and nothing is made."""
    done = run("key", "create", *DATABASE, *options, cwd=tmp_path)
    assert_clear(done)
    assert (done.returncode, done.stdout, list(tmp_path.iterdir())) == (2, "", [])


def test_a_key_that_is_not_there_cannot_be_revoked(folder: Path) -> None:
    """A whole key is no id: it would be in the shell's history, and in the error."""
    key = create(folder, "--operator")
    assert "No such key" in refuse("key", "revoke", "k_000000000000", *DATABASE, cwd=folder)
    for wrong in (key, "k_1", "", "../projections/rebuild", "k_00000000000/"):
        done = run("key", "revoke", wrong, *DATABASE, cwd=folder)
        assert_clear(done)
        assert done.returncode == 2
        assert key[17:] not in done.stderr
    assert [each["revoked_at"] for each in listed(folder)] == [None]


def test_a_ledger_that_is_not_there_is_made_only_for_a_key(tmp_path: Path) -> None:
    """A wrong path must not look like an empty list."""
    for arguments in (("list",), ("revoke", "k_000000000000")):
        assert "no ledger" in refuse("key", *arguments, *DATABASE, cwd=tmp_path)
        assert list(tmp_path.iterdir()) == []
    create(tmp_path, "--operator")
    assert len(listed(tmp_path)) == 1


def test_the_limit_holds_here_too(tmp_path: Path) -> None:
    """Of keys that are not revoked."""
    env = {"CHATLEDGER_KEYS_MAX": "1"}
    succeed("key", "create", *DATABASE, "--operator", cwd=tmp_path, env=env)
    assert "revoke some first" in refuse("key", "create", *DATABASE, "--operator", cwd=tmp_path, env=env)
    succeed("key", "create", *DATABASE, *TENANTS, cwd=tmp_path, env=env)


def test_no_file_has_the_text_of_a_key(tmp_path: Path) -> None:
    """Only its SHA-256 is kept."""
    key = create(tmp_path, "--operator")
    assert [path.name for path in tmp_path.iterdir() if key[17:].encode() in path.read_bytes()] == []


def test_more_keys_than_a_page_are_listed_beside_a_server(tmp_path: Path) -> None:
    """Page after page."""
    with Server(tmp_path / "l.db", cwd=tmp_path) as server:
        operators = create(tmp_path, "--operator")
        with server.client() as client:
            for _ in range(205):
                body = {"tenant_id": "acme", "scopes": ["read"]}
                headers = {"Authorization": f"Bearer {operators}"}
                assert client.post("/v1/admin/keys", json=body, headers=headers).status_code == 201
        beside = listed(tmp_path)
        assert len({key["id"] for key in beside}) == 206
        assert server.stop() == 0
    assert [key["id"] for key in listed(tmp_path)] == [key["id"] for key in beside]


def test_events_of_keys_are_events_like_others(tmp_path: Path) -> None:
    """They are verified, replayed and exported, and a restored ledger has the keys."""
    key = create(tmp_path, *TENANTS)
    succeed("key", "revoke", id_of(key), *DATABASE, cwd=tmp_path)
    create(tmp_path, "--operator", "--expires", "1d")
    succeed("verify", *DATABASE, cwd=tmp_path)
    succeed("replay", "--check", *DATABASE, cwd=tmp_path)
    succeed("replay", *DATABASE, cwd=tmp_path)
    exported = [json.loads(line) for line in succeed("export", "--events", *DATABASE, cwd=tmp_path).splitlines()]
    assert [each["type"].rsplit("key.", 1)[-1] for each in exported] == ["created", "revoked", "created"]
    assert key[17:] not in json.dumps(exported)
    assert succeed("export", *DATABASE, cwd=tmp_path) == ""
    succeed("backup", *DATABASE, "copy.db", cwd=tmp_path)
    assert listed(tmp_path) == [
        json.loads(line)
        for line in succeed("key", "list", "--database", "copy.db", "--json", cwd=tmp_path).splitlines()
    ]
