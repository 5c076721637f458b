"""Ledgers that earlier versions have made: kept as they were, and read, verified, exported and written by this one."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from support import independent_verifier as independent
from support.command import run, succeed
from support.server import Server

FIXTURES = Path(__file__).parents[1] / "fixtures"
NAMES = ("first", "second")


@pytest.fixture(params=NAMES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of one of them."""
    shutil.copytree(FIXTURES / request.param, tmp_path, dirs_exist_ok=True)
    (tmp_path / "ledger.db.key").chmod(0o600)  # which a checkout does not keep
    return tmp_path


@pytest.fixture
def made(folder: Path) -> dict[str, Any]:
    """What the version that made it has said."""
    return dict(json.loads((folder / "answers.json").read_text("utf-8")))


def differences(found: Any, expected: Any, place: str = "$") -> Iterator[str]:
    """Where *found* is not what was expected; members that were added since are passed over."""
    if isinstance(found, dict) and isinstance(expected, dict):
        for name, value in expected.items():
            yield from differences(found.get(name), value, f"{place}.{name}")
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        for number, value in enumerate(expected):
            yield from differences(found[number], value, f"{place}[{number}]")
    elif found != expected:
        yield f"{place}: {found!r:.200} instead of {expected!r:.200}"


def test_it_is_verified_as_it_is(folder: Path) -> None:
    """By us, and by the verifier that shares no code with us; nothing of it is changed."""
    before = (folder / "ledger.db").read_bytes()
    assert "events verified" in succeed("verify", "--database", "ledger.db", cwd=folder)
    independent.verify_ledger(folder / "ledger.db")
    assert (folder / "ledger.db").read_bytes() == before


def test_it_is_exported_as_it_was(folder: Path, made: dict[str, Any]) -> None:
    """Each event, and each session. The order of sessions was another one before."""
    events = succeed("export", "--events", "--database", "ledger.db", cwd=folder).splitlines()
    assert list(differences([json.loads(line) for line in events], made["events"])) == []
    for tenant, expected in made["exports"].items():
        text = succeed("export", "--tenant", tenant, "--database", "ledger.db", cwd=folder)
        found = {session["id"]: session for session in map(json.loads, text.splitlines())}
        assert list(differences(found, {session["id"]: session for session in expected})) == []


def test_a_server_answers_as_it_did(folder: Path, made: dict[str, Any]) -> None:
    """Whatever was asked, with the keys that were made then; also behind the migration, another start and a rebuild."""
    for _ in range(2):
        with Server(folder / "ledger.db") as server:
            for tenant, answers in made["answers"].items():
                headers = {"Authorization": f"Bearer {made['keys'][tenant]}"}
                with httpx.Client(base_url=server.url, headers=headers, trust_env=False) as client:
                    assert list(_changed(client, answers)) == []
            assert server.stop() == 0
        succeed("replay", "--check", "--database", "ledger.db", cwd=folder)
        succeed("replay", "--database", "ledger.db", cwd=folder)
    assert "events verified" in succeed("verify", "--database", "ledger.db", cwd=folder)


def _changed(client: httpx.Client, answers: dict[str, Any]) -> Iterator[str]:
    for path, expected in answers.items():
        answer = client.get(path)
        found = answer.json() if answer.is_success else answer.status_code
        yield from (f"{path} {each}" for each in differences(found, expected))


def test_it_goes_on(folder: Path, made: dict[str, Any]) -> None:
    """Retries of then find their answers, sessions of then are appended to, forked, deleted and erased."""
    headers = {"Authorization": f"Bearer {made['keys']['default']}"}
    with Server(folder / "ledger.db") as server:
        with httpx.Client(base_url=server.url, headers=headers, trust_env=False) as client:
            repeated = {"id": "p4", "role": "user", "content": "message 4", "created_at": "2024-05-01T12:00:00Z"}
            answer = client.post("/v1/sessions/plain/messages", json=repeated, headers={"Idempotency-Key": "key-4"})
            assert (answer.status_code, answer.headers["idempotency-replayed"]) == (201, "true")
            other = {"role": "user", "content": "another one"}
            refused = client.post("/v1/sessions/plain/messages", json=other, headers={"Idempotency-Key": "key-4"})
            assert refused.status_code == 422
            assert client.post("/v1/sessions/plain/messages", json={"role": "user", "content": "more"}).is_success
            assert client.post("/v1/sessions/tree/fork", json={"id": "new"}).is_success
            assert client.delete("/v1/sessions/fork").status_code == 204
            for session in ("tree", "deleted", "long"):
                assert client.post(f"/v1/sessions/{session}/erase", json={"reason": "now"}).is_success
        assert server.stop() == 0
    assert "events verified" in succeed("verify", "--database", "ledger.db", cwd=folder)
    independent.verify_ledger(folder / "ledger.db")


def test_an_erased_text_is_not_in_it(folder: Path) -> None:
    """Nor in what was said of it."""
    done = run("-c", "cat * | grep -c 'to be erased'", cwd=folder, command=["sh"])
    assert done.stdout == "0\n"
