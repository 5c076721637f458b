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
BLANK = "payload = zeroblob(length(payload)), salt = zeroblob(16)"
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
    """Payload and salt of earlier events of the stream may become zeros, and nothing else of them changes."""
    before = plain.execute("SELECT position, type, actor, leaf FROM events").fetchall()
    sizes = plain.execute("SELECT length(payload), length(salt) FROM events WHERE position < 4").fetchall()
    erase(plain)
    plain.execute(f"UPDATE events SET {BLANK} WHERE stream = 1 AND version < 4")
    assert plain.execute("SELECT length(payload), length(salt) FROM events WHERE position < 4").fetchall() == sizes
    erased = plain.execute("SELECT position FROM events WHERE payload < x'01' AND salt = zeroblob(16)").fetchall()
    assert erased == [(1,), (2,), (3,)]
    assert plain.execute("SELECT position, type, actor, leaf FROM events WHERE position < 6").fetchall() == before


@pytest.mark.parametrize(
    "sql",
    [
        pytest.param(f"SET {BLANK} WHERE position = 4", id="another stream's event"),
        pytest.param(f"SET {BLANK} WHERE position = 6", id="the erasure itself"),
        pytest.param("SET payload = zeroblob(length(payload)) WHERE position = 1", id="the payload alone"),
        pytest.param("SET salt = zeroblob(16) WHERE position = 1", id="the salt alone"),
        pytest.param("SET payload = NULL, salt = NULL WHERE position = 1", id="NULL, which changes the row's size"),
        pytest.param("SET payload = NULL, salt = zeroblob(16) WHERE position = 1", id="NULL and zeros"),
        pytest.param("SET payload = zeroblob(1), salt = zeroblob(16) WHERE position = 1", id="a shorter payload"),
        pytest.param(
            "SET payload = zeroblob(length(payload) + 1), salt = zeroblob(16) WHERE position = 1", id="longer"
        ),
        pytest.param(
            "SET payload = zeroblob(length(payload)), salt = zeroblob(9) WHERE position = 1", id="a short salt"
        ),
        pytest.param("SET payload = x'7b7d', salt = zeroblob(16) WHERE position = 1", id="another payload"),
        pytest.param(f"SET {BLANK}, actor = 'me' WHERE position = 1", id="the actor too"),
        pytest.param(f"SET {BLANK}, type = 'x' WHERE position = 1", id="the type too"),
        pytest.param(f"SET {BLANK}, request_id = NULL WHERE position = 1", id="the request too"),
        pytest.param(f"SET {BLANK}, recorded_at = 0 WHERE position = 1", id="the time too"),
        pytest.param(f"SET {BLANK}, leaf = x'00' WHERE position = 1", id="the leaf too"),
        pytest.param(f"SET {BLANK}, version = 9 WHERE position = 1", id="the version too"),
        pytest.param(f"SET {BLANK}, position = 9 WHERE position = 1", id="the position too"),
        pytest.param(f"SET {BLANK}, schema = 2 WHERE position = 1", id="the schema too"),
        pytest.param(f"SET {BLANK}, stream = 2 WHERE position = 1", id="the stream too"),
    ],
)
def test_an_erasure_reaches_no_further(plain: apsw.Connection, sql: str) -> None:
    """Even behind a session.erased event only payload and salt of earlier events of that stream go."""
    erase(plain)
    assert_refused(plain, f"UPDATE OR REPLACE events {sql}")


def test_what_is_erased_stays_erased(plain: apsw.Connection) -> None:
    """A payload cannot be put back."""
    erase(plain)
    plain.execute(f"UPDATE events SET {BLANK} WHERE position = 1")
    assert_refused(plain, "UPDATE events SET payload = x'7b7d', salt = zeroblob(16) WHERE position = 1")


def test_an_erased_event_cannot_be_deleted(plain: apsw.Connection) -> None:
    """Erasure is no way round the guard on DELETE."""
    erase(plain)
    assert_refused(plain, "DELETE FROM events WHERE stream = 1")


def erase_message(plain: apsw.Connection, positions: str = "[2]", *, place: str = "6, 1, 4") -> None:
    """Append the event that allows the erasure of single events of the first stream."""
    payload = f'{{"message_id":"m1","seq":1,"positions":{positions},"reason":"r"}}'
    rest = "'message.erased', 1, 0, 'open', ?, zeroblob(16), zeroblob(32)"
    plain.execute(f"INSERT INTO events {EVENT} VALUES ({place}, {rest})", (payload.encode(),))


def test_the_erasure_of_a_message_names_the_events_that_it_lets_through(plain: apsw.Connection) -> None:
    """Those, and no other of the session."""
    erase_message(plain)
    assert plain.execute("SELECT position, by FROM erasable").fetchall() == [(2, 6)]
    assert plain.execute("SELECT position, stream FROM erasures").fetchall() == [(6, 1)]
    plain.execute(f"UPDATE events SET {BLANK} WHERE position = 2")
    for position in (1, 3, 6):
        assert_refused(plain, f"UPDATE events SET {BLANK} WHERE position = {position}")


@pytest.mark.parametrize(
    "positions",
    [
        pytest.param("[1]", id="the session's creation"),
        pytest.param("[5]", id="another session's message"),
        pytest.param("[6]", id="itself"),
        pytest.param("[7]", id="a later event"),
        pytest.param('["2"]', id="text"),
        pytest.param("[2.5]", id="half a number"),
        pytest.param("[null]", id="null"),
        pytest.param("[]", id="none"),
    ],
)
def test_only_earlier_messages_of_the_session_become_erasable(plain: apsw.Connection, positions: str) -> None:
    """Whatever else an event names is let through by nothing."""
    erase_message(plain, positions)
    assert plain.execute("SELECT count(*) FROM erasable").get == 0


@pytest.mark.parametrize(
    "sql",
    [
        pytest.param("INSERT INTO erasable VALUES (3, 6)", id="an event that is not named"),
        pytest.param("INSERT INTO erasable VALUES (5, 6)", id="another session's"),
        pytest.param("INSERT INTO erasable VALUES (2, 5)", id="by an event that erases nothing"),
        pytest.param("INSERT INTO erasable VALUES (2, 9)", id="by an event that is not there"),
        pytest.param("REPLACE INTO erasable VALUES (2, 6)", id="once more"),
        pytest.param("UPDATE erasable SET position = 3", id="another position"),
        pytest.param("UPDATE OR REPLACE erasable SET by = 5", id="another reason"),
        pytest.param("DELETE FROM erasable", id="none any more"),
    ],
)
def test_what_may_be_erased_cannot_be_changed(plain: apsw.Connection, sql: str) -> None:
    """Only the event itself says it."""
    erase_message(plain)
    assert_refused(plain, sql)


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE commitments SET commitment = zeroblob(32)",
        "DELETE FROM commitments",
        "REPLACE INTO commitments VALUES (1, zeroblob(32))",
        "INSERT INTO commitments VALUES (1, x'00') ON CONFLICT DO UPDATE SET commitment = x'00'",
    ],
)
def test_the_commitments_of_erased_events_cannot_be_changed(plain: apsw.Connection, sql: str) -> None:
    """They are all that is left to check these events by."""
    plain.execute("INSERT INTO commitments VALUES (1, zeroblob(32))")
    assert_refused(plain, sql)


def test_a_session_that_is_made_in_pieces_is_noted_until_it_is_whole(plain: apsw.Connection) -> None:
    """Whoever appends its creation; with the stream that it copies, if it is a fork."""
    plain.execute("INSERT INTO streams VALUES (3, 'default', 'fork'), (4, 'default', 'import')")
    made = "'session.created', 1, 0, 'open', ?, zeroblob(16), zeroblob(32)"
    fork = b'{"forked_from":{"session_id":"two","version":2},"visible_at":3}'
    plain.execute(f"INSERT INTO events {EVENT} VALUES (6, 3, 1, {made})", (fork,))
    plain.execute(f"INSERT INTO events {EVENT} VALUES (7, 4, 1, {made})", (b'{"visible_at":9}',))
    assert plain.execute("SELECT stream, visible_at, source FROM unfinished").fetchall() == [(3, 3, 2), (4, 9, None)]


def test_an_erased_creation_of_a_copied_ledger_says_nothing(plain: apsw.Connection) -> None:
    """A restore copies zeros, which are no JSON, and they pass the triggers."""
    plain.execute("INSERT INTO streams VALUES (3, 'default', 'gone')")
    for position, kind in ((6, "session.created"), (7, "message.erased")):
        gone = f"'{kind}', 1, 0, 'open', zeroblob(30), zeroblob(16), zeroblob(32)"
        plain.execute(f"INSERT INTO events {EVENT} VALUES ({position}, 3, {position - 5}, {gone})")
    assert (
        plain.execute("SELECT count(*) FROM unfinished").get == plain.execute("SELECT count(*) FROM erasable").get == 0
    )
