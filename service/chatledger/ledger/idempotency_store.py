"""The durable memory of Idempotency-Keys: which command a key stands for, and where its answer is (rule 4)."""

import time
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from chatledger.domain.fingerprints import ERASED, fingerprint, salted
from chatledger.domain.timestamps import now_us
from chatledger.errors import IdempotencyMismatch, NotFound
from chatledger.storage.bulk import Bulk
from chatledger.storage.connection import Connection

__all__ = ["Answer", "IdempotencyKey", "KeyClock", "find", "fingerprint", "prune", "remember"]

_FIND = "SELECT fingerprint, stream, version, events, positions FROM idempotency WHERE tenant_id = ? AND key = ?"
_INSERT = Bulk(
    "INSERT INTO idempotency (tenant_id, key, fingerprint, recorded_at, stream, version, events, positions)",
    "(?, ?, ?, ?, ?, ?, ?, ?)",
)
_SALTS = "SELECT salt FROM events WHERE stream = ? AND version > ? AND version <= ? ORDER BY version"
_SALTS_AT = "SELECT position, salt FROM events WHERE position IN (SELECT value FROM json_each(?))"
# Rows are in order of use, so the old ones are the first: no index on their time is needed.
_PRUNE = """DELETE FROM idempotency WHERE recorded_at < ?
  AND number IN (SELECT number FROM idempotency ORDER BY number LIMIT ?)"""

_NEWEST = "SELECT recorded_at FROM idempotency WHERE number = (SELECT max(number) FROM idempotency)"

_decode_ranges = msgspec.json.Decoder(list[tuple[int, int]]).decode


class IdempotencyKey(msgspec.Struct, frozen=True, gc=False):
    """A client's key and the SHA-256 of the request that it came with."""

    key: str
    fingerprint: bytes


class Answer(msgspec.Struct, frozen=True, gc=False):
    """Where the answer of a command can be made from, at any time, out of the ledger.

    `version` is the session's after the command. `positions` are those of the messages to show, in order;
    None where the answer is the session itself. `events` is how many the command became, up to that version.
    """

    stream: int
    version: int
    positions: list[int] | None
    events: int


class Salts(msgspec.Struct, frozen=True, gc=False):
    """The salts of the events that one transaction writes, by position, and by stream and version."""

    by_position: Mapping[int, bytes | None]
    by_version: Mapping[tuple[int, int], bytes | None]


_NO_SALTS = Salts({}, {})


class KeyClock:
    """The time by which keys grow old: it goes on from the newest one, and only while the service runs.

    By the wall clock a jump of a year ahead would have every key forgotten at the next write, and a retry done twice.
    What the service was down for counts for nothing, so that keys are kept rather too long.
    """

    def __init__(self, newest_us: int) -> None:
        self._newest_us = newest_us
        self._began_ns = time.monotonic_ns()

    @classmethod
    def of(cls, connection: Connection) -> "KeyClock":
        """The one of a ledger that is being opened."""
        row = connection.execute(_NEWEST).fetchone()
        return cls(now_us() if row is None else row[0])

    def now_us(self) -> int:
        """Microseconds, to be compared with others of this ledger's keys only."""
        return self._newest_us + (time.monotonic_ns() - self._began_ns) // 1000


def find(connection: Connection, tenant_id: str, key: IdempotencyKey) -> Answer | None:
    """The first answer given under *key*, or None where it is new.

    Raises:
        IdempotencyMismatch: the key came with another request before.
        NotFound: something of what that request said was erased.
    """
    row = connection.execute(_FIND, (tenant_id, key.key)).fetchone()
    if row is None:
        return None
    found, stream, version, events, ranges = row
    answer = Answer(stream, version, None if ranges is None else _expand(ranges), events or 0)
    expected = _salted(connection, key, answer, _NO_SALTS)
    if ERASED in (found, expected):
        raise NotFound("session")
    if found != expected:
        raise IdempotencyMismatch
    return answer


def _salted(connection: Connection, key: IdempotencyKey, answer: Answer, known: Salts) -> bytes:
    """The fingerprint to keep of the request that came with *key* and has *answer*."""
    stream, version = answer.stream, answer.version
    if answer.positions is None:
        others = [known.by_version.get((stream, each)) for each in range(version - answer.events + 1, version + 1)]
        if None in others:
            others = [salt for (salt,) in connection.execute(_SALTS, (stream, version - answer.events, version))]
    else:
        others = [known.by_position.get(position) for position in answer.positions]
        if None in others:
            wanted = msgspec.json.encode(answer.positions).decode()
            found: list[tuple[Any, ...]] = connection.execute(_SALTS_AT, (wanted,)).fetchall()
            stored: dict[int, bytes | None] = dict(found)
            others = [stored.get(position) for position in answer.positions]
    salt = known.by_version.get((stream, version))
    if salt is None:
        salt = connection.execute(_SALTS, (stream, version - 1, version)).get
    return salted(key.fingerprint, salt, others)


def remember(
    connection: Connection, answers: Iterable[tuple[str, IdempotencyKey, Answer]], salts: Salts, *, now_us: int
) -> None:
    """Keep each tenant's answer under its key, in the transaction of the commands' events, behind these."""
    rows = [
        (
            tenant_id,
            key.key,
            _salted(connection, key, answer, salts),
            now_us,
            answer.stream,
            answer.version,
            answer.events if answer.positions is None else None,
            None if answer.positions is None else _ranges(answer.positions),
        )
        for tenant_id, key, answer in answers
    ]
    _INSERT.execute(connection, rows)


def prune(connection: Connection, *, before_us: int, limit: int) -> None:
    """Forget up to *limit* of the keys that were used before *before_us*, the oldest first."""
    connection.execute(_PRUNE, (before_us, limit))


def _ranges(positions: list[int]) -> str:
    # A batch's positions are one run as a rule: two numbers for a thousand messages.
    ranges: list[list[int]] = []
    for position in positions:
        if ranges and position == ranges[-1][1] + 1:
            ranges[-1][1] = position
        else:
            ranges.append([position, position])
    return msgspec.json.encode(ranges).decode()


def _expand(ranges: str) -> list[int]:
    return [position for first, last in _decode_ranges(ranges) for position in range(first, last + 1)]
