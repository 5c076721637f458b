"""A ledger of an older schema is brought up to date when it is opened, and what it held is as before."""

import hashlib
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from chatledger.domain.commands import EraseSession
from chatledger.errors import IdempotencyMismatch, NotFound
from chatledger.ledger import event_store, idempotency_store, tree_store
from chatledger.ledger.idempotency_store import IdempotencyKey
from chatledger.proofs.verification import verify_ledger
from chatledger.storage import ledger_file, sql_errors
from support.canary import CANARY, found_beside_views
from support.old_ledgers import erase_as_before, migrations, older_ledger, remember_as_before
from support.store import Store, append, create, delete, message, submit
from support.tables import dump, dump_rebuilt

OLD = range(1, ledger_file.newest_schema())


@pytest.mark.parametrize("schema", OLD)
def test_an_older_ledger_is_brought_up_to_date(tmp_path: Path, schema: int) -> None:
    """It gets the tree over its leaves with all tiles, verifies, goes on, and its events are untouched."""
    with Store(tmp_path / "today.db") as store:
        store.commit_all(create("s", *(message(f"m{number}") for number in range(300))), create("t"), delete("t"))
        rows = store.ledger.execute("SELECT * FROM events ORDER BY position").fetchall()
        root = tree_store.read(store.ledger).root()
    older_ledger(tmp_path / "today.db", tmp_path / "old.db", schema)
    with Store(tmp_path / "old.db") as store:
        assert store.ledger.pragma("user_version") == ledger_file.newest_schema()
        assert store.ledger.execute("SELECT * FROM events ORDER BY position").fetchall() == rows
        assert verify_ledger(store.ledger).root() == root
        store.commit_all(append("s", message("later")))
        assert verify_ledger(store.ledger).size == len(rows) + 1
        assert dump(store.views.db) == dump_rebuilt(store, tmp_path)


def test_schema_numbers_have_no_gap() -> None:
    """1, 2, 3 …: a ledger knows by one number which of them it has seen."""
    assert [number for number, _ in migrations()] == list(range(1, ledger_file.newest_schema() + 1))


def old_with_keys(tmp_path: Path) -> Path:
    """A ledger of schema 4: session `s` of one message, `b` of a batch, `e` erased, each with a key of old."""
    with Store(tmp_path / "today.db") as store:
        store.commit_all(create("s", message("m1", "hello")), create("b"), append("b", message("m1"), message("m2")))
        store.commit_all(create("e", message("m1", CANARY)), submit("e", EraseSession("r")))
    path = tmp_path / "old.db"
    older_ledger(tmp_path / "today.db", path, 4)
    remember_as_before(path, "made", b"made s", stream=1, version=2, positions=None)
    remember_as_before(path, "batch", b"batch b", stream=2, version=3, positions="[[4,5]]")
    remember_as_before(path, "gone", CANARY.encode(), stream=3, version=2, positions=None)
    remember_as_before(path, "erase", b"erase e", stream=3, version=3, positions=None)
    erase_as_before(path, 3)
    return path


def key(name: str, request: bytes) -> IdempotencyKey:
    """As a request of old shows it again."""
    return IdempotencyKey(name, hashlib.sha256(request).digest())


def test_keys_of_old_are_known_and_their_hashes_are_gone(tmp_path: Path) -> None:
    """The same request finds its answer, another one is refused, and no guess can be held against the file."""
    path = old_with_keys(tmp_path)
    with Store(path) as store:
        made = idempotency_store.find(store.ledger, "default", key("made", b"made s"))
        assert made is not None
        assert (made.stream, made.version, made.positions) == (1, 2, None)
        batch = idempotency_store.find(store.ledger, "default", key("batch", b"batch b"))
        assert batch is not None
        assert batch.positions == [4, 5]
        assert idempotency_store.find(store.ledger, "default", key("erase", b"erase e")) is not None
        with pytest.raises(IdempotencyMismatch):
            idempotency_store.find(store.ledger, "default", key("made", b"another"))
        with pytest.raises(NotFound):
            idempotency_store.find(store.ledger, "default", key("gone", CANARY.encode()))
    for request in (b"made s", b"batch b", CANARY.encode(), b"erase e"):
        assert hashlib.sha256(request).digest() not in contents(path)


def contents(path: Path) -> bytes:
    """All bytes of a closed ledger."""
    return b"".join(each.read_bytes() for each in sorted(path.parent.glob(path.name + "*")) if each.is_file())


def test_rows_that_were_erased_before_are_read_verified_and_exported(tmp_path: Path) -> None:
    """Their payloads are NULL, and stay so."""
    with Store(old_with_keys(tmp_path)) as store:
        rows = store.ledger.execute("SELECT payload, salt FROM events WHERE stream = 3 ORDER BY version").fetchall()
        assert rows[:2] == [(None, None)] * 2
        assert verify_ledger(store.ledger).size == 8
        records = list(event_store.read_stream(store.ledger, 3))
        assert [record.payload for record in records] == [None, None, b'{"reason":"r"}']
        with pytest.raises(sql_errors.SQLError):
            store.ledger.execute("UPDATE events SET payload = x'', salt = zeroblob(16) WHERE stream = 3")


def test_a_small_old_ledger_loses_the_copies_that_page_splits_have_made(tmp_path: Path) -> None:
    """Rows of the first page are copied when it becomes the root: VACUUM with `secure_delete` takes them away."""
    path = tmp_path / "old.db"
    with Store(tmp_path / "today.db") as store:
        store.commit_all(create("s", *(message(f"m{number}", f"{CANARY} {number}") for number in range(40))))
    older_ledger(tmp_path / "today.db", path, 4)
    with Store(path) as store:
        store.commit_all(submit("s", EraseSession("r")))
        store.finish_erasures()
        assert [name for name in found_beside_views(tmp_path) if name.startswith("old.db")] == []


def test_a_ledger_of_today_is_not_written_anew(tmp_path: Path) -> None:
    """Opening it again changes nothing."""
    with Store(tmp_path / "ledger.db") as store:
        store.commit_all(create("s"))
    with closing(apsw.Connection(str(tmp_path / "ledger.db"))) as db:
        before = db.pragma("schema_version")
    with Store(tmp_path / "ledger.db") as store:
        assert store.ledger.pragma("schema_version") == before
