"""The ledger's own guards against any SQL client (rule 2): a connection with none of our settings."""

# the SQL is made of the cases

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from support.store import Store, append, create, message
from support.tables import dump

EVENT = "(position, stream, version, type, schema, recorded_at, actor, payload, salt, leaf)"
NEXT = "'session.deleted', 1, 0, 'thief', x'7b7d', zeroblob(16), zeroblob(32)"
ERASED = "'session.erased', 1, 0, 'open', x'7b22726561736f6e223a22227d', zeroblob(16), zeroblob(32)"


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[apsw.Connection]:
    """Two sessions: positions 1 to 3 in stream 1, 4 and 5 in stream 2; opened by somebody else's tool."""
    with Store(tmp_path / "ledger.db") as store:
        store.commit_all(create("one", message("m1")), append("one", message("m2")), create("two", message("m1")))
    connection = apsw.Connection(str(tmp_path / "ledger.db"))
    yield connection
    connection.close()


def assert_refused(plain: apsw.Connection, sql: str) -> None:
    """*sql* is refused and nothing is changed by it."""
    before = dump(plain)
    with pytest.raises(apsw.ConstraintError):
        plain.execute(sql)
    assert dump(plain) == before


def test_the_tool_has_none_of_our_settings(plain: apsw.Connection) -> None:
    """Without `recursive_triggers` a REPLACE fires no delete trigger: the guards must hold all the same."""
    assert not plain.pragma("recursive_triggers")
    assert not plain.pragma("foreign_keys")
    assert dump(plain)["events"][-1][:3] == (5, 2, 2)


@pytest.mark.parametrize("conflict", ["", "OR REPLACE", "OR IGNORE", "OR FAIL", "OR ROLLBACK"])
@pytest.mark.parametrize(
    "change",
    [
        "payload = x'7b7d'",
        "payload = NULL",
        "payload = NULL, salt = NULL",
        "actor = 'me'",
        "recorded_at = recorded_at",
        "position = 9",
        "position = 2",
        "version = 9",
        "leaf = zeroblob(32)",
        "rowid = 9",
    ],
)
def test_an_event_cannot_be_updated(plain: apsw.Connection, change: str, conflict: str) -> None:
    """No column of an event can be set, whatever the conflict clause, not even to what it is."""
    assert_refused(plain, f"UPDATE {conflict} events SET {change} WHERE position = 1")


@pytest.mark.parametrize("where", ["position = 1", "position = 5", "1"])
def test_an_event_cannot_be_deleted(plain: apsw.Connection, where: str) -> None:
    """Neither the first, nor the last, nor all."""
    assert_refused(plain, f"DELETE FROM events WHERE {where}")


def test_all_events_cannot_be_deleted_at_once(plain: apsw.Connection) -> None:
    """The truncate optimisation does not pass by the guard."""
    assert_refused(plain, "DELETE FROM events")


@pytest.mark.parametrize("verb", ["INSERT", "INSERT OR REPLACE", "REPLACE", "INSERT OR IGNORE", "INSERT OR FAIL"])
@pytest.mark.parametrize(
    "place",
    [
        pytest.param("1, 1, 1", id="the first event again"),
        pytest.param("5, 2, 2", id="the last event again"),
        pytest.param("6, 2, 2", id="a version that is taken"),
        pytest.param("5, 2, 3", id="a position that is taken"),
        pytest.param("7, 2, 3", id="a gap in the positions"),
        pytest.param("6, 2, 4", id="a gap in the versions"),
        pytest.param("6, 3, 2", id="a new stream that begins with version 2"),
        pytest.param("6, 3, 0", id="version 0"),
        pytest.param("0, 2, 3", id="position 0"),
        pytest.param("-1, 2, 3", id="a negative position"),
        pytest.param("NULL, 2, 3", id="no position"),
        pytest.param("6, 2, NULL", id="no version"),
    ],
)
def test_an_event_cannot_be_inserted_but_at_the_next_place(plain: apsw.Connection, verb: str, place: str) -> None:
    """Positions and versions have no gap and no event is replaced, whatever the conflict clause."""
    assert_refused(plain, f"{verb} INTO events {EVENT} VALUES ({place}, {NEXT})")


def test_an_upsert_cannot_change_an_event(plain: apsw.Connection) -> None:
    """ON CONFLICT DO UPDATE meets the guard on INSERT first."""
    upsert = f"INSERT INTO events {EVENT} VALUES (5, 2, 2, {NEXT}) ON CONFLICT DO UPDATE SET actor = 'thief'"
    assert_refused(plain, upsert)


def test_many_rows_cannot_hide_a_gap(plain: apsw.Connection) -> None:
    """Each row of a statement is looked at, with those before it in place."""
    assert_refused(plain, f"INSERT INTO events {EVENT} VALUES (6, 2, 3, {NEXT}), (8, 2, 4, {NEXT})")


def test_the_next_event_is_let_through(plain: apsw.Connection) -> None:
    """The guards refuse what they are for, not everything."""
    plain.execute(f"INSERT INTO events {EVENT} VALUES (6, 2, 3, {NEXT}), (7, 1, 4, {NEXT})")
    assert plain.execute("SELECT max(position) FROM events").get == 7


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE streams SET tenant_id = 'other' WHERE key = 1",
        "UPDATE OR REPLACE streams SET key = 2 WHERE key = 1",
        "DELETE FROM streams",
        "DELETE FROM streams WHERE key = 1",
        "REPLACE INTO streams VALUES (1, 'default', 'stolen')",
        "REPLACE INTO streams VALUES (3, 'default', 'one')",
        "INSERT OR IGNORE INTO streams VALUES (1, 'default', 'stolen')",
        "INSERT INTO streams VALUES (1, 'a', 'b') ON CONFLICT DO UPDATE SET tenant_id = 'other'",
        "UPDATE ledger SET id = 'another'",
        "DELETE FROM ledger",
        "REPLACE INTO ledger VALUES (1, 'another', 0)",
        "INSERT INTO ledger VALUES (2, 'another', 0)",
    ],
)
def test_streams_and_the_ledgers_identity_cannot_be_changed(plain: apsw.Connection, sql: str) -> None:
    """Whose events they are is as immutable as the events."""
    assert_refused(plain, sql)


def erase(plain: apsw.Connection) -> None:
    """Append the event that allows the erasure of the first stream."""
    plain.execute(f"INSERT INTO events {EVENT} VALUES (6, 1, 4, {ERASED})")


def test_an_erasure_is_let_through_behind_its_event(plain: apsw.Connection) -> None:
    """Payload and salt of earlier events of the stream may become NULL, and nothing else of them changes."""
    before = plain.execute("SELECT position, type, actor, leaf FROM events").fetchall()
    erase(plain)
    plain.execute("UPDATE events SET payload = NULL, salt = NULL WHERE stream = 1 AND version < 4")
    erased = plain.execute("SELECT position FROM events WHERE payload IS NULL AND salt IS NULL").fetchall()
    assert erased == [(1,), (2,), (3,)]
    assert plain.execute("SELECT position, type, actor, leaf FROM events WHERE position < 6").fetchall() == before


@pytest.mark.parametrize(
    "sql",
    [
        pytest.param("SET payload = NULL, salt = NULL WHERE position = 4", id="another stream's event"),
        pytest.param("SET payload = NULL, salt = NULL WHERE position = 6", id="the erasure itself"),
        pytest.param("SET payload = NULL WHERE position = 1", id="the payload alone"),
        pytest.param("SET salt = NULL WHERE position = 1", id="the salt alone"),
        pytest.param("SET payload = x'7b7d', salt = NULL WHERE position = 1", id="another payload"),
        pytest.param("SET payload = NULL, salt = NULL, actor = 'me' WHERE position = 1", id="the actor too"),
        pytest.param("SET payload = NULL, salt = NULL, type = 'x' WHERE position = 1", id="the type too"),
        pytest.param("SET payload = NULL, salt = NULL, request_id = NULL WHERE position = 1", id="the request too"),
        pytest.param("SET payload = NULL, salt = NULL, recorded_at = 0 WHERE position = 1", id="the time too"),
        pytest.param("SET payload = NULL, salt = NULL, leaf = x'00' WHERE position = 1", id="the leaf too"),
        pytest.param("SET payload = NULL, salt = NULL, version = 9 WHERE position = 1", id="the version too"),
        pytest.param("SET payload = NULL, salt = NULL, position = 9 WHERE position = 1", id="the position too"),
        pytest.param("SET payload = NULL, salt = NULL, schema = 2 WHERE position = 1", id="the schema too"),
        pytest.param("SET payload = NULL, salt = NULL, stream = 2 WHERE position = 1", id="the stream too"),
    ],
)
def test_an_erasure_reaches_no_further(plain: apsw.Connection, sql: str) -> None:
    """Even behind a session.erased event only payload and salt of earlier events of that stream go."""
    erase(plain)
    assert_refused(plain, f"UPDATE OR REPLACE events {sql}")


def test_what_is_erased_stays_erased(plain: apsw.Connection) -> None:
    """A payload cannot be put back."""
    erase(plain)
    plain.execute("UPDATE events SET payload = NULL, salt = NULL WHERE position = 1")
    assert_refused(plain, "UPDATE events SET payload = x'7b7d', salt = zeroblob(16) WHERE position = 1")


def test_an_erased_event_cannot_be_deleted(plain: apsw.Connection) -> None:
    """Erasure is no way round the guard on DELETE."""
    erase(plain)
    assert_refused(plain, "DELETE FROM events WHERE stream = 1")
