"""The ledger's rows: sealing events with their leaves, writing them, and reading them back."""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec

from chatledger.domain.events import SCHEMAS, SESSION_ERASED, Event, UnknownEvent, decode_payload, encode_payload
from chatledger.domain.events import is_erased as erased_payload
from chatledger.errors import LedgerDamaged
from chatledger.ledger.merkle import SALT_BYTES, LeafRecord, commitment, leaf_hash
from chatledger.storage import sql_errors
from chatledger.storage.bulk import Bulk
from chatledger.storage.connection import Connection, has_table

CHECKED_AT_START = 100
"""The newest events whose leaves are computed again on each start: enough to see a cut or foreign tail."""

_HEAD = "SELECT position, leaf FROM events ORDER BY position DESC LIMIT 1"
_IDENTITY = "SELECT id FROM ledger"
_FIND_STREAM = "SELECT key FROM streams WHERE tenant_id = ? AND session_id = ?"
_FIND_OWNERS = """SELECT s.tenant_id, s.session_id FROM json_each(?) AS wanted CROSS JOIN streams AS s
  ON s.tenant_id = wanted.value ->> 0 AND s.session_id = wanted.value ->> 1"""
_STREAM_VERSION = "SELECT max(version) FROM events WHERE stream = ?"
_LAST_STREAM = "SELECT max(key) FROM streams"
_INSERT_STREAMS = Bulk("INSERT INTO streams", "(?, ?, ?)")

_COLUMNS = """SELECT e.position, e.stream, s.tenant_id, s.session_id, e.version, e.type, e.recorded_at, e.actor,
  e.request_id, e.schema, e.payload, e.salt, e.leaf FROM events AS e JOIN streams AS s ON s.key = e.stream"""
# For projections, which get every event: without the join and what only proofs need it takes half the time.
_READ_EVENTS = """SELECT position, stream, version, type, recorded_at, actor, request_id, schema, payload
  FROM events WHERE position > ? ORDER BY position LIMIT ?"""
_OWNERS = "SELECT key, tenant_id, session_id FROM streams WHERE key IN (SELECT value FROM json_each(?))"
_READ_AFTER = f"{_COLUMNS} WHERE e.position > ? ORDER BY e.position LIMIT ?"
_READ_STREAM = f"{_COLUMNS} WHERE e.stream = ? AND e.version > ? AND e.version <= ? ORDER BY e.version LIMIT ?"
_READ_STREAM_ROWS = """SELECT position, stream, version, type, schema, recorded_at, payload FROM events
  WHERE stream = ? AND version > ? AND version <= ? ORDER BY version LIMIT ?"""
_READ_CHANGES = f"""{_COLUMNS} WHERE e.stream = ? AND e.version <= ?
  AND e.type IN ('session.created', 'session.updated', 'session.deleted', 'session.restored', 'session.erased')
  ORDER BY e.version"""
_OWNER = "SELECT tenant_id, session_id FROM streams WHERE key = ?"
_READ_POSITIONS = f"{_COLUMNS} WHERE e.position IN (SELECT value FROM json_each(?)) ORDER BY e.position"
_COMMITMENT = "SELECT commitment FROM commitments WHERE position = ?"
_VERSION_AT = "SELECT max(version) FROM events WHERE stream = ? AND recorded_at <= ?"

_LAST_TYPE = "SELECT type FROM events WHERE stream = ? ORDER BY version DESC LIMIT 1"
_IS_ERASABLE = "SELECT EXISTS (SELECT 1 FROM erasable WHERE position = ?)"

_UNFINISHED = "SELECT visible_at, source FROM unfinished WHERE stream = ?"
_UNFINISHED_FORKS = "SELECT stream FROM unfinished WHERE source = ? ORDER BY stream"
_ALL_UNFINISHED = "SELECT stream FROM unfinished ORDER BY stream"
_FINISH = "DELETE FROM unfinished WHERE stream IN (SELECT value FROM json_each(?))"

_PENDING = "SELECT stream, position FROM erasures WHERE NOT cleared"
_PENDING_MESSAGES = "SELECT position FROM erasable WHERE by IN (SELECT position FROM erasures WHERE NOT cleared)"
# Before schema 5 the column had another name and only sessions were erased; before schema 3 nothing was.
_DONE = "SELECT name FROM pragma_table_info('erasures') WHERE name IN ('cleared', 'rewritten')"

_LAST_VERSION = 2**63 - 1


class Head(msgspec.Struct, frozen=True, gc=False):
    """The newest event's position and leaf; 0 and no bytes for an empty ledger."""

    position: int
    leaf: bytes


class Stream(NamedTuple):
    """A row of the table `streams`: whose events bear its key."""

    key: int
    tenant_id: str
    session_id: str


class Unfinished(NamedTuple):
    """What is known of a session that readers do not see yet: from which version on they do, and a fork's source."""

    visible_at: int
    source: int | None


class Record(msgspec.Struct, frozen=True, gc=False):
    """An event of the ledger: `payload` and `salt` are None once erased, whatever stands in their place there."""

    event: Event
    schema: int
    payload: bytes | None
    salt: bytes | None
    leaf: bytes


class PendingErasures(msgspec.Struct, frozen=True):
    """The erasures that are recorded while the payloads are still there: nobody is shown these any more."""

    streams: Mapping[int, int] = {}
    """By stream, the position of its `session.erased`."""
    positions: frozenset[int] = frozenset()

    def hide(self, record: Record) -> Record:
        """*record* as it is shown: without its payload, if that is about to go."""
        event = record.event
        ends_at = self.streams.get(event.stream)
        if event.position in self.positions or (ends_at is not None and event.position < ends_at):
            return msgspec.structs.replace(
                record, payload=None, salt=None, event=msgspec.structs.replace(event, data=None)
            )
        return record


@contextmanager
def _reading() -> Iterator[None]:
    """Say of a damaged page that it is the ledger's: views can be built anew, the ledger cannot."""
    try:
        yield
    except UnicodeDecodeError as error:  # of a text that is none any more
        raise LedgerDamaged("The ledger's file is damaged.") from error
    except sql_errors.SQLError as error:
        if sql_errors.is_damage(error):
            raise LedgerDamaged("The ledger's file is damaged.") from error
        raise


def seal(events: Sequence[Event]) -> list[Record]:
    """Encode each event's payload, commit to it under a fresh salt, and compute its leaf."""
    salts = os.urandom(SALT_BYTES * len(events))
    return [
        _seal(event, salts[start : start + SALT_BYTES])
        for event, start in zip(events, range(0, len(salts), SALT_BYTES), strict=True)
    ]


def _seal(event: Event, salt: bytes) -> Record:
    if event.data is None:
        raise ValueError("an event without payload cannot be written")
    schema = SCHEMAS[event.type]
    payload = encode_payload(event.data)
    return Record(event, schema, payload, salt, leaf_of(event, schema, commitment(salt, payload)))


def leaf_of(event: Event, schema: int, committed: bytes) -> bytes:
    """The leaf of *event*, whose payload has the commitment *committed*."""
    return leaf_hash(leaf_record(event, schema, committed))


def leaf_record(event: Event, schema: int, committed: bytes) -> LeafRecord:
    """What the tree says of *event*, whose payload has the commitment *committed*."""
    return LeafRecord(
        event.actor,
        committed.hex(),
        event.position,
        event.recorded_at,
        event.request_id,
        schema,
        event.session_id,
        event.tenant_id,
        event.type,
        event.version,
    )


@_reading()
def commitment_of(connection: Connection, record: Record) -> bytes:
    """What the tree is committed to of *record*'s payload: computed, or kept where the payload was erased.

    Raises:
        LedgerDamaged: the payload is gone, and so is what stood for it.
    """
    if record.payload is not None and record.salt is not None:
        return commitment(record.salt, record.payload)
    row = connection.execute(_COMMITMENT, (record.event.position,)).fetchone()
    if row is None:
        raise LedgerDamaged(
            f"The payload of the event at position {record.event.position} is gone, and nobody erased it."
        )
    return bytes(row[0])


def rows(records: Sequence[Record]) -> Iterator[tuple[Any, ...]]:
    """*records* as rows of the table `events`, to be written as one run.

    Who assigns a position and who writes it are kept apart: a node that follows another one's ledger writes
    records that it did not number. The guards in the schema refuse a gap, whoever numbered them.
    """
    for record in records:
        event = record.event
        yield (
            event.position,
            event.stream,
            event.version,
            event.type,
            record.schema,
            event.recorded_at,
            event.actor,
            event.request_id,
            record.payload,
            record.salt,
            record.leaf,
        )


@_reading()
def identity(connection: Connection) -> str:
    """The UUID that the ledger was made with."""
    return str(connection.execute(_IDENTITY).get)


@_reading()
def head(connection: Connection) -> Head:
    """The newest event."""
    row = connection.execute(_HEAD).fetchone()
    return Head(0, b"") if row is None else Head(row[0], row[1])


@_reading()
def leaf_at(connection: Connection, position: int) -> bytes | None:
    """The leaf of the event at *position*, or None where there is none."""
    row = connection.execute("SELECT leaf FROM events WHERE position = ?", (position,)).fetchone()
    return None if row is None else row[0]


@_reading()
def find_stream(connection: Connection, tenant_id: str, session_id: str) -> int | None:
    """The key of a session's stream, deleted ones included, or None where there never was one."""
    row = connection.execute(_FIND_STREAM, (tenant_id, session_id)).fetchone()
    return None if row is None else row[0]


@_reading()
def taken(connection: Connection, sessions: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
    """Those of *sessions*, each by tenant and id, of which there ever was one: a step for all of them."""
    return set(connection.execute(_FIND_OWNERS, (msgspec.json.encode(list(sessions)).decode(),)))


@_reading()
def next_stream(connection: Connection) -> int:
    """The key of the next session's stream."""
    return int(connection.execute(_LAST_STREAM).get or 0) + 1


def write_streams(connection: Connection, streams: Sequence[Stream]) -> None:
    """Write the streams of new sessions. The caller holds the write transaction."""
    _INSERT_STREAMS.execute(connection, streams)


@_reading()
def version_of(connection: Connection, stream: int) -> int:
    """The version of a stream: its last event's, 0 without events."""
    return int(connection.execute(_STREAM_VERSION, (stream,)).get or 0)


@_reading()
def is_erased(connection: Connection, stream: int) -> bool:
    """Whether the stream has ended with a `session.erased` event, which nothing follows."""
    return bool(connection.execute(_LAST_TYPE, (stream,)).get == SESSION_ERASED)


@_reading()
def may_be_erased(connection: Connection, stream: int, position: int) -> bool:
    """Whether an event may be without its payload: its session is erased, or a `message.erased` event names it."""
    if connection.execute(_LAST_TYPE, (stream,)).get == SESSION_ERASED:
        return True
    # Before schema 5 only whole sessions could be erased.
    return has_table(connection, "erasable") and bool(connection.execute(_IS_ERASABLE, (position,)).get)


@_reading()
def pending_erasures(connection: Connection) -> PendingErasures:
    """Those that are not finished; nearly always none."""
    done = connection.execute(_DONE).get
    if not isinstance(done, str):
        return PendingErasures()
    rows: list[tuple[Any, ...]] = connection.execute(_PENDING.replace("cleared", done)).fetchall()
    if not rows:
        return PendingErasures()
    named = connection.execute(_PENDING_MESSAGES) if done == "cleared" else ()
    ended = {stream: position for stream, position in rows if _type_at(connection, position) == SESSION_ERASED}
    return PendingErasures(ended, frozenset(position for (position,) in named))


def _type_at(connection: Connection, position: int) -> str:
    return str(connection.execute("SELECT type FROM events WHERE position = ?", (position,)).get)


@_reading()
def find_unfinished(connection: Connection, stream: int) -> Unfinished | None:
    """What is known of a session whose making is not at its end; None of any other."""
    row = connection.execute(_UNFINISHED, (stream,)).fetchone()
    return None if row is None else Unfinished(row[0], row[1])


@_reading()
def unfinished_streams(connection: Connection, *, source: int | None = None) -> list[int]:
    """The sessions whose making is not at its end: all of them, or the forks of one stream."""
    if source is None:
        return [stream for (stream,) in connection.execute(_ALL_UNFINISHED)]
    return [stream for (stream,) in connection.execute(_UNFINISHED_FORKS, (source,))]


def note_finished(connection: Connection, streams: Sequence[int]) -> None:
    """The making of *streams* is at its end, or was given up. The caller holds the write transaction."""
    connection.execute(_FINISH, (msgspec.json.encode(streams).decode(),))


@_reading()
def version_at(connection: Connection, stream: int, time_us: int) -> int:
    """The newest version that was recorded at or before *time_us*; 0 if none was.

    Clocks can jump back, so the events up to it may bear later times: order is position, never a clock.
    """
    return int(connection.execute(_VERSION_AT, (stream, time_us)).get or 0)


@_reading()
def read_after(connection: Connection, position: int, limit: int) -> list[Event]:
    """Up to *limit* events behind *position*, in order.

    Raises:
        LedgerDamaged: positions have a gap, or a payload cannot be read.
    """
    rows: list[tuple[Any, ...]] = connection.execute(_READ_EVENTS, (position, limit)).fetchall()
    if rows and rows[-1][0] != position + len(rows):
        raise LedgerDamaged(f"The ledger's positions have a gap behind {position}.")
    owners = _owners(connection, {row[1] for row in rows})
    events = []
    try:
        for place, stream, version, kind, recorded_at, actor, request_id, schema, payload in rows:
            tenant_id, session_id = owners[stream]
            data = None if erased_payload(payload) else decode_payload(kind, schema, payload)
            events.append(
                Event(place, stream, tenant_id, session_id, version, kind, recorded_at, actor, request_id, data)
            )
    except UnknownEvent as error:
        raise LedgerDamaged(f"The event at position {place} cannot be read: {error}.") from error
    except KeyError:
        raise LedgerDamaged(f"The event at position {place} belongs to no session.") from None
    return events


def _owners(connection: Connection, streams: Collection[int]) -> dict[int, tuple[str, str]]:
    """Each stream's tenant and session."""
    wanted = msgspec.json.encode(list(streams)).decode()
    return {key: (tenant_id, session_id) for key, tenant_id, session_id in connection.execute(_OWNERS, (wanted,))}


@_reading()
def read_records_after(connection: Connection, position: int, limit: int) -> list[Record]:
    """Up to *limit* records behind *position*, in order."""
    return [_record(row) for row in connection.execute(_READ_AFTER, (position, limit))]


def read_stream(
    connection: Connection,
    stream: int,
    *,
    after_version: int = 0,
    to_version: int = _LAST_VERSION,
    limit: int = -1,
) -> Iterator[Record]:
    """The records of one stream in order, from behind *after_version* to *to_version*, at most *limit*."""
    with _reading():
        for row in connection.execute(_READ_STREAM, (stream, after_version, to_version, limit)):
            yield _record(row)


@_reading()
def read_changes(connection: Connection, stream: int, to_version: int) -> list[Record]:
    """The records up to *to_version* that say something of the session itself, and nothing of its messages."""
    return [_record(row) for row in connection.execute(_READ_CHANGES, (stream, to_version))]


def read_stream_rows(
    connection: Connection, stream: int, *, to_version: int, batch: int
) -> Iterator[list[tuple[Any, ...]]]:
    """The rows of one stream up to *to_version* in order, *batch* at a time, without what only proofs need.

    A row is (position, stream, version, type, schema, recorded_at, payload).
    """
    version = 0
    while version < to_version:
        with _reading():
            rows: list[tuple[Any, ...]] = connection.execute(
                _READ_STREAM_ROWS, (stream, version, to_version, batch)
            ).fetchall()
        if not rows:
            return
        yield rows
        version = rows[-1][2]


@_reading()
def owner_of(connection: Connection, stream: int) -> tuple[str, str]:
    """The tenant's and the session's id of a stream."""
    rows: list[tuple[Any, ...]] = connection.execute(_OWNER, (stream,)).fetchall()
    return rows[0][0], rows[0][1]


@_reading()
def read_positions(connection: Connection, positions: Sequence[int]) -> list[Record]:
    """The records at *positions*, in order of position."""
    wanted = msgspec.json.encode(positions).decode()
    return [_record(row) for row in connection.execute(_READ_POSITIONS, (wanted,))]


def _record(row: tuple) -> Record:  # type: ignore[type-arg]  # a row of _COLUMNS
    (
        position,
        stream,
        tenant,
        session,
        version,
        kind,
        recorded_at,
        actor,
        request_id,
        schema,
        payload,
        salt,
        leaf,
    ) = row
    if erased_payload(payload):
        payload = salt = None
    try:
        data = None if payload is None else decode_payload(kind, schema, payload)
    except UnknownEvent as error:
        raise LedgerDamaged(f"The event at position {position} cannot be read: {error}.") from error
    event = Event(position, stream, tenant, session, version, kind, recorded_at, actor, request_id, data)
    return Record(event, schema, payload, salt, leaf)


@_reading()
def check_tail(connection: Connection) -> None:
    """Compute the leaves of the newest events again, as a quick look at each start; `verify` reads all.

    Raises:
        LedgerDamaged: a leaf does not match its event, an event is missing, or a payload is and nobody erased it.
    """
    newest = head(connection).position
    expected = max(0, newest - CHECKED_AT_START)
    rows: list[tuple[Any, ...]] = connection.execute(_READ_AFTER, (expected, CHECKED_AT_START)).fetchall()
    for row in rows:
        expected += 1
        if row[0] != expected:
            break
        if not is_blank(row[-3], row[-2]):
            _check_leaf(_record(row))
        elif not may_be_erased(connection, row[1], row[0]):
            raise LedgerDamaged(f"The payload of the event at position {row[0]} is gone, and nobody erased it.")
    if expected != newest:
        raise LedgerDamaged(f"The ledger has no event at position {expected}; it was left as it is.")


def is_blank(payload: bytes | None, salt: bytes | None) -> bool:
    """Whether a row has the form of an erased event: both are NULL, or zeros to the last byte.

    A payload that begins with a zero and has any other byte is damage.
    """
    if payload is None or salt is None:
        return payload is None and salt is None
    return salt == bytes(SALT_BYTES) and payload.count(0) == len(payload)


def _check_leaf(record: Record) -> None:
    event = record.event
    if (
        record.payload is None
        or record.salt is None
        or leaf_of(event, record.schema, commitment(record.salt, record.payload)) != record.leaf
    ):
        raise LedgerDamaged(f"The event at position {event.position} does not match its leaf; it was left as it is.")
