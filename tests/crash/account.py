"""The client's side of a scenario: what was sent, what was acknowledged, and what was handed out, and when."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import msgspec

from chatledger.storage.connection import Connection

Row: TypeAlias = tuple[Any, ...]

ROWS = """SELECT e.position, e.stream, s.tenant_id, s.session_id, e.version, e.type, e.schema, e.recorded_at, e.actor,
  e.request_id, e.leaf, e.payload, e.salt
  FROM events AS e LEFT JOIN streams AS s ON s.key = e.stream ORDER BY e.position"""
STREAM, TYPE, RECORDED_AT, LEAF, PAYLOAD, SALT = 1, 5, 7, 10, 11, 12


def read_rows(db: Connection) -> list[Row]:
    """All events, with their sessions."""
    return db.execute(ROWS).fetchall()


class Group(msgspec.Struct):
    """Commands that were sent together: operations behind which they were sent and answered; positions."""

    sent_at: int
    acknowledged_at: int | None = None
    first: int = 0
    last: int = 0


class Fact(msgspec.Struct):
    """Something else that the world knows from operation `at` on: a key, a head, that a copy is done."""

    at: int
    kind: str
    value: Any


class Account:
    """Filled while a scenario runs. `rows` are all events that the ledger had in the end, as they were written."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.groups: list[Group] = []
        self.facts: list[Fact] = []
        self.heads: list[tuple[int, bytes]] = []
        self.remade: frozenset[int] = frozenset()
        """Positions of events that are made anew if a restore is done again: other salts and times."""

    def add_rows(self, rows: Sequence[Row]) -> None:
        """Take up what is new of *rows*; what was there before stays as it was, payloads too."""
        self.rows.extend(rows[len(self.rows) :])

    def acknowledged(self, operation: int) -> int:
        """The highest position that was acknowledged when *operation* was done."""
        return max((group.last for group in self.groups if _by(group, operation)), default=0)

    def sent(self, operation: int) -> int:
        """The highest position that can be there then."""
        return max((group.last for group in self.groups if group.sent_at <= operation), default=0)

    def is_whole(self, count: int) -> bool:
        """Whether a ledger of *count* events ends between two groups."""
        return not any(group.first <= count < group.last for group in self.groups)

    def known(self, kind: str, operation: int) -> list[Any]:
        """The values of the facts of one kind by then."""
        return [fact.value for fact in self.facts if fact.kind == kind and fact.at <= operation]

    def erased_by(self, count: int) -> dict[int, int]:
        """Each stream that the first *count* events erase, and the position of the erasure."""
        return {row[STREAM]: row[0] for row in self.rows[:count] if row[TYPE] == "session.erased"}


def _by(group: Group, operation: int) -> bool:
    return group.acknowledged_at is not None and group.acknowledged_at <= operation
