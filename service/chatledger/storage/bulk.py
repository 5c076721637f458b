"""One statement for many rows."""

from collections.abc import Sequence
from itertools import chain

from chatledger.storage.connection import Connection, SQLiteValue


class Bulk:
    """A statement over many rows at a time: one `VALUES` for up to 64 of them.

    APSW gives Python's interpreter lock back around each step of SQLite, and under load the writer waits some
    80 µs to get it again. One step instead of one for each row halves the time of a group, and a rebuild is
    faster by a third (docs/decisions/0007-many-rows-a-step.md). Of many rows, 256 are one statement.
    """

    ROWS_MAX = 64
    ROWS_MANY = 256  # a text that APSW still keeps in its cache: up to 16 KiB

    def __init__(self, before: str, row: str, after: str = "") -> None:
        """Write SQL as `{before} VALUES {row}, {row} … {after}`."""
        self._statements = [f"{before} VALUES {', '.join([row] * count)} {after}" for count in range(self.ROWS_MAX + 1)]
        self._many = f"{before} VALUES {', '.join([row] * self.ROWS_MANY)} {after}"

    def execute(self, connection: Connection, rows: Sequence[tuple[SQLiteValue, ...]]) -> None:
        """Run the statement for all of *rows*, in order."""
        many = len(rows) - len(rows) % self.ROWS_MANY
        for start in range(0, many, self.ROWS_MANY):
            connection.execute(self._many, list(chain.from_iterable(rows[start : start + self.ROWS_MANY])))
        for start in range(many, len(rows), self.ROWS_MAX):
            part = rows[start : start + self.ROWS_MAX]
            connection.execute(self._statements[len(part)], list(chain.from_iterable(part)))
