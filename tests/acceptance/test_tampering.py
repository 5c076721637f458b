"""A ledger of real conversations in the hands of somebody who owns its file and knows all of our code."""

import json
import os
import random
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chatledger.domain.commands import EraseSession
from chatledger.errors import ChatledgerError, UnsoundProof
from chatledger.ledger import event_store
from chatledger.proofs import bundle
from chatledger.proofs.signed_heads import Verifier, signer_of
from chatledger.proofs.verification import verify_ledger
from chatledger.settings import Settings
from chatledger.storage.ledger_file import open_ledger, open_ledger_reader
from chatledger.storage.paths import Location
from chatledger.writing import erasure
from support import independent_verifier as independent
from support.command import run as run_command
from support.command import succeed
from support.conversations import load
from support.seeds import new_seed
from support.store import Store, append, create, delete, message, run, submit

FLIPS = int(os.environ.get("TEST_BIT_FLIPS", "10000"))
HEADER_BYTES = 100
EVENTS = 300
SALT = bytes(range(16))
ROWS = """SELECT position, stream, version, type, schema, recorded_at, actor, request_id, payload, salt, leaf
  FROM events ORDER BY position"""
STREAMS = "SELECT key, tenant_id, session_id FROM streams ORDER BY key"
DAMAGE = "the file cannot be read"

Event = dict[str, Any]
Story = list[Event]


@dataclass(frozen=True)
class Evidence:
    """A ledger's file, closed, and what an auditor keeps elsewhere: a signed head and the key that signed it."""

    path: Path
    head: str
    key: str

    def copy(self, folder: Path) -> "Evidence":
        """The same ledger in another folder, with its head and key."""
        shutil.copy(self.path, folder / self.path.name)
        return Evidence(folder / self.path.name, self.head, self.key)


def head_of(store: Store) -> tuple[str, str]:
    """The signed head of an open ledger, and the verifier key; of a copy without its key, by a new one."""
    with_key = signer_of(store.location, store.settings, event_store.identity(store.ledger), events=0)
    leaves = [leaf for (leaf,) in store.ledger.execute("SELECT leaf FROM events ORDER BY position")]
    return with_key.sign(len(leaves), independent.root_of(leaves)), str(with_key.verifier)


def fill(store: Store, events: int) -> None:
    """Short conversations, two at a time, each third one deleted, until there are at least so many events."""
    sessions = [each for each in load("oasst_paths.jsonl") if len(json.dumps(each)) < 4_000]
    pairs = zip(sessions[::2], sessions[1::2], strict=False)
    for number, pair in enumerate(pairs):
        if store.ledger.execute("SELECT coalesce(max(position), 0) FROM events").get >= events:
            return
        store.commit_all(*(create(each["id"], user_id=each["user_id"]) for each in pair))
        for turn in range(max(len(each["messages"]) for each in pair)):
            said = [(each["id"], each["messages"][turn]) for each in pair if turn < len(each["messages"])]
            store.commit_all(*(append(session, _message(one)) for session, one in said))
        if number % 3 == 0:
            store.commit_all(delete(pair[0]["id"]))
    raise AssertionError("there are too few conversations")


def _message(given: Event) -> Any:
    return message(given.get("id"), given["content"], role=given["role"])


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """Some 300 events, so more than one tile; its files closed and its WAL empty."""
    path = tmp_path_factory.mktemp("original") / "ledger.db"
    with Store(path) as store:
        fill(store, EVENTS)
        head, key = head_of(store)
    assert not path.with_name("ledger.db-wal").exists()
    return Evidence(path, head, key)


# ---------------------------------------------------------------- the two verifiers


def ours(path: Path, head: str | None, key: str | None) -> str | None:
    """What our verification finds wrong, if anything."""
    settings = Settings(database_path=str(path))
    try:
        earlier = None if head is None or key is None else Verifier.of(key).read(head)
        connection = open_ledger_reader(Location.of(settings), settings)
        try:
            verify_ledger(connection, earlier=earlier)
        finally:
            connection.close()
    except ChatledgerError as error:
        return str(error)
    return None


def started(path: Path) -> str | None:
    """What the writer of a server finds wrong as it opens the ledger, if anything."""
    settings = Settings(database_path=str(path))
    try:
        open_ledger(Location.of(settings), settings).close()
    except ChatledgerError as error:
        return str(error)
    return None


def theirs(path: Path, head: str | None, key: str | None) -> str | None:
    """What the independent verifier finds wrong, if anything."""
    try:
        independent.verify_ledger(path, earlier_checkpoint=head, verifier_key=key)
    except independent.Wrong as wrong:
        return str(wrong)
    return None


def assert_good(evidence: Evidence) -> None:
    """Neither verifier finds anything, with the earlier head or without."""
    for verify in (ours, theirs):
        assert verify(evidence.path, None, None) is None
        assert verify(evidence.path, evidence.head, evidence.key) is None


def assert_seen_with_head_only(evidence: Evidence) -> None:
    """Both verifiers see it with the earlier head at hand, and neither without: everything inside fits."""
    for verify in (ours, theirs):
        assert verify(evidence.path, evidence.head, evidence.key) is not None
        assert verify(evidence.path, None, None) is None


def assert_seen_by_itself(evidence: Evidence) -> None:
    """Both verifiers see it, and need no head for it."""
    for verify in (ours, theirs):
        assert verify(evidence.path, evidence.head, evidence.key) is not None
        assert verify(evidence.path, None, None) is not None


# ---------------------------------------------------------------- single bits


def rows_of(path: Path) -> list[tuple[Any, ...]] | str:
    """All rows of events and streams, in order and byte for byte, read without our code."""
    wal = path.with_name(path.name + "-wal").exists()
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro{'' if wal else '&immutable=1'}", uri=True)) as db:
            db.text_factory = bytes
            return [*db.execute(STREAMS), *db.execute(ROWS)]
    except (sqlite3.Error, UnicodeDecodeError):
        return DAMAGE


def flip(path: Path, bit: int) -> None:
    """Turn one bit of the file over."""
    with path.open("r+b") as file:
        file.seek(bit // 8)
        (byte,) = file.read(1)
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def missed(evidence: Evidence, copy: Path, flips: int, verify: Callable[[Path, str, str], str | None]) -> list[int]:
    """Of so many single bits, turned over one at a time, those that change a row and that *verify* does not see."""
    original = rows_of(copy)
    assert len(original) > EVENTS
    chance, bits, found = random.Random(new_seed()), copy.stat().st_size * 8, []
    for _ in range(flips):
        bit = chance.randrange(bits)
        flip(copy, bit)
        if verify(copy, evidence.head, evidence.key) is None and rows_of(copy) != original:
            found.append(bit)
        _remove_logs(copy)
        flip(copy, bit)
    assert rows_of(copy) == original
    return found


def test_no_flipped_bit_that_counts_is_missed(evidence: Evidence, tmp_path: Path) -> None:
    """Of 10,000 single bits turned over anywhere in the file, each is found, or it changes no event and no session."""
    copy = evidence.copy(tmp_path)
    assert missed(evidence, copy.path, FLIPS, ours) == []
    assert_good(copy)


def test_each_bit_of_the_files_header_is_refused_in_words_or_changes_nothing(
    evidence: Evidence, tmp_path: Path
) -> None:
    """The header says how to read all else (https://www.sqlite.org/fileformat.html#the_database_header)."""
    copy = evidence.copy(tmp_path)
    original = copy.path.read_bytes()
    for bit in range(HEADER_BYTES * 8):
        flip(copy.path, bit)
        ours(copy.path, evidence.head, evidence.key)
        started(copy.path)
        _remove_logs(copy.path)
        copy.path.write_bytes(original)
    assert_good(copy)


def test_a_verification_that_looks_at_sqlite_alone_misses_bits(evidence: Evidence, tmp_path: Path) -> None:
    """The seeded bug of the test above: SQLite's own check sees a wrong structure, and not a wrong letter."""

    def blind(path: Path, _head: str, _key: str) -> str | None:
        with closing(sqlite3.connect(f"{path.as_uri()}?immutable=1", uri=True)) as db:
            try:
                return None if db.execute("PRAGMA integrity_check").fetchone()[0] == "ok" else DAMAGE
            except (sqlite3.Error, UnicodeDecodeError):
                return DAMAGE

    assert missed(evidence, evidence.copy(tmp_path).path, 200, blind)


def _remove_logs(path: Path) -> None:
    for suffix in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).unlink()


# ---------------------------------------------------------------- by hand, with all behind it made to fit


def forge(path: Path, change: Callable[[Story], Sequence[Event]]) -> None:
    """Record another story: guards taken away and put back, and all that is computed from it computed anew."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.row_factory = sqlite3.Row
        guards = list(db.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'"))
        db.execute("BEGIN")
        for guard in guards:
            db.execute(f"DROP TRIGGER {guard['name']}")
        streams = {row["key"]: (row["tenant_id"], row["session_id"]) for row in db.execute(STREAMS)}
        story = refitted(change([dict(row) for row in db.execute(ROWS)]), streams)
        db.execute("DELETE FROM events")
        names = list(story[0])
        insert = f"INSERT INTO events ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
        db.executemany(insert, [tuple(event[name] for name in names) for event in story])
        leaves = [event["leaf"] for event in story]
        db.execute("UPDATE tree SET size = ?, frontier = ?", (len(leaves), b"".join(independent.frontier_of(leaves))))
        db.execute("DELETE FROM tiles")
        tiles = [(*place, hashes) for place, hashes in independent.tiles_of(leaves).items()]
        db.executemany("INSERT INTO tiles (level, number, hashes) VALUES (?, ?, ?)", tiles)
        for guard in guards:
            db.execute(guard["sql"])
        db.execute("COMMIT")
    _remove_logs(path)


def refitted(story: Sequence[Event], streams: dict[int, tuple[str, str]]) -> Story:
    """The story with positions, versions and leaves that fit; an event without payload keeps its leaf."""
    versions: dict[int, int] = {}
    fitted = []
    for position, event in enumerate(story, 1):
        version = versions[event["stream"]] = versions.get(event["stream"], 0) + 1
        tenant, session = streams[event["stream"]]
        told = {**event, "position": position, "version": version}
        if told["payload"] is not None:
            committed = independent.commitment_of(told["salt"], told["payload"]).hex()
            record = {**told, "tenant": tenant, "session": session, "commitment": committed}
            told["leaf"] = independent.leaf_of(independent.record_of(record))
        fitted.append(told)
    return fitted


def message_in(story: Story) -> int:
    """The index of a message in the middle."""
    return next(at for at in range(len(story) // 2, len(story)) if story[at]["type"] == "message.appended")


def altered(story: Story) -> Story:
    """A message that says something else, under a new salt."""
    event = story[message_in(story)]
    payload = json.loads(event["payload"])
    payload["message"]["content"] = "I never said that."
    event.update(payload=json.dumps(payload, separators=(",", ":")).encode(), salt=SALT)
    return story


def shortened(story: Story) -> Story:
    """The last event is gone."""
    return story[:-1]


def swapped_between_sessions(story: Story) -> Story:
    """Two neighbours of different sessions the other way round: each session stays as it was."""
    at = next(at for at in range(len(story) // 2, len(story)) if story[at]["stream"] != story[at - 1]["stream"])
    return [*story[: at - 1], story[at], story[at - 1], *story[at + 1 :]]


def swapped_within_a_session(story: Story) -> Story:
    """Two messages of one session have changed what they say."""
    one = message_in(story)
    other = next(
        at
        for at in range(one + 1, len(story))
        if (story[at]["type"], story[at]["stream"]) == (story[one]["type"], story[one]["stream"])
    )
    for name in ("payload", "salt"):
        story[one][name], story[other][name] = story[other][name], story[one][name]
    return story


def inserted(story: Story) -> Story:
    """A message more, in the middle, and all behind it one position later."""
    at = message_in(story)
    payload = json.loads(story[at]["payload"])
    payload["message"].update(id="forged", content="Transfer everything.")
    extra = {**story[at], "payload": json.dumps(payload).encode(), "salt": SALT}
    return [*story[: at + 1], extra, *story[at + 1 :]]


def antedated(story: Story) -> Story:
    """An event that was recorded at another time."""
    story[message_in(story)]["recorded_at"] -= 86_400_000_000
    return story


def by_another(story: Story) -> Story:
    """An event that somebody else is to blame for."""
    story[message_in(story)]["actor"] = "user:mallory"
    return story


@pytest.mark.parametrize(
    "change",
    [altered, shortened, swapped_between_sessions, swapped_within_a_session, inserted, antedated, by_another],
)
def test_another_history_shows_by_an_earlier_head(
    evidence: Evidence, tmp_path: Path, change: Callable[[Story], Story]
) -> None:
    """With salt, commitment, leaf, tree and tiles made to fit, both verifiers see it by the head, and only by that."""
    copy = evidence.copy(tmp_path)
    forge(copy.path, change)
    assert rows_of(copy.path) != rows_of(evidence.path)
    assert_seen_with_head_only(copy)


def test_a_story_told_the_same_way_is_no_forgery(evidence: Evidence, tmp_path: Path) -> None:
    """The forger's own tools write a good ledger where they change nothing: what shows above is the change."""
    copy = evidence.copy(tmp_path)
    forge(copy.path, lambda story: story)
    assert_good(copy)


def test_a_head_that_the_forger_signs_does_not_help(evidence: Evidence, tmp_path: Path) -> None:
    """A head of the forged ledger under a key of his own is refused by the key that the auditor has."""
    copy = evidence.copy(tmp_path)
    forge(copy.path, altered)
    with Store(copy.path) as store:
        forged, key = head_of(store)
    assert key != evidence.key
    assert theirs(copy.path, forged, evidence.key) is not None
    with pytest.raises(UnsoundProof):
        Verifier.of(evidence.key).read(forged)


@pytest.mark.parametrize("commitment_kept", [False, True])
def test_a_payload_that_nobody_erased_is_missed(evidence: Evidence, tmp_path: Path, *, commitment_kept: bool) -> None:
    """Payload and salt gone without a `session.erased` event show by themselves, commitment kept or not."""
    copy = evidence.copy(tmp_path)
    taken: list[tuple[int, bytes]] = []

    def emptied(story: Story) -> Story:
        event = story[message_in(story)]
        taken.append((event["position"], independent.commitment_of(event["salt"], event["payload"])))
        event.update(payload=None, salt=None)
        return story

    forge(copy.path, emptied)
    if commitment_kept:
        with closing(sqlite3.connect(copy.path)) as db, db:
            db.execute("INSERT INTO commitments (position, commitment) VALUES (?, ?)", taken[0])
        _remove_logs(copy.path)
    assert_seen_by_itself(copy)
    found = ours(copy.path, None, None)
    assert found is not None
    assert str(taken[0][0]) in found


@pytest.mark.parametrize(
    "members",
    [
        {"payload": b"{}"},
        {"payload": b"[]"},
        {"payload": b"not JSON"},
        {"payload": b'{"seq":1,"message":{"role":"user","content":"\xff","id":"m"}}'},
        {"type": "message.forged"},
        {"schema": 2},
        {"salt": SALT[:-1]},
        {"salt": SALT + b"\0"},
    ],
    ids=repr,
)
def test_an_event_of_no_known_form_shows_by_itself(evidence: Evidence, tmp_path: Path, members: Event) -> None:
    """Made to fit in everything else, it is still one that no command can have written."""
    copy = evidence.copy(tmp_path)

    def deformed(story: Story) -> Story:
        story[message_in(story)].update(members)
        return story

    forge(copy.path, deformed)
    assert_seen_by_itself(copy)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET payload = CAST(payload || ' ' AS BLOB) WHERE position = 150",
        "UPDATE events SET leaf = zeroblob(32) WHERE position = 150",
        "UPDATE events SET stream = stream + 1 WHERE position = 150",
        "UPDATE events SET version = 1000 WHERE position = 150",
        "UPDATE events SET schema = 2 WHERE position = 150",
        "UPDATE events SET salt = CAST(salt || zeroblob(1) AS BLOB) WHERE position = 150",
        "DELETE FROM events WHERE position = 150",
        "DELETE FROM events WHERE position = (SELECT max(position) FROM events)",
        "DELETE FROM streams WHERE key = (SELECT stream FROM events WHERE position = 150)",
        "UPDATE streams SET session_id = 'x' WHERE key = (SELECT stream FROM events WHERE position = 150)",
        "UPDATE tree SET frontier = CAST(zeroblob(32) || substr(frontier, 33) AS BLOB)",
        "UPDATE tiles SET hashes = zeroblob(32)",
        "DELETE FROM tiles",
        "INSERT INTO tiles (level, number, hashes) VALUES (2, 0, zeroblob(32))",
        "DELETE FROM tree",
        "DELETE FROM ledger",
    ],
)
def test_a_change_that_is_not_made_to_fit_shows_by_itself(evidence: Evidence, tmp_path: Path, statement: str) -> None:
    """One value of one row, without the rest of the work."""
    copy = evidence.copy(tmp_path)
    with closing(sqlite3.connect(copy.path)) as db, db:
        for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'trigger'").fetchall():
            db.execute(f"DROP TRIGGER {name}")
        assert db.execute(statement).rowcount == 1
    _remove_logs(copy.path)
    assert_seen_by_itself(copy)


# ---------------------------------------------------------------- a cut log


@pytest.fixture(scope="module")
def with_wal(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """A copy of a ledger and its WAL as they lie while the ledger is open, taken by another process."""
    folder = tmp_path_factory.mktemp("wal")
    (folder / "open").mkdir()
    with Store(folder / "open" / "ledger.db") as store:
        fill(store, 60)
        head, key = head_of(store)
        for name in ("ledger.db", "ledger.db-wal"):
            # Not from this process: closing the file here would drop SQLite's locks on it.
            subprocess.run(["cp", str(folder / "open" / name), str(folder / name)], check=True)
    return Evidence(folder / "ledger.db", head, key)


def copy_with_wal(evidence: Evidence, folder: Path, cut_bytes: int) -> Evidence:
    """A copy whose WAL has lost that many bytes at its end."""
    copied = evidence.copy(folder)
    log = evidence.path.with_name("ledger.db-wal").read_bytes()
    copied.path.with_name("ledger.db-wal").write_bytes(log[: len(log) - cut_bytes])
    return copied


def test_a_ledger_is_verified_with_its_log(with_wal: Evidence, tmp_path: Path) -> None:
    """What lies in the WAL counts."""
    assert with_wal.path.with_name("ledger.db-wal").stat().st_size
    assert_good(copy_with_wal(with_wal, tmp_path, 0))


@pytest.mark.parametrize("cut_bytes", [1, 8_192, 50_000, 200_000])
def test_a_truncated_log_shows_by_an_earlier_head(with_wal: Evidence, tmp_path: Path, cut_bytes: int) -> None:
    """What is left is a good, shorter ledger, as after a crash: only the head knows that more was acknowledged."""
    copy = copy_with_wal(with_wal, tmp_path, cut_bytes)
    assert len(rows_of(copy.path)) < len(rows_of(copy_with_wal(with_wal, _sub(tmp_path), 0).path))
    assert_seen_with_head_only(copy)


def _sub(folder: Path) -> Path:
    (folder / "whole").mkdir()
    return folder / "whole"


# ---------------------------------------------------------------- what is no tampering


def test_a_good_ledger_passes(evidence: Evidence, tmp_path: Path) -> None:
    """As it is, and as it has grown since the head was signed."""
    copy = evidence.copy(tmp_path)
    assert_good(copy)
    with Store(copy.path) as store:
        store.commit_all(create("later", message("m1"), message("m2")))
    assert_good(copy)


def test_a_head_of_each_size_is_extended(tmp_path: Path) -> None:
    """Heads signed along the way, the one of the empty ledger too, are all extended by the ledger of later."""
    heads = []
    with Store(tmp_path / "ledger.db") as store:
        for number in range(8):
            heads.append(head_of(store))
            store.commit_all(create(f"s{number}", *(message(f"m{at}") for at in range(number))))
    for head, key in heads:
        assert_good(Evidence(tmp_path / "ledger.db", head, key))


def test_an_erased_session_is_no_tampering(evidence: Evidence, tmp_path: Path) -> None:
    """Payloads that an erasure took are not missed, and the head from before it still holds; nor does it hide more."""
    copy = evidence.copy(tmp_path)
    with closing(sqlite3.connect(copy.path)) as db:
        (session,) = db.execute(
            "SELECT session_id FROM streams JOIN events ON key = stream WHERE type = 'session.deleted' LIMIT 1"
        ).fetchone()
    with Store(copy.path) as store:
        store.commit_all(submit(session, EraseSession(reason="asked for")))
        assert erasure.finish(store.committer, wait_ms=1_000)
        signer = signer_of(store.location, store.settings, event_store.identity(store.ledger), events=0)
        _, proof = run(store.audit().proof(session, signer))
    with closing(sqlite3.connect(copy.path)) as db:
        assert db.execute("SELECT count(*) FROM events WHERE payload < x'01'").fetchone()[0] > 2
    _remove_logs(copy.path)
    assert_good(copy)
    events = independent.verify_bundle(proof.decode())["events"]
    assert [event["payload"] is None for event in events] == [True] * (len(events) - 1) + [False]
    assert bundle.check(proof).erased == len(events) - 1
    with closing(sqlite3.connect(copy.path)) as db, db:
        db.execute("DROP TRIGGER commitments_delete")
        db.execute("DELETE FROM commitments WHERE position = (SELECT max(position) FROM commitments)")
    _remove_logs(copy.path)
    assert_seen_by_itself(copy)


def test_edited_views_show_by_a_replay(evidence: Evidence, tmp_path: Path) -> None:
    """The views are no evidence, and verify reads none: `replay --check` compares them with what the events make."""
    copy = evidence.copy(tmp_path)
    with Store(copy.path) as store:
        views = store.views_path
    succeed("replay", "--check", "--database", copy.path, cwd=tmp_path)
    with closing(sqlite3.connect(views)) as db, db:
        assert (
            db.execute("UPDATE messages SET seq = 1000 WHERE position = (SELECT max(position) FROM messages)").rowcount
            == 1
        )
    done = run_command("replay", "--check", "--database", copy.path, cwd=tmp_path)
    assert done.returncode == 1, done.stdout
    assert "difference" in done.stdout
    assert_good(copy)
