"""A session as of an earlier version: its first events, through the same builders, into a database in memory."""

from collections.abc import Iterable

from projections import messages, sessions
from service import database
from service.database import Connection
from service.events import Event

_BATCH_EVENTS = 10_000


def replay(events: Iterable[Event]) -> Connection:
    """Views of one session that have seen just *events*; `sessions` and `messages` answer the usual queries.

    The caller closes the connection.
    """
    db = database.open_memory()
    batch: list[Event] = []
    with database.immediate(db):
        for projection in (sessions.PROJECTION, messages.PROJECTION):
            db.execute(projection.tables)
            db.execute(projection.indexes)
        for event in events:
            batch.append(event)
            if len(batch) == _BATCH_EVENTS:
                _apply(db, batch)
                batch = []
        _apply(db, batch)
    return db


def _apply(db: Connection, batch: list[Event]) -> None:
    if batch:
        sessions.apply(db, batch)
        messages.apply(db, batch)
