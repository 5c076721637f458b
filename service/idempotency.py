"""The durable memory of Idempotency-Keys: which command a key stands for, and where its answer is (rule 4)."""

import hashlib
from collections.abc import Sequence

import msgspec

from service.database import Bulk, Connection
from service.errors import IdempotencyMismatch

_FIND = "SELECT fingerprint, stream, version, positions FROM idempotency WHERE tenant_id = ? AND key = ?"
_INSERT = Bulk(
    "INSERT INTO idempotency (tenant_id, key, fingerprint, recorded_at, stream, version, positions)",
    "(?, ?, ?, ?, ?, ?, ?)",
)
# Rows are in order of use, so the old ones are the first: no index on their time is needed.
_PRUNE = """DELETE FROM idempotency WHERE recorded_at < ?
  AND number IN (SELECT number FROM idempotency ORDER BY number LIMIT ?)"""

_decode_ranges = msgspec.json.Decoder(list[tuple[int, int]]).decode


class IdempotencyKey(msgspec.Struct, frozen=True, gc=False):
    """A client's key and the SHA-256 of the request that it came with."""

    key: str
    fingerprint: bytes


class Answer(msgspec.Struct, frozen=True, gc=False):
    """Where the answer of a command can be made from, at any time, out of the ledger.

    `version` is the session's after the command. `positions` are those of the messages to show, in order;
    None where the answer is the session itself.
    """

    stream: int
    version: int
    positions: list[int] | None


def fingerprint(method: str, path: str, body: bytes) -> bytes:
    """What two requests must share to be the same: SHA-256 of method, path with query, and body."""
    return hashlib.sha256(b"%b\n%b\n%b" % (method.encode(), path.encode(), body)).digest()


def find(connection: Connection, tenant_id: str, key: IdempotencyKey) -> Answer | None:
    """The first answer given under *key*, or None where it is new.

    Raises:
        IdempotencyMismatch: the key came with another request before.
    """
    row = connection.execute(_FIND, (tenant_id, key.key)).fetchone()
    if row is None:
        return None
    found, stream, version, ranges = row
    if found != key.fingerprint:
        raise IdempotencyMismatch
    return Answer(stream, version, None if ranges is None else _expand(ranges))


def remember(connection: Connection, answers: Sequence[tuple[str, IdempotencyKey, Answer]], *, now_us: int) -> None:
    """Keep each tenant's answer under its key, in the transaction of the commands' events."""
    rows = [
        (
            tenant_id,
            key.key,
            key.fingerprint,
            now_us,
            answer.stream,
            answer.version,
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
