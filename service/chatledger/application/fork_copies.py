"""Copying a session into a fork of it, in pieces of a bounded size that are read one after the other.

A fork of a long session is several transactions: one for all would hold the others' appends for seconds. Readers see it
once the last piece is there (`visible_at` of its `session.created`).
"""

from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import UNSET

from chatledger.domain.events import Event, ForkedFrom, Message, MessageAppended, SessionCreated
from chatledger.domain.session import NO_TRAITS, SessionState, evolve
from chatledger.domain.timestamps import format_us
from chatledger.errors import InvalidRequest, NotFound, TooLarge
from chatledger.ledger import event_store
from chatledger.settings import Settings
from chatledger.storage.connection import Connection

PIECE_MESSAGES = 1_000
PIECE_BYTES = 4 * 1024 * 1024
"""Of payloads; a single message may be larger."""
_READ_EVENTS = 500

_SIZE = """SELECT count(*) FILTER (WHERE type = 'message.appended'), coalesce(sum(length(payload)), 0)
  FROM events WHERE stream = ? AND version <= ?"""
_REMOVED = """SELECT payload ->> '$.message_id' FROM events
  WHERE stream = ? AND version <= ? AND type = 'message.removed' AND payload >= x'01'"""


class ForkPlan(msgspec.Struct, frozen=True):
    """What there is to copy: *total* messages, and those of the source that were removed by then."""

    stream: int
    source: ForkedFrom
    created: SessionCreated
    removed: frozenset[str]
    total: int


def plan_of(
    ledger_db: Connection, stream: int, source: ForkedFrom, *, title: str | None, settings: Settings
) -> ForkPlan:
    """The plan of a fork of the session in *stream*, with another *title* if one is given.

    Raises:
        NotFound: the session was not there at that version.
        InvalidRequest, TooLarge: it has too many events, or bytes.
    """
    if source.version > settings.fork_events_max:
        raise InvalidRequest(
            f"The session has more than {settings.fork_events_max} events: too many to fork.", field="$.version"
        )
    state = evolve(None, [record.event for record in event_store.read_changes(ledger_db, stream, source.version)])
    if state is None:
        raise NotFound("version of this session")
    rows: list[tuple[Any, ...]] = ledger_db.execute(_SIZE, (stream, source.version)).fetchall()
    appended, size_bytes = rows[0]
    if size_bytes > settings.fork_bytes_max:
        raise TooLarge("session's messages", limit_bytes=settings.fork_bytes_max)
    removed = frozenset(str(found) for (found,) in ledger_db.execute(_REMOVED, (stream, source.version)))
    return ForkPlan(stream, source, _created(state, title), removed, appended - len(removed))


def _created(state: SessionState, title: str | None) -> SessionCreated:
    return SessionCreated(
        user_id=state.user_id,
        title=state.title if title is None else title,
        traits=UNSET if state.traits == NO_TRAITS else msgspec.Raw(state.traits),
    )


class Copies:
    """The copies that a plan says, from the first on; each piece is read when it is asked for.

    A parent that was removed gives way to its nearest ancestor that is there. A parent that is not said is the message
    before, whatever became of that (docs/http-api.md).
    """

    def __init__(self, plan: ForkPlan) -> None:
        self._plan = plan
        self._reached = 0  # the version of the source
        self._before: str | None = None  # the message before, removed or not
        self._live: str | None = None  # the last one that is copied
        self._ancestors: dict[str, str | None] = {}  # of those that were removed

    def skip(self, ledger_db: Connection, count: int) -> None:
        """Pass over the first *count* copies, which are made already."""
        while count > 0 and (passed := sum(1 for _ in self._some(ledger_db, count))):
            count -= passed

    def piece(self, ledger_db: Connection) -> list[Message]:
        """The next copies: up to `PIECE_MESSAGES` of them, or `PIECE_BYTES` of payloads."""
        return list(self._some(ledger_db, PIECE_MESSAGES))

    def _some(self, ledger_db: Connection, count: int) -> Iterator[Message]:
        """Up to *count* of the next copies, or up to as many bytes as a piece has; none behind the last."""
        size_bytes = 0
        while count and self._reached < self._plan.source.version:
            limit = min(_READ_EVENTS, count)
            before = self._reached
            for record in event_store.read_stream(
                ledger_db,
                self._plan.stream,
                after_version=self._reached,
                to_version=self._plan.source.version,
                limit=limit,
            ):
                self._reached = record.event.version
                message = self._copy(record.event)
                if message is not None:
                    count -= 1
                    size_bytes += len(record.payload or b"")
                    yield message
                    if size_bytes >= PIECE_BYTES:
                        return
            if self._reached == before:
                return

    def _copy(self, event: Event) -> Message | None:
        """The copy of the message that *event* appended, if it did and the message was not removed."""
        data = event.data
        if not isinstance(data, MessageAppended):
            return None
        message, before = data.message, self._before
        self._before = message.id
        parent = before if message.parent_id is UNSET else message.parent_id
        there = self._ancestors.get(parent, parent) if parent is not None else None
        if message.id in self._plan.removed:
            self._ancestors[message.id] = there
            return None
        changes: dict[str, object] = {}
        # The copy says when the message was made, not when it was copied.
        if message.created_at is UNSET:
            changes["created_at"] = format_us(event.recorded_at)
        if there != (self._live if message.parent_id is UNSET else message.parent_id):
            changes["parent_id"] = there
        self._live = message.id
        return msgspec.structs.replace(message, **changes)
