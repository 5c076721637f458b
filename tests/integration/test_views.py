"""The views are disposable: lost, damaged or foreign ones are built anew, with the same rows."""

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import given as for_all
from hypothesis import strategies as st

from chatledger.domain.events import (
    Event,
    EventData,
    ForkedFrom,
    MessageAppended,
    MessageRemoved,
    SessionCreated,
    SessionDeleted,
    SessionErased,
    SessionRestored,
    SessionUpdated,
)
from chatledger.domain.session import evolve
from chatledger.domain.timestamps import parse_us
from chatledger.errors import LedgerDamaged, SessionExists, SettingsError
from chatledger.storage.sql_errors import SQLError
from chatledger.views import apply_triggers
from chatledger.writing.command_group import Committed, Submission
from chatledger_projections import sessions, tenant_events
from chatledger_projections.projection import Projection, load
from support.example_projection import ROLES
from support.scenario import START_US, History, given, rows_after
from support.store import Store, append, changes_of, create, delete, message, remove, update
from support.tables import Rows, dump, dump_rebuilt, wrong_leaves


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    """A closed ledger with a little of everything, and its views beside it."""
    path = tmp_path / "ledger.db"
    with Store(path) as store:
        fill(store)
    return path


def fill(store: Store) -> None:
    """A little of everything."""
    store.commit_all(create("s", message("m1"), message("m2"), title="T"), create("s", tenant="b"))
    store.commit_all(append("s", message("m3")), remove("s", "m1"), update("s", title=None, traits={"a": 1}))
    store.commit_all(create("gone", message("m1")), delete("gone"))
    store.commit_all(*(append("s", message(f"n{number}", "x" * 500)) for number in range(100)))


def tables_of(path: Path) -> dict[str, Rows]:
    """The rows of the views, after they were opened without a rebuild."""
    with Store(path) as store:
        assert store.rebuilt is None
        return dump(store.views.db)


def views_of(path: Path) -> Path:
    """The one views file beside a closed ledger."""
    (found,) = path.parent.glob("*.views.*.db")
    return found


def assert_built_anew(path: Path, before: dict[str, Rows], reason: str) -> None:
    """Opening builds the views anew, into one file with the same rows, and the next opening does not."""
    with Store(path) as store:
        assert store.rebuilt is not None
        assert reason in store.rebuilt
        assert dump(store.views.db) == before
        store.commit_all(append("s", message("after")))
    assert views_of(path).exists()
    tables_of(path)


def test_views_that_are_there_are_used(ledger: Path) -> None:
    """No rebuild without a reason; what they show is what a rebuild would."""
    before = tables_of(ledger)
    with Store(ledger) as store:
        assert store.rebuilt is None
        assert dump_rebuilt(store, ledger.parent) == before


def test_missing_views_are_built(ledger: Path) -> None:
    """Deleting them is a way to have them built anew."""
    before = tables_of(ledger)
    views_of(ledger).unlink()
    assert_built_anew(ledger, before, "no views")


def overwrite_middle(path: Path) -> None:
    """Noise in the middle of the file."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8192] = b"\xa5" * 8192
    path.write_bytes(content)


def truncate(path: Path) -> None:
    """Half of the file."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def put_garbage(path: Path) -> None:
    """Text."""
    path.write_bytes(b"Dear diary\n" * 1000)


def empty(path: Path) -> None:
    """No byte."""
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [overwrite_middle, truncate, put_garbage, empty])
def test_damaged_views_are_built_anew(ledger: Path, damage: Callable[[Path], None]) -> None:
    """Overwritten, truncated, no database, empty: the rows are those of before."""
    before = tables_of(ledger)
    damage(views_of(ledger))
    assert_built_anew(ledger, before, "views")


def test_views_ahead_of_the_ledger_are_built_anew(ledger: Path) -> None:
    """An older ledger was put back: what it does not have is not shown."""
    old = ledger.with_name("old")
    shutil.copy(ledger, old)
    before = tables_of(ledger)
    with Store(ledger) as store:
        store.commit_all(append("s", message("later")))
    shutil.move(old, ledger)
    assert_built_anew(ledger, before, "ahead")


def test_views_of_another_history_of_the_same_length_are_built_anew(ledger: Path) -> None:
    """The same ledger restored and continued otherwise: the same position with another leaf."""
    other = ledger.with_name("other")
    shutil.copy(ledger, other)
    with Store(ledger) as store:
        store.commit_all(append("s", message("one")))
    views = views_of(ledger)
    views.rename(ledger.with_name("kept"))
    shutil.move(other, ledger)
    with Store(ledger) as store:
        store.commit_all(append("s", message("another")))
        before = dump(store.views.db)
    ledger.with_name("kept").replace(views_of(ledger))
    assert_built_anew(ledger, before, "ahead")


def test_views_of_another_ledger_are_built_anew(ledger: Path, tmp_path: Path) -> None:
    """However alike the two are."""
    before = tables_of(ledger)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    with Store(folder / "ledger.db") as store:
        fill(store)
    shutil.copy(views_of(folder / "ledger.db"), views_of(ledger))
    assert_built_anew(ledger, before, "another ledger")


def test_views_behind_the_ledger_catch_up_without_a_rebuild(ledger: Path) -> None:
    """A crash between the two commits leaves them so."""
    views = views_of(ledger)
    shutil.copy(views, ledger.with_name("kept"))
    with Store(ledger) as store:
        store.commit_all(append("s", message("later")), create("new"))
        before = dump(store.views.db)
    ledger.with_name("kept").replace(views)
    assert tables_of(ledger) == before


def test_a_changed_projection_is_built_anew(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its version; nobody has to think of it."""
    first = built_in()[0]
    newer = msgspec.structs.replace(first, version=first.version + 1)
    before = tables_of(ledger)
    with monkeypatch.context() as patch:
        patch.setattr("chatledger.views.live_views.BUILT_IN", (newer, *built_in()[1:]))
        with Store(ledger) as store:
            assert store.rebuilt == "the projections have changed"
            found = dump(store.views.db)
    assert {name: rows for name, rows in found.items() if name != "views"} == {
        name: rows for name, rows in before.items() if name != "views"
    }
    with Store(ledger) as store:
        assert store.rebuilt == "the projections have changed"


def built_in() -> tuple[Projection, ...]:
    """The projections of today."""
    from chatledger.views import live_views  # noqa: PLC0415  # its value now, before a test changes it

    return live_views.BUILT_IN


@pytest.mark.parametrize("healthy", [True, False])
def test_what_a_crash_in_a_rebuild_left_is_removed(ledger: Path, *, healthy: bool) -> None:
    """Whether the views beside it can be used or not; a half-built file is never shown."""
    before = tables_of(ledger)
    views = views_of(ledger)
    for name in (
        "000001.db.building",
        "000002.db.building",
        "000002.db.building-wal",
        "000002.db.building-journal",
    ):
        views.with_name(views.name.replace("000001.db", name)).write_bytes(b"half of it")
    if not healthy:
        views.unlink()
    with Store(ledger) as store:
        assert (store.rebuilt is None) is healthy
        assert dump(store.views.db) == before
    assert [path.name for path in ledger.parent.iterdir() if "building" in path.name] == []


def test_older_generations_are_removed(ledger: Path) -> None:
    """A crash behind the swap leaves two: the newer one counts."""
    with Store(ledger) as store:
        old, content = store.views_path, b"anything"
        store.views.rebuild(store.ledger)
        assert store.views_path != old
        assert not old.exists()
        before = dump(store.views.db)
    old.write_bytes(content)
    assert tables_of(ledger) == before
    assert not old.exists()


def test_a_rebuild_shows_what_was_there_and_goes_on(store: Store) -> None:
    """While serving: the same rows, and what is committed afterwards comes on top."""
    fill(store)
    before = dump(store.views.db)
    store.views.rebuild(store.ledger)
    assert dump(store.views.db) == before
    store.commit_all(append("s", message("after")))
    assert dump(store.views.db) != before


@pytest.mark.parametrize("beyond", [1, 1000])
def test_views_are_not_taken_beyond_the_ledgers_end(store: Store, beyond: int) -> None:
    """A batch has to be a run of events that are there: otherwise nothing is changed."""
    fill(store)
    before = dump(store.views.db)
    with pytest.raises(SQLError, match="run of known events"):
        store.views.db.execute(apply_triggers.TAKE_TO, (store.views.position + beyond,))
    assert dump(store.views.db) == before


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        ("UPDATE events SET type = 'message.invented' WHERE position = 4", "position 4 .*unknown"),
        ("UPDATE events SET schema = 2 WHERE position = 4", "position 4 .*schema 2"),
        ("UPDATE events SET payload = x'7b' WHERE position = 4", "position 4 cannot be read"),
        ("""UPDATE events SET payload = CAST('{"a":1}' AS BLOB) WHERE position = 3""", "position 3 cannot be read"),
        ("DELETE FROM events WHERE position = 4", "gap"),
    ],
)
def test_a_ledger_that_cannot_be_read_is_not_built_from(ledger: Path, damage: str, what: str) -> None:
    """The event is named, whether the views are made anew or behind; the views that were there stay."""
    with Store(ledger) as store:
        before = dump(store.views.db)
        for guard in ("events_update", "events_delete"):
            store.ledger.execute(f"DROP TRIGGER {guard}")
        store.ledger.execute(damage)
        with pytest.raises(LedgerDamaged, match=what):
            store.views.rebuild(store.ledger)
        assert dump(store.views.db) == before


# A projection of one's own: tests/support/example_projection.py is what a user would write.


def test_a_projection_of_ones_own_works_live_and_in_a_rebuild(tmp_path: Path) -> None:
    """Named in CHATLEDGER_PROJECTIONS; adding it rebuilds, and both ways count the same."""
    path = tmp_path / "ledger.db"
    with Store(path) as store:
        store.commit_all(create("s", message("m1"), message("m2", role="system")), create("s", tenant="b"))
    projections = load("support.example_projection:ROLES")
    assert projections == [ROLES]
    with Store(path, projections=projections) as store:
        assert store.rebuilt == "the projections have changed"
        store.commit_all(append("s", message("m3")), append("s", message("m1"), tenant="b"))
        live = dump(store.views.db)
        assert live["roles"] == [("b", "user", 1), ("default", "system", 1), ("default", "user", 2)]
        assert dump_rebuilt(store, tmp_path) == live
    with Store(path) as store:
        assert store.rebuilt == "the projections have changed"
        assert "roles" not in dump(store.views.db)


@pytest.mark.parametrize(
    "names",
    [
        "nowhere:X",
        "support.example_projection:NOTHING",
        "support.example_projection:TABLES",
        "support",
        ":X",
        "a b:c",
    ],
)
def test_a_name_that_leads_to_no_projection_is_refused(names: str) -> None:
    """With the name."""
    with pytest.raises(SettingsError, match="CHATLEDGER_PROJECTIONS"):
        load(names)


@pytest.mark.parametrize(("names", "count"), [("", 0), (" , ", 0), (" support.example_projection:ROLES ,", 1)])
def test_projections_are_separated_by_commas(names: str, count: int) -> None:
    """White space is nothing."""
    assert len(load(names)) == count


# given / when / then


def said(seq: int, message_id: str) -> MessageAppended:
    """A message of a fixed time."""
    return MessageAppended(seq, message(message_id, created_at="2024-05-15T15:00:00Z"))


COUNTS = "SELECT id, version, message_count, last_seq, last_position FROM sessions ORDER BY key"
BODIES = "SELECT id, seq, payload ->> '$.message.content' FROM messages ORDER BY position"


def test_a_created_session_has_a_row() -> None:
    """As its event says; its times are the event's."""
    history = History()
    given().when(history.add("s", SessionCreated(user_id="u", title="T"))).then(
        "SELECT id, tenant_id, user_id, title, traits, archived, created_at, last_message_at FROM sessions",
        [("s", "default", "u", "T", "{}", 0, START_US + 1_000_000, None)],
    )


def test_messages_count_until_they_are_removed() -> None:
    """`message_count` falls, `last_seq` does not; a removed one keeps its id and loses its body."""
    history = History()
    before = history.add("s", SessionCreated(), said(1, "m1"), said(2, "m2"))
    scenario = given(before).then(COUNTS, [("s", 3, 2, 2, 3)])
    scenario.when(history.add("s", MessageRemoved("m2"))).then(COUNTS, [("s", 4, 1, 2, 4)])
    scenario.then(BODIES, [("m1", 1, "Hello"), ("m2", 2, None)])


def test_a_message_added_and_removed_in_one_batch_is_removed() -> None:
    """The order within a batch counts."""
    history = History()
    events = history.add("s", SessionCreated(), said(1, "m1"), MessageRemoved("m1"))
    given().when(events).then(BODIES, [("m1", 1, None)]).then(COUNTS, [("s", 3, 0, 1, 3)])


def test_a_patch_changes_what_it_names() -> None:
    """Null takes a member back to its default."""
    history = History()
    before = history.add("s", SessionCreated(user_id="u", title="T", traits=msgspec.Raw(b'{"a":1}')))
    patch = changes_of({"title": None, "traits": {"b": 2}, "archived": True})
    given(before).when(history.add("s", SessionUpdated(patch))).then(
        "SELECT user_id, title, traits, archived, version FROM sessions", [("u", None, '{"a":1,"b":2}', 1, 2)]
    )


def test_a_deleted_session_is_hidden_and_keeps_its_rows() -> None:
    """One row changes, however long it was; its neighbour is as before, and restoring it is one row again."""
    history = History()
    before = history.add("s", SessionCreated(), said(1, "m1")) + history.add("t", SessionCreated(), said(1, "m1"))
    scenario = given(before).when(history.add("s", SessionDeleted()))
    scenario.then("SELECT id FROM live_sessions", [("t",)]).then("SELECT session_id FROM live_messages", [(2,)])
    scenario.then("SELECT hidden, message_count FROM sessions WHERE id = 's'", [(sessions.DELETED, 1)])
    scenario.then("SELECT session_id, id FROM messages", [(1, "m1"), (2, "m1")])
    assert sessions.find(scenario.db, "default", "s") is None
    assert tenant_events.positions(scenario.db, "default", after=0, limit=10) == [1, 2, 3, 4, 5]
    scenario.when(history.add("s", SessionRestored()))
    scenario.then("SELECT session_id, id FROM live_messages", [(1, "m1"), (2, "m1")])


def test_an_erased_session_is_one_row_that_says_so() -> None:
    """Nothing that it said is in the row, and its id stays there; the messages go in steps of their own."""
    history = History()
    created = SessionCreated(user_id="u", title="T", traits=msgspec.Raw(b'{"a":1}'), forked_from=ForkedFrom("f", 1))
    scenario = given(history.add("s", created, said(1, "m1"))).when(history.add("s", SessionErased("GDPR")))
    scenario.then(
        "SELECT id, hidden, version, user_id, title, traits, message_count, forked_from_session_id FROM sessions",
        [("s", sessions.ERASED, 3, None, None, "{}", 0, None)],
    )
    scenario.then("SELECT id FROM live_sessions", [])


def test_a_session_that_begins_and_ends_in_one_batch_is_hidden() -> None:
    """As if there had been more batches."""
    history = History()
    scenario = given().when(history.add("s", SessionCreated(), said(1, "m1"), SessionDeleted()))
    scenario.then("SELECT id FROM live_sessions", []).then("SELECT hidden FROM sessions", [(sessions.DELETED,)])


def test_readers_see_a_session_once_all_of_its_making_is_there() -> None:
    """`visible_at` is the version: in one batch or in many."""
    history = History()
    scenario = given(history.add("s", SessionCreated(visible_at=3), said(1, "m1")))
    scenario.then("SELECT id FROM live_sessions", []).then("SELECT hidden FROM sessions", [(sessions.UNFINISHED,)])
    scenario.when(history.add("s", said(2, "m2")))
    scenario.then("SELECT id, version, message_count FROM live_sessions", [("s", 3, 2)])
    at_once = given().when(History().add("t", SessionCreated(visible_at=2), said(1, "m1")))
    at_once.then("SELECT id FROM live_sessions", [("t",)])


def test_the_last_message_is_the_newest_that_readers_see() -> None:
    """A removal goes back to the one before it by number, whatever it says of its time; none is none."""
    history = History()
    first = MessageAppended(1, message("m1", created_at="2030-01-01T00:00:00.500000Z"))
    scenario = given(history.add("s", SessionCreated(), first, said(2, "m2"), said(3, "m3")))
    scenario.when(history.add("s", MessageRemoved("m2"), MessageRemoved("m3")))
    scenario.then("SELECT last_message_at FROM sessions", [(parse_us("2030-01-01T00:00:00.500000Z"),)])
    scenario.when(history.add("s", MessageRemoved("m1")))
    scenario.then("SELECT last_message_at, message_count, last_seq FROM sessions", [(None, 0, 3)])


def test_a_fork_names_its_source() -> None:
    """And is a session like any other."""
    history = History()
    given().when(history.add("f", SessionCreated(forked_from=ForkedFrom("s", 7)))).then(
        "SELECT forked_from_session_id, forked_from_version FROM sessions", [("s", 7)]
    )


def test_erased_events_leave_no_trace() -> None:
    """What a rebuild behind an erasure gets: events without data, and the erasure."""
    history = History()
    events = history.add("s", SessionCreated(), said(1, "m1"), SessionDeleted(), SessionErased("GDPR"))
    erased = [msgspec.structs.replace(event, data=None) for event in events[:-1]]
    for batches in ([[*erased, events[-1]]], [[event] for event in (*erased, events[-1])]):
        rows = rows_after(batches)
        assert rows["messages"] == []
        assert [(row[2], row[4], row[5]) for row in rows["sessions"]] == [("s", None, None)]
        assert len(rows["feed"]) == 4


def test_the_feed_finds_a_tenants_events_by_type() -> None:
    """In ledger order, behind a position, up to a limit; no other tenant's."""
    history = History()
    events = history.add("s", SessionCreated(), said(1, "m1")) + history.add("s", SessionCreated(), tenant="b")
    events += history.add("s", said(2, "m2"), MessageRemoved("m1"), SessionDeleted())
    db = given().when(events).db
    assert tenant_events.positions(db, "default", after=0, limit=10) == [1, 2, 4, 5, 6]
    assert tenant_events.positions(db, "default", after=2, limit=2) == [4, 5]
    assert tenant_events.positions(db, "default", after=0, limit=10, event_type="message.appended") == [2, 4]
    assert tenant_events.positions(db, "default", after=2, limit=10, event_type="message.appended") == [4]
    assert tenant_events.positions(db, "b", after=0, limit=10) == [3]
    assert tenant_events.positions(db, "nobody", after=0, limit=10) == []


PATCHES: list[dict[str, object]] = [
    {"title": "U", "archived": True},
    {"title": None, "archived": None},
    {"user_id": "v"},
    {"user_id": None, "traits": {"a": None, "d": {"e": None}}},
    {"traits": {"b": {"c": 12345678901234567890, "f": "é\U0001f600"}}},
    {"traits": {"b": 7}},
    {"traits": None},
]


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """Valid events of a few sessions of two tenants, interleaved."""
    history, events = History(), list[Event]()
    alive: dict[tuple[str, str], list[str]] = {}
    counts: dict[tuple[str, str], int] = {}
    for _ in range(draw(st.integers(1, 25))):
        where = draw(st.sampled_from([(tenant, name) for tenant in "ab" for name in ("s", "t")]))
        if where in counts and where not in alive:
            continue
        data = _next(draw, where, alive, counts)
        events += history.add(where[1], data, tenant=where[0])
    return events


def _next(
    draw: st.DrawFn,
    where: tuple[str, str],
    alive: dict[tuple[str, str], list[str]],
    counts: dict[tuple[str, str], int],
) -> EventData:
    if where not in alive:
        alive[where], counts[where] = [], 0
        return SessionCreated(
            title=draw(st.none() | st.just("T")),
            user_id=draw(st.none() | st.just("u")),
            traits=draw(st.sampled_from([msgspec.UNSET, msgspec.Raw(b'{"a":1.50,"b":{"c":[1e400,"\\u0041"]}}')])),
            created_at=draw(st.sampled_from([None, "1969-07-20T20:17:40.000001Z", "9999-12-31T23:59:59.999999Z"])),
        )
    kinds = ["append"] * 5 + ["update", "delete"] + ["remove"] * bool(alive[where])
    kind = draw(st.sampled_from(kinds))
    if kind == "append":
        counts[where] += 1
        alive[where].append(f"m{counts[where]}")
        return (
            said(counts[where], f"m{counts[where]}")
            if draw(st.booleans())
            else MessageAppended(counts[where], message(f"m{counts[where]}"))
        )
    if kind == "remove":
        return MessageRemoved(alive[where].pop(draw(st.integers(0, len(alive[where]) - 1))))
    if kind == "update":
        return SessionUpdated(draw(st.sampled_from(PATCHES).map(changes_of)))
    del alive[where]
    return SessionDeleted()


@for_all(histories(), st.data())
def test_how_events_are_cut_into_batches_makes_no_difference(events: list[Event], data: st.DataObject) -> None:
    """One by one, all at once, or cut anywhere: the same rows in every table (rule 7)."""
    cuts = sorted(data.draw(st.sets(st.integers(1, len(events)), max_size=5)))
    batches = [events[first:last] for first, last in zip([0, *cuts], [*cuts, len(events)], strict=True)]
    projections = (*built_in(), ROLES)
    whole = rows_after([events], projections)
    assert rows_after([batch for batch in batches if batch], projections) == whole
    assert rows_after([[event] for event in events], projections) == whole


@for_all(histories())
def test_rows_and_the_states_that_commands_are_decided_on_are_the_same(events: list[Event]) -> None:
    """What an event does to a session is said in SQL for rows and in Python for deciding: they say the same."""
    db = given().when(events).db
    for stream in {event.stream for event in events}:
        run = [event for event in events if event.stream == stream]
        row = sessions.find(db, run[0].tenant_id, run[0].session_id)
        state = evolve(None, run)
        # A fold of the state alone does not know what the newest message is behind a removal.
        assert row == (state and msgspec.structs.replace(state, last_message_at_us=newest_message_us(run)))
    db.close()


def newest_message_us(run: list[Event]) -> int | None:
    """When the newest message of a session's events that is not removed was made."""
    found: dict[str, int] = {}
    for event in run:
        if isinstance(event.data, MessageAppended):
            given_at = event.data.message.created_at
            found[event.data.message.id] = parse_us(given_at) if isinstance(given_at, str) else event.recorded_at
        elif isinstance(event.data, MessageRemoved):
            del found[event.data.message_id]
    return list(found.values())[-1] if found else None


# Left behind while much is written


def made(first: int, count: int) -> list[Submission]:
    """New sessions with a message each."""
    return [create(f"many-{number}", message("m")) for number in range(first, first + count)]


@pytest.mark.parametrize("count", [10, 500])
def test_views_that_were_left_behind_follow(ledger: Path, tmp_path: Path, count: int) -> None:
    """Few events are applied, and after many the views are built anew: with the rows of a rebuild both times."""
    with Store(ledger, projections=(ROLES,)) as store:
        generation, reached = store.views.generation, []
        with store.views.left_behind(store.ledger, lambda done, total: reached.append((done, total))):
            store.commit_all(*made(0, count // 2))
            store.commit_all(*made(count // 2, count - count // 2))
        head = store.views.position
        assert reached[-1] == (head, head)
        assert (store.views.generation > generation) == (count == 500)
        store.commit_all(append("many-0", message("later")))
        assert dump(store.views.db) == dump_rebuilt(store, tmp_path)
        assert wrong_leaves(store.ledger) == []


def test_what_is_there_is_seen_while_the_views_are_left_behind(ledger: Path) -> None:
    """A session that exists, or was just made, is not made again."""
    with Store(ledger) as store, store.views.left_behind(store.ledger):
        outcomes = [
            *store.commit(create("s"), create("new"), create("new")),
            *store.commit(create("gone"), create("new")),
        ]
    assert [type(outcome) for outcome in outcomes] == [SessionExists, Committed, *[SessionExists] * 3]


def test_views_that_were_left_behind_by_a_failure_catch_up_when_they_are_next_asked_for(
    ledger: Path, tmp_path: Path
) -> None:
    """What was committed before it stays, and the next group finds the views as they have to be."""
    with Store(ledger) as store:
        with pytest.raises(KeyboardInterrupt), store.views.left_behind(store.ledger):  # noqa: PT012
            store.commit_all(*made(0, 5))
            raise KeyboardInterrupt
        store.commit_all(append("many-0", message("later")))
        assert dump(store.views.db) == dump_rebuilt(store, tmp_path)
