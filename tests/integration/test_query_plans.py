"""No request scans a table: the plan of each query over a ledger of 100,000 messages."""

from collections.abc import Iterator

import pytest

from chatledger.domain.commands import CreateSession
from chatledger.domain.events import Message
from chatledger.ledger import event_store, idempotency_store
from chatledger.ledger.idempotency_store import IdempotencyKey
from chatledger.transfer import exporter
from chatledger.views.live_views import BUILT_IN
from chatledger.writing.command_group import Submission
from chatledger_projections import messages, sessions, tenant_events
from support.plans import scans, steps_of
from support.store import Store, message, submit

SESSIONS, MESSAGES_EACH, GROUP = 2_000, 50, 40

# Scans by name only: they end at their first row or their LIMIT.
BOUNDED: dict[str, tuple[object, ...]] = {
    event_store._HEAD: (),
    event_store._IDENTITY: (),
    event_store._ALL_UNFINISHED: (),
    event_store._PENDING: (),
    event_store._PENDING_MESSAGES: (),
    idempotency_store._PRUNE: (2**62, 2),
}


def constants(module: object) -> list[str]:
    """The queries of a module that keeps each as a constant."""
    found = [text for name, text in vars(module).items() if name.startswith("_") and isinstance(text, str)]
    queries = [text for text in found if text.startswith(("SELECT", "DELETE", "UPDATE", "INSERT"))]
    return [text for text in queries if text != getattr(module, "_COLUMNS", None)]


VIEWS_QUERIES = [*sessions.QUERIES, *messages.QUERIES, *tenant_events.QUERIES, *exporter.QUERIES]
# What runs at each append, one statement a row. `views` is a table of one row.
PROGRAMS = [
    statement
    for projection in BUILT_IN
    for statement in (projection.program + projection.closing).strip().split(";")
    if statement.strip()
]
LEDGER_QUERIES = [*constants(event_store), *constants(idempotency_store)]


def creation(number: int, batch: list[Message]) -> Submission:
    """One session of the store, made under an Idempotency-Key."""
    command = CreateSession(messages=batch, user_id=f"u{number % 7}")
    key = IdempotencyKey(f"k{number}", b"f")
    return submit(f"s{number}", command, tenant=f"t{number % 5}", key=key)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store with 100,000 messages, never analysed."""
    batch = [message(f"m{number}", "Hello") for number in range(MESSAGES_EACH)]
    with Store(tmp_path_factory.mktemp("large") / "ledger.db") as store:
        for first in range(0, SESSIONS, GROUP):
            ids = range(first, first + GROUP)
            store.commit_all(*(creation(n, batch) for n in ids))
        assert store.views.position == SESSIONS * (MESSAGES_EACH + 1)
        yield store


@pytest.mark.parametrize("sql", VIEWS_QUERIES)
def test_no_query_of_the_views_scans_a_table(large: Store, sql: str) -> None:
    """Each step is a search by key or index."""
    assert scans(large.views.db, sql) == []


@pytest.mark.parametrize("sql", PROGRAMS)
def test_no_statement_of_a_projection_scans_a_table(large: Store, sql: str) -> None:
    """Each step is a search by key or index, or reads what an earlier step has found in the batch."""
    assert [step for step in scans(large.views.db, sql) if step != "SCAN views"] == []


def test_the_stream_of_a_new_session_takes_a_few_steps(large: Store) -> None:
    """SQLite would look for a new row's orphans among `idempotency`, but only while a foreign key is violated."""
    large.ledger.execute("SAVEPOINT test")
    try:
        (insert,) = event_store._INSERT_STREAMS._statements[1:2]
        assert steps_of(large.ledger, insert, (10**6, "t", "new")) < 20
    finally:
        large.ledger.execute("ROLLBACK TO test; RELEASE test")


@pytest.mark.parametrize("sql", [sql for sql in LEDGER_QUERIES if sql not in BOUNDED])
def test_no_query_of_the_ledger_scans_a_table(large: Store, sql: str) -> None:
    """Each step is a search by key or index."""
    assert scans(large.ledger, sql) == []


@pytest.mark.parametrize("sql", BOUNDED)
def test_the_queries_that_end_at_their_limit_take_a_few_steps(large: Store, sql: str) -> None:
    """What the plan calls a scan is over after a row or two, whatever the size of the ledger."""
    large.ledger.execute("SAVEPOINT test")
    try:
        assert steps_of(large.ledger, sql, BOUNDED[sql]) < 20
    finally:
        large.ledger.execute("ROLLBACK TO test; RELEASE test")


def test_the_constants_are_found() -> None:
    """The lists above are not empty by accident."""
    assert event_store._READ_STREAM in LEDGER_QUERIES
    assert idempotency_store._FIND in LEDGER_QUERIES
    assert len(LEDGER_QUERIES) >= 10
    assert set(BOUNDED) <= set(LEDGER_QUERIES)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM messages WHERE seq = ?",
        "SELECT count(*) FROM messages",
        "SELECT id FROM sessions WHERE title = ?",
        "SELECT m.id FROM messages AS m WHERE m.payload = ?",
        "SELECT id FROM sessions WHERE key IN (SELECT session_id FROM messages WHERE seq > ?)",
    ],
)
def test_a_query_without_an_index_is_found_out(large: Store, sql: str) -> None:
    """Seeded negatives: the checker sees a scan, by table, by index, by alias and in a subquery."""
    assert scans(large.views.db, sql) != []


def test_a_scan_takes_many_steps(large: Store) -> None:
    """Seeded negatives of the step counter: every table behind it has enough rows to show."""
    assert steps_of(large.ledger, "SELECT count(*) FROM idempotency WHERE version = -1") > 500
    assert steps_of(large.ledger, "SELECT count(*) FROM events WHERE actor = 'x'") > 10_000


def test_a_page_costs_the_same_wherever_it_lies(large: Store) -> None:
    """The last page of a list takes about as many steps as the first."""
    values = [("t1", before, 50, 0) for before in (2**62, 20_000)]
    first, late = (steps_of(large.views.db, sessions._PAGE, each) for each in values)
    assert 0 < late < 2 * first
    values = [("t1", before, 50) for before in (2**62, 20_000)]
    first, late = (steps_of(large.views.db, sessions._PAGE_OF_BOTH, each) for each in values)
    assert 0 < late < 2 * first


def test_a_version_is_read_without_a_message(large: Store) -> None:
    """What `If-None-Match` costs does not depend on the page."""
    details = [row[3] for row in large.views.db.execute(f"EXPLAIN QUERY PLAN {sessions._VERSION}", (None,) * 3)]
    assert len(details) == 1
    assert details[0].startswith("SEARCH sessions ")
    assert steps_of(large.views.db, sessions._VERSION, ("t1", "s1", None)) < 5


@pytest.mark.parametrize("sql", [messages._UP_AT_ONCE, messages._DOWN_AT_ONCE, messages._NEWEST_AT_ONCE])
def test_a_page_of_messages_costs_the_same_wherever_it_lies(large: Store, sql: str) -> None:
    """Of the session and of the messages before it: and a page of all 50 is within what the event loop reads."""
    values = [("t1", "s1", None, "", 10, *range_) for range_ in ((0, 2**62), (30, 2**62), (0, 20))]
    if "?7" not in sql:
        values = [("t1", name, None, "", 10) for name in ("s1", "s1001", "s1996")]
    first, *others = (steps_of(large.views.db, sql, each) for each in values)
    assert all(0 < other < 1.5 * first for other in others)
