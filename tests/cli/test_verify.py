"""`chatledger verify`: what it says of good and of damaged ledgers, heads and bundles, and its exit codes."""

import json
import re
import sqlite3
from base64 import b64encode
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from chatledger.domain.timestamps import format_us
from chatledger.errors import UnsoundProof
from chatledger.ledger import event_store
from chatledger.proofs import bundle
from chatledger.proofs.signed_heads import Signer, existing_signer
from support import independent_verifier as independent
from support.command import assert_clear, succeed
from support.command import run as run_command
from support.server import Server
from support.store import Store, append, create, delete, message, run

Json = dict[str, Any]
WRITTEN = "ledger.db"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ledger of 11 events, its signed head, and the bundles of two of its sessions."""
    folder = tmp_path_factory.mktemp("verify")
    with Store(folder / WRITTEN) as store:
        store.commit_all(create("s", message("m1"), message("m2", 'é "\\')), create("o", message("m1")))
        store.commit_all(append("s", message("m3")), append("o", message("m2")), append("s", message("m4")))
        store.commit_all(create("t", message("m1")), delete("o"))
        signer = existing_signer(store.location, store.settings, event_store.identity(store.ledger))
        for session in ("s", "o"):
            (folder / f"{session}.json").write_bytes(run(store.audit().proof(session, signer))[1])
        (folder / "key").write_text(str(signer.verifier))
    said = succeed("verify", "--database", WRITTEN, "--save-head", "head", cwd=folder)
    first, views = said.splitlines()
    assert re.fullmatch("11 events verified; the tree's root is [0-9a-f]{64}", first), said
    assert views == "the views are what 11 events make of them"
    return folder


def copied(folder: Path, target: Path) -> Path:
    """The ledger, its key and its head, in another folder."""
    for name in (WRITTEN, WRITTEN + ".key", "head", "key", "s.json"):
        (target / name).write_bytes((folder / name).read_bytes())
        (target / name).chmod(0o600)
    return target


def change(folder: Path, *statements: str) -> None:
    """Change the ledger behind its guards."""
    with closing(sqlite3.connect(folder / WRITTEN)) as db, db:
        for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            db.execute(f"DROP TRIGGER {name}")
        for statement in statements:
            db.execute(statement)


def refuse(*arguments: object, cwd: Path) -> str:
    """Run the command, which has to refuse with exit code 1 and a clear line, behind the progress if there is any."""
    done = run_command(*arguments, cwd=cwd)
    assert_clear(done)
    assert done.returncode == 1, done.stderr
    line = done.stderr.splitlines()[-1]
    assert line.startswith("chatledger: "), done.stderr
    return line


def signer_in(file: Path) -> Signer:
    """The signer whose key lies in a file, read by the page's words."""
    _, _, name, _, encoded = file.read_text().strip().split("+", 4)
    return Signer(name, independent.decoded(encoded)[1:])


# ---------------------------------------------------------------- a ledger


def test_a_good_ledger_is_verified(folder: Path, tmp_path: Path) -> None:
    """Size and root are those that the independent verifier finds, and the saved head says the same."""
    target = copied(folder, tmp_path)
    size, root = independent.verify_ledger(target / WRITTEN)
    said = succeed("verify", "--database", WRITTEN, cwd=target)
    assert said.splitlines() == [
        f"{size} events verified; the tree's root is {root.hex()}",
        "The views were not checked: there are none.",
    ]
    head = independent.verify_checkpoint((target / "head").read_text(), (target / "key").read_text())
    assert (head.size, head.root) == (size, root)


def test_a_ledger_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """Verifying nothing is a refusal."""
    refuse("verify", "--database", "none.db", cwd=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_is_verified_beside_a_running_server(tmp_path: Path) -> None:
    """It is read as it is at that moment, with what lies in the log; and the server goes on."""
    with Server(WRITTEN, cwd=tmp_path) as server, server.client() as client:
        client.post("/v1/sessions", json={"id": "s", "messages": [{"role": "user", "content": "Hello"}]})
        assert succeed("verify", "--database", WRITTEN, "--save-head", "head", cwd=tmp_path).startswith("2 events")
        assert client.post("/v1/sessions/s/messages", json={"role": "user", "content": "again"}).status_code == 201
        said = succeed("verify", "--database", WRITTEN, "--head", "head", cwd=tmp_path)
        assert said.startswith("3 events")
        assert "the ledger extends the head of 2 events\n" in said
        head = client.get("/v1/ledger/head").json()
        assert head["root"] in said


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (
            "UPDATE events SET payload = CAST(payload || ' ' AS BLOB) WHERE position >= 4",
            "position 4 (session 'o' of tenant 'default') does not match",
        ),
        (
            "UPDATE events SET payload = x'7b7d' WHERE position = 2",
            "position 2 (session 's' of tenant 'default') cannot be read",
        ),
        (
            "UPDATE events SET payload = NULL, salt = NULL WHERE position = 5",
            "position 5 (session 'o' of tenant 'default') is gone, and nobody erased it",
        ),
        ("DELETE FROM events WHERE position = 3", "There is no event at position 3"),
        ("DELETE FROM events WHERE position = 1", "There is no event at position 1"),
        (
            "UPDATE events SET version = 9 WHERE position = 2",
            "position 2 (session 's' of tenant 'default') has version 9 where 2 was to come",
        ),
        (
            "UPDATE events SET actor = 'mallory' WHERE position = 6",
            "position 6 (session 's' of tenant 'default') does not match",
        ),
        (
            "UPDATE events SET type = 'x' WHERE position = 6",
            "position 6 (session 's' of tenant 'default') cannot be read",
        ),
        ("DELETE FROM streams WHERE key = 1", "position 1 belongs to no session"),
        (
            "UPDATE streams SET session_id = 's' || char(27) || char(10) WHERE key = 1",
            r"position 1 (session 's\x1b\n' of tenant 'default') does not match its leaf",
        ),
        ("DELETE FROM events WHERE position = 11", "stored tree of 11 leaves is not that of the 10 events"),
    ],
)
def test_the_first_wrong_position_is_named(folder: Path, tmp_path: Path, statement: str, said: str) -> None:
    """One clear line, exit code 1; nothing is repaired. The independent verifier stops at the same place."""
    target = copied(folder, tmp_path)
    change(target, statement)
    before = (target / WRITTEN).read_bytes()
    assert said in refuse("verify", "--database", WRITTEN, cwd=target)
    assert (target / WRITTEN).read_bytes() == before
    with pytest.raises(independent.Wrong) as wrong:
        independent.verify_ledger(target / WRITTEN)
    named = re.search(r"position (\d+)", said)
    assert wrong.value.position == (int(named[1]) if named else None)


def test_a_damaged_file_is_one_clear_line(folder: Path, tmp_path: Path) -> None:
    """Zeros over a page."""
    target = copied(folder, tmp_path)
    raw = bytearray((target / WRITTEN).read_bytes())
    raw[len(raw) // 2 : len(raw) // 2 + 8192] = bytes(8192)
    (target / WRITTEN).write_bytes(raw)
    refuse("verify", "--database", WRITTEN, cwd=target)


# ---------------------------------------------------------------- with an earlier head


def test_a_ledger_that_has_grown_extends_its_head(folder: Path, tmp_path: Path) -> None:
    """With the key beside it, and with the one that is named."""
    target = copied(folder, tmp_path)
    with Store(target / WRITTEN) as store:
        store.commit_all(create("later"))
    key = (target / "key").read_text()
    for options in ([], ["--public-key", key]):
        said = succeed("verify", "--database", WRITTEN, "--head", "head", *options, cwd=target)
        assert said.splitlines()[1] == "the ledger extends the head of 11 events"


def test_a_head_needs_a_key(folder: Path, tmp_path: Path) -> None:
    """A copy of the ledger alone has none: it is not made up, but asked for."""
    target = copied(folder, tmp_path)
    (target / (WRITTEN + ".key")).unlink()
    assert "--public-key" in refuse("verify", "--database", WRITTEN, "--head", "head", cwd=target)
    assert not (target / (WRITTEN + ".key")).exists()
    succeed("verify", "--database", WRITTEN, "--head", "head", "--public-key", (target / "key").read_text(), cwd=target)


def test_a_forged_head_is_refused(folder: Path, tmp_path: Path) -> None:
    """Another size, another root, another signer."""
    target = copied(folder, tmp_path)
    head = (target / "head").read_text()
    name, _, root = head.splitlines()[:3]
    other = Signer(name, bytes(32))
    for forged in (
        head.replace("\n11\n", "\n10\n"),
        head.replace(root, b64encode(bytes(32)).decode()),
        other.sign(11, independent.parse_checkpoint(head).root),
        head.split("\n\n")[0],
    ):
        (target / "forged").write_text(forged)
        assert "checkpoint" in refuse("verify", "--database", WRITTEN, "--head", "forged", cwd=target)


def test_another_ledgers_head_is_refused(folder: Path, tmp_path: Path) -> None:
    """By the key beside the ledger; and by its name, where its own key is named."""
    target = copied(folder, tmp_path)
    with Store(target / "other.db"):
        pass
    succeed("verify", "--database", "other.db", "--save-head", "other", cwd=target)
    refuse("verify", "--database", WRITTEN, "--head", "other", cwd=target)
    signer = signer_in(target / "other.db.key")
    said = refuse("verify", "--database", WRITTEN, "--head", "other", "--public-key", signer.verifier, cwd=target)
    assert "The head is of chatledger/" in said


def test_a_ledger_that_does_not_extend_the_head_is_refused(folder: Path, tmp_path: Path) -> None:
    """One that is shorter, and one whose first events are others."""
    target = copied(folder, tmp_path)
    signer = signer_in(target / (WRITTEN + ".key"))
    (target / "later").write_text(signer.sign(12, bytes(32)))
    said = refuse("verify", "--database", WRITTEN, "--head", "later", cwd=target)
    assert "ends at position 11; the earlier head has 12 events" in said
    (target / "else").write_text(signer.sign(7, bytes(32)))
    said = refuse("verify", "--database", WRITTEN, "--head", "else", cwd=target)
    assert "at or before position 7 the history is another one" in said


def test_a_head_in_the_form_of_the_api_is_taken(folder: Path, tmp_path: Path) -> None:
    """The JSON of `GET /v1/ledger/head`, with the key beside the ledger or a named one; another key is refused."""
    with Server(WRITTEN, cwd=tmp_path) as server, server.client() as client:
        client.post("/v1/sessions", json={"id": "s", "messages": [{"role": "user", "content": "Hello"}]})
        answer = client.get("/v1/ledger/head")
        (tmp_path / "head.json").write_bytes(answer.content)
        (tmp_path / "head").write_bytes(client.get("/tlog/checkpoint").content)
        (tmp_path / "problem").write_bytes(client.get("/v1/sessions/none").content)
        client.post("/v1/sessions/s/messages", json={"role": "user", "content": "again"})
        for options in ([], ["--public-key", answer.json()["public_key"]]):
            for name in ("head.json", "head"):
                said = succeed("verify", "--database", WRITTEN, "--head", name, *options, cwd=tmp_path)
                assert said.splitlines()[1] == "the ledger extends the head of 2 events"
    key = (folder / "key").read_text()
    said = refuse("verify", "--database", WRITTEN, "--head", "head.json", "--public-key", key, cwd=tmp_path)
    assert (
        f"head.json names the public key '{answer.json()['public_key']}', and the one to check it with is {key}" in said
    )
    said = refuse("verify", "--database", WRITTEN, "--head", "problem", cwd=tmp_path)
    assert said == (
        "chatledger: problem holds no signed head: it is an error that the server answered: 'No such session.'."
    )


def test_a_saved_head_and_a_binary_file_are_one_line(folder: Path, tmp_path: Path) -> None:
    """The ledger in place of its head."""
    target = copied(folder, tmp_path)
    said = refuse("verify", "--database", WRITTEN, "--head", WRITTEN, cwd=target)
    assert said.startswith(f"chatledger: {WRITTEN} holds no signed head")


PUBLIC = ["--public-key", "@key"]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--database", WRITTEN, *PUBLIC], "--public-key"),
        (["--database", WRITTEN, "--save-head", "new", *PUBLIC], "--public-key"),
        (["--bundle", "s.json", "--database", WRITTEN], "--database"),
        (["--bundle", "s.json", "--head", "head"], "--head"),
        (["--bundle", "s.json", "--save-head", "new"], "--save-head"),
        (["--bundle", "s.json", "--database", "none.db", *PUBLIC], "--database"),
        (["--database", WRITTEN, "--head", "head", "--public-key", "nonsense"], "no verifier key"),
        (["--database", "none.db", "--head", "head", "--public-key", "nonsense"], "no verifier key"),
        (["--bundle", "s.json", "--public-key", "nonsense"], "no verifier key"),
        (["--bundle", "s.json", "--public-key", ""], "no verifier key"),
        (["--bundle", "s.json", "--public-key", "@key cut"], "no Ed25519 verifier key"),
        (["--bundle", "s.json", "--public-key", "@private"], "private signing key"),
    ],
    ids=" ".join,
)
def test_an_option_that_would_be_ignored_is_refused(
    folder: Path, tmp_path: Path, options: list[str], word: str
) -> None:
    """As a wrong call, before anything is read: an auditor must not take for checked what was not."""
    target = copied(folder, tmp_path)
    key, private = (target / "key").read_text(), (target / (WRITTEN + ".key")).read_text()
    texts = {"@key": key, "@key cut": key[:-5] + "AAAA=", "@private": private}
    before = {path.name for path in target.iterdir()}
    done = run_command("verify", *(texts.get(option, option) for option in options), cwd=target)
    assert_clear(done)
    assert (done.returncode, done.stdout) == (2, "")
    line = done.stderr.splitlines()[-1]
    assert line.startswith("Error: ")
    assert word in line
    assert private.strip() not in done.stderr
    assert {path.name for path in target.iterdir()} == before


def test_a_setting_beside_a_bundle_is_no_option(folder: Path) -> None:
    """`DATABASE_PATH` is there for other commands, and nothing is claimed of it."""
    done = run_command("verify", "--bundle", "s.json", cwd=folder, env={"DATABASE_PATH": "none.db"})
    assert done.returncode == 0


def test_a_missing_file_is_a_wrong_call(folder: Path) -> None:
    """Exit code 2, as for each wrong option."""
    for option in ("--head", "--bundle"):
        done = run_command("verify", "--database", WRITTEN, option, "none", cwd=folder)
        assert_clear(done)
        assert done.returncode == 2


# ---------------------------------------------------------------- a bundle


@pytest.mark.parametrize("session", ["s", "o"])
def test_a_good_bundle_is_verified_without_a_ledger(folder: Path, tmp_path: Path, session: str) -> None:
    """Also that of a deleted session; the key that signed it is named, to be compared."""
    (tmp_path / "b.json").write_bytes((folder / f"{session}.json").read_bytes())
    key = (folder / "key").read_text()
    said = succeed("verify", "--bundle", "b.json", cwd=tmp_path)
    events = json.loads((tmp_path / "b.json").read_text())["events"]
    assert f"{len(events)} events of session {session} of tenant default verified, 0 of them erased" in said
    first, last = (format_us(events[at]["recorded_at"]) for at in (0, -1))
    assert f"\nrecorded from {first} to {last}\nup to version {len(events)}: later events may exist\n" in said
    assert f"signed by {key}\n" in said
    assert "compare this key" in said
    said = succeed("verify", "--bundle", "b.json", "--public-key", key, cwd=tmp_path)
    assert "compare this key" not in said
    independent.verify_bundle((tmp_path / "b.json").read_text(), verifier_key=key)
    assert [file.name for file in tmp_path.iterdir()] == ["b.json"]


def test_a_bundle_by_another_key_is_refused(folder: Path) -> None:
    """A named key has to be the one."""
    other = Signer("chatledger/other", bytes(32)).verifier
    assert "another key" in refuse("verify", "--bundle", "s.json", "--public-key", other, cwd=folder)
    with pytest.raises(independent.Wrong):
        independent.verify_bundle((folder / "s.json").read_text(), verifier_key=str(other))


def of_event(name: str, value: Any, at: int = 1) -> Callable[[Json], object]:
    """Put *value* into a member of an event."""
    return lambda found: found["events"][at].__setitem__(name, value)


def put(name: str, value: Any) -> Callable[[Json], object]:
    """Put *value* into a member of the bundle."""
    return lambda found: found.__setitem__(name, value)


def in_event(name: str, edit: Callable[[Any], Any], at: int = 1) -> Callable[[Json], object]:
    """Edit a member of an event."""
    return lambda found: found["events"][at].__setitem__(name, edit(found["events"][at][name]))


TAMPERED: dict[str, Callable[[Json], object]] = {
    "format": put("format", "chatledger-bundle-v2"),
    "public_key": put("public_key", str(Signer("chatledger/other", bytes(32)).verifier)),
    "public_key, misspelt": lambda found: found.update(public_key=found["public_key"][:-2] + "A="),
    "checkpoint": lambda found: found.update(checkpoint=found["checkpoint"].replace("\n11\n", "\n12\n")),
    "checkpoint, none": put("checkpoint", ""),
    "events, none": put("events", []),
    "events, null": put("events", None),
    "a member more": put("more", 1),
    "a member less": lambda found: found.pop("format"),
    "first event gone": lambda found: found["events"].pop(0),
    "middle event gone": lambda found: found["events"].pop(2),
    "an event twice": lambda found: found["events"].insert(1, found["events"][1]),
    "two events swapped": lambda found: found["events"].insert(1, found["events"].pop(2)),
    "actor": of_event("actor", "user:mallory"),
    "commitment": of_event("commitment", "00" * 32),
    "commitment, upper case": in_event("commitment", str.upper),
    "payload": in_event("payload", lambda text: text.replace("user", "tool")),
    "payload, a space": in_event("payload", lambda text: text + " "),
    "payload, null": of_event("payload", None),
    "position": in_event("position", lambda number: number + 1),
    "position, first": of_event("position", 1),
    "position, 0": of_event("position", 0, at=0),
    "position, beyond": of_event("position", 12, at=-1),
    "recorded_at": in_event("recorded_at", lambda number: number - 1),
    "request_id": of_event("request_id", "other"),
    "request_id, null": of_event("request_id", None),
    "salt": of_event("salt", "00" * 16),
    "salt, longer": in_event("salt", lambda text: text + "00"),
    "salt, null": of_event("salt", None),
    "salt, no digits": of_event("salt", "zz" * 16),
    "schema": of_event("schema", 2),
    "session": of_event("session", "o"),
    "tenant": of_event("tenant", "other"),
    "session of all": lambda found: [event.update(session="o") for event in found["events"]],
    "tenant of all": lambda found: [event.update(tenant="other") for event in found["events"]],
    "type": of_event("type", "session.updated"),
    "version": of_event("version", 3),
    "proof, shorter": in_event("proof", lambda proof: proof[:-1]),
    "proof, longer": in_event("proof", lambda proof: [*proof, b64encode(bytes(32)).decode()]),
    "proof, empty": of_event("proof", []),
    "proof, another": in_event("proof", lambda proof: [b64encode(bytes(32)).decode(), *proof[1:]]),
    "proof, turned": in_event("proof", lambda proof: proof[::-1]),
    "proof, no base64": in_event("proof", lambda proof: ["!" + proof[0][1:], *proof[1:]]),
    "an event's member more": of_event("more", 1),
    "an event's member less": lambda found: found["events"][1].pop("actor"),
    "an event's member as text": of_event("version", "2"),
}


@pytest.mark.parametrize("tamper", TAMPERED.values(), ids=TAMPERED.keys())
def test_a_tampered_bundle_is_refused(folder: Path, tamper: Callable[[Json], object]) -> None:
    """Whatever member is another one, both verifiers refuse the bundle, without a named key too."""
    found = json.loads((folder / "s.json").read_text())
    independent.verify_bundle(json.dumps(found))
    tamper(found)
    with pytest.raises(UnsoundProof):
        bundle.check(json.dumps(found).encode())
    with pytest.raises(independent.Wrong):
        independent.verify_bundle(json.dumps(found))


@pytest.mark.parametrize("name", ["payload", "checkpoint", "middle event gone", "public_key", "proof, shorter"])
def test_the_command_refuses_a_tampered_bundle(folder: Path, tmp_path: Path, name: str) -> None:
    """One clear line and exit code 1."""
    found = json.loads((folder / "s.json").read_text())
    TAMPERED[name](found)
    (tmp_path / "b.json").write_text(json.dumps(found))
    refuse("verify", "--bundle", "b.json", cwd=tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", "{", "\ufeff{}", '"x"'])
def test_what_is_no_bundle_is_refused(tmp_path: Path, text: str) -> None:
    """Nothing, another document, or half of one."""
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(UnsoundProof, match="no bundle"):
        bundle.check(text.encode())
    with pytest.raises(independent.Wrong):
        independent.verify_bundle(text)


def test_an_error_that_was_saved_as_a_bundle_is_named(tmp_path: Path) -> None:
    """As curl saves it without -f, where the credential does not allow it."""
    problem = {"type": "urn:chatledger:problem:forbidden", "title": "Forbidden", "status": 403, "detail": "No audit."}
    (tmp_path / "b.json").write_text(json.dumps(problem))
    said = refuse("verify", "--bundle", "b.json", cwd=tmp_path)
    assert said == "chatledger: b.json: That is no bundle: it is an error that the server answered: 'No audit.'."


def test_events_may_be_cut_off_at_the_end(folder: Path) -> None:
    """A bundle does not show that nothing follows, as the page says: ask for a newer one."""
    found = json.loads((folder / "s.json").read_text())
    found["events"].pop()
    independent.verify_bundle(json.dumps(found))
    assert bundle.check(json.dumps(found).encode()).events == len(found["events"])


def test_edited_views_are_found(folder: Path, tmp_path: Path) -> None:
    """The ledger is whole, and the command still ends with 1 and names the row that differs."""
    target = copied(folder, tmp_path)
    with Store(target / WRITTEN) as store:
        views = store.views_path
    with closing(sqlite3.connect(views)) as db, db:
        db.execute("UPDATE sessions SET title = 'Forged' WHERE id = 's'")
    done = run_command("verify", "--database", WRITTEN, cwd=target)
    assert done.returncode == 1
    assert "events verified" in done.stdout
    assert "1 differences between the views and a rebuild" in done.stdout
    assert "sessions" in done.stdout
    assert "Forged" not in done.stdout
