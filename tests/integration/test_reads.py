"""Pages that SQLite makes in one statement are those that are made row by row; and which reads the event loop does."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chatledger.domain.access import USER_SCOPES, Caller
from chatledger.errors import NotFound
from chatledger.reading import readers
from chatledger.reading.readers import Readers
from chatledger.storage.connection import Connection
from support.store import Store, append, create, message, remove, run

TIME = "2024-01-01T00:00:00.000000Z"
IDS = ("s", "x" * 128, "._:-", "S")
contents = st.text(max_size=30) | st.lists(
    st.builds(dict, type=st.just("text"), text=st.text(max_size=8), number=st.floats(allow_nan=False) | st.integers()),
    max_size=2,
)
messages = st.builds(
    dict, content=contents, metadata=st.dictionaries(st.text(max_size=5), st.integers() | st.none(), max_size=2)
)
timed = messages | messages.map(lambda fields: {**fields, "created_at": TIME})
seqs = st.none() | st.integers(0, 15)


@settings(max_examples=40, deadline=None)
@given(
    given_messages=st.lists(timed, max_size=12),
    removed=st.sets(st.integers(0, 11)),
    session_id=st.sampled_from(IDS),
    pages=st.lists(st.tuples(seqs, seqs, st.integers(1, 13), st.booleans()), min_size=1, max_size=6),
    bytes_max=st.sampled_from((1, 300, 1000, 10**7)),
)
def test_a_page_made_at_once_is_the_one_made_row_by_row(
    tmp_path_factory: pytest.TempPathFactory,
    given_messages: list[dict[str, Any]],
    removed: set[int],
    session_id: str,
    pages: list[tuple[int | None, int | None, int, bool]],
    bytes_max: int,
) -> None:
    """Byte for byte, of odd texts and ids, with gaps and limits: `Store.tenant` reads both ways and compares."""
    with Store(tmp_path_factory.mktemp("reads") / "ledger.db", page_bytes_max=bytes_max) as store:
        store.commit_all(create(session_id, tenant="t"))
        for number, fields in enumerate(given_messages):
            store.commit_all(append(session_id, message(f"m{number}", **fields), tenant="t"))
        gone = {number for number in removed if number < len(given_messages)}
        store.commit_all(*(remove(session_id, f"m{number}", tenant="t") for number in gone))
        tenant = store.tenant("t")
        for after, before, limit, newest_first in pages:
            page = run(
                tenant.messages_page(session_id, after=after, before=before, limit=limit, newest_first=newest_first)
            )
            assert page.version == 1 + len(given_messages) + len(gone)
            view = run(tenant.session(session_id, newest=limit))
            documents = run(tenant.session(session_id, newest=1000)).messages
            assert view.messages in documents
        for number in range(len(given_messages)):
            if number in gone:
                with pytest.raises(NotFound):
                    run(tenant.message(session_id, f"m{number}"))
            else:
                _, document = run(tenant.message(session_id, f"m{number}"))
                assert (
                    document
                    in run(
                        tenant.messages_page(session_id, after=number, before=number + 2, limit=1, newest_first=False)
                    ).documents
                )


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A session of a user with 20 messages."""
    with Store(tmp_path / "ledger.db") as opened:
        opened.commit_all(create("s", *(message(f"m{n}", "x" * 100) for n in range(20)), user_id="u"))
        yield opened


@pytest.fixture
def reading(store: Store) -> Iterator[Readers]:
    """Its readers."""
    pool = Readers(store.location, store.settings, store.views, on_damage=lambda: None)
    with closing(pool):
        yield pool


def thread_of(pool: Readers, sql: str = "SELECT 1") -> str:
    """Where a short read that runs *sql* ends."""

    def query(views: Connection) -> str:
        views.execute(sql).fetchall()
        return threading.current_thread().name

    return asyncio.run(pool.run_short(query))


ENDLESS = "WITH n AS (SELECT 1 UNION ALL SELECT 1 FROM n LIMIT {}) SELECT count(*) FROM n"


def test_a_short_read_stays_on_the_loop(reading: Readers) -> None:
    """It takes no thread."""
    assert thread_of(reading) == threading.current_thread().name


def test_a_long_read_begins_anew_in_a_thread(reading: Readers) -> None:
    """After a number of steps, not of milliseconds; and the next one is on the loop again."""
    assert thread_of(reading, ENDLESS.format(100_000)).startswith("reader")
    assert thread_of(reading) == threading.current_thread().name


def test_a_large_answer_is_made_in_a_thread(reading: Readers) -> None:
    """One that does not fit what the loop's connection may make."""
    assert thread_of(reading, f"SELECT zeroblob({readers.SHORT_BYTES_MAX}) || 'x'").startswith("reader")


def test_a_busy_database_is_left_to_a_thread(reading: Readers) -> None:
    """The loop does not wait; a thread may."""
    found: list[str] = []

    def query(_: Connection) -> str:
        found.append(threading.current_thread().name)
        if len(found) == 1:
            raise apsw.BusyError
        return found[-1]

    assert asyncio.run(reading.run_short(query)).startswith("reader")
    assert found[0] == threading.current_thread().name


def test_a_disk_that_keeps_the_loop_is_left_to_threads_for_a_while(
    reading: Readers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow read during which blocks came from a disk: then the loop rests from reading, for a multiple of it."""
    monkeypatch.setattr(readers, "SLOW_S", 0.0)
    blocks = 0

    def blocks_read() -> int:
        nonlocal blocks
        blocks += 1
        return blocks

    assert thread_of(reading) == threading.current_thread().name
    monkeypatch.setattr(readers, "REST", 10**9)
    monkeypatch.setattr(readers, "_blocks_read", blocks_read)
    assert thread_of(reading, ENDLESS.format(1000)).startswith("reader")
    assert thread_of(reading).startswith("reader")


def test_a_slow_read_without_a_disk_is_no_reason_to_rest(reading: Readers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the processor was taken away, a thread would be no better off."""
    monkeypatch.setattr(readers, "SLOW_S", 0.0)
    monkeypatch.setattr(readers, "REST", 10**9)
    for _ in range(2):
        assert thread_of(reading, ENDLESS.format(1000)) == threading.current_thread().name


def test_the_loop_reads_the_views_that_are_live(store: Store, reading: Readers) -> None:
    """After a rebuild the new ones, whose file has another name."""

    def name(views: Connection) -> str:
        return views.filename

    before = asyncio.run(reading.run_short(name))
    store.views.rebuild(store.ledger)
    after = asyncio.run(reading.run_short(name))
    assert (before, after) == (store.location.views(1), store.location.views(2))


def test_the_loop_holds_no_snapshot_between_reads(store: Store, reading: Readers) -> None:
    """A write-ahead log can be cut while nobody reads, and what is committed is read at once."""

    def count(views: Connection) -> int:
        return int(views.execute("SELECT message_count FROM sessions").get)

    for number in range(3):
        assert asyncio.run(reading.run_short(count)) == 20 + number
        store.commit_all(append("s", message(f"n{number}")))
        assert store.ledger.wal_checkpoint("views", mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)[0] == 0


READS: dict[str, Callable[[Any], Any]] = {
    "page": lambda tenant: tenant.messages_page("s", after=None, before=None, limit=5, newest_first=False),
    "session": lambda tenant: tenant.session("s", newest=5),
    "message": lambda tenant: tenant.message("s", "m1"),
    "version": lambda tenant: tenant.version("s"),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize(("tenant_id", "user_id"), [("other", None), ("default", "v"), ("other", "u")])
def test_a_read_at_once_finds_nothing_of_others(
    store: Store, read: Callable[[Any], Any], tenant_id: str, user_id: str | None
) -> None:
    """Not another tenant's session, nor, for a user, another user's."""
    assert run(read(store.tenant()))
    caller = Caller(actor="other", credential="other", scopes=USER_SCOPES, user_id=user_id)
    with pytest.raises(NotFound):
        run(read(store.tenant(tenant_id, caller)))
