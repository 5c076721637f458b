"""Events made by hand, and `given(events).when(events).then(rows)` for projections."""

from collections.abc import Sequence
from typing import Self

from chatledger.domain.events import Event, EventData, encode_payload, type_of
from chatledger.storage import transactions
from chatledger.storage.connection import open_memory
from chatledger.views import apply_triggers
from chatledger.views.builder import apply_in_python
from chatledger_projections import messages, sessions, tenant_events
from chatledger_projections.projection import Projection
from support.tables import Rows, dump

BUILT_IN = (sessions.PROJECTION, messages.PROJECTION, tenant_events.PROJECTION)
START_US = 1_700_000_000_000_000


# What of the ledger the programs of projections read.
_LEDGER = """
CREATE TABLE streams (key INTEGER PRIMARY KEY, tenant_id TEXT, session_id TEXT);
CREATE TABLE events (position INTEGER PRIMARY KEY, stream INTEGER, version INTEGER, type TEXT, schema INTEGER,
  recorded_at INTEGER, payload BLOB, leaf BLOB);
"""


class History:
    """Events in ledger order: each gets the next position, its session's next version and the next second."""

    def __init__(self) -> None:
        self._position = 0
        self._streams: dict[tuple[str, str], int] = {}
        self._versions: dict[int, int] = {}

    def add(self, session_id: str, *data: EventData, tenant: str = "default") -> list[Event]:
        """The next events of a session."""
        return [self._event(tenant, session_id, one) for one in data]

    def _event(self, tenant: str, session_id: str, data: EventData) -> Event:
        self._position += 1
        stream = self._streams.setdefault((tenant, session_id), len(self._streams) + 1)
        self._versions[stream] = self._versions.get(stream, 0) + 1
        return Event(
            position=self._position,
            stream=stream,
            tenant_id=tenant,
            session_id=session_id,
            version=self._versions[stream],
            type=type_of(data),
            recorded_at=START_US + self._position * 1_000_000,
            actor="open",
            request_id=None,
            data=data,
        )


class Scenario:
    """Projections that have seen some events."""

    def __init__(self, projections: Sequence[Projection] = BUILT_IN) -> None:
        self.db = open_memory()
        self._projections = projections
        self.db.execute(_LEDGER)
        self.db.execute("CREATE TABLE views (position INTEGER, target INTEGER, leaf BLOB)")
        self.db.execute("INSERT INTO views VALUES (0, 0, x'')")
        for projection in projections:
            self.db.execute(projection.tables)
        apply_triggers.prepare_advance(self.db, projections)

    def when(self, events: Sequence[Event]) -> Self:
        """Apply *events* as one batch."""
        with transactions.immediate(self.db):
            for event in events:
                self.db.execute(
                    "INSERT OR IGNORE INTO streams VALUES (?, ?, ?)", (event.stream, event.tenant_id, event.session_id)
                )
                payload = None if event.data is None else encode_payload(event.data)
                row = (event.position, event.stream, event.version, event.type, 1, event.recorded_at, payload)
                self.db.execute("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, x'00')", row)
            self.db.execute(apply_triggers.TAKE_TO, (events[-1].position,))
            apply_in_python(self.db, self._projections, events)
        return self

    def then(self, sql: str, rows: Rows) -> Self:
        """The query *sql* finds exactly *rows*."""
        assert self.db.execute(sql).fetchall() == rows
        return self


def given(events: Sequence[Event] = (), projections: Sequence[Projection] = BUILT_IN) -> Scenario:
    """A scenario that has seen *events*, one by one."""
    scenario = Scenario(projections)
    for event in events:
        scenario.when([event])
    return scenario


def rows_after(batches: Sequence[Sequence[Event]], projections: Sequence[Projection] = BUILT_IN) -> dict[str, Rows]:
    """All rows after *batches*."""
    scenario = Scenario(projections)
    for events in batches:
        scenario.when(events)
    try:
        return dump(scenario.db)
    finally:
        scenario.db.close()
