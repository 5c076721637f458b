"""Holding two views files against each other, row by row, without ever having a whole table in memory."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias

import msgspec

from chatledger.storage.connection import Connection, SQLiteValue

Side: TypeAlias = Literal["live", "rebuilt", "both"]

_SCHEMA = """SELECT type, name, tbl_name, sql FROM sqlite_schema
  WHERE name NOT LIKE 'sqlite_stat%' ORDER BY type, name"""
_TABLES = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
_COLUMNS = "SELECT name, pk FROM pragma_table_info(?) ORDER BY cid"
# What `views` notes of a batch that is under way, and of the time at which it was built, is no reader's business.
_PASSED_OVER = {("views", "target"), ("views", "scrubbed")}
_RANKS = {type(None): 0, int: 1, float: 1, str: 2, bytes: 3}


class Difference(msgspec.Struct, frozen=True):
    """One row that is not the same on both sides. It names columns and keys, and shows no content beside."""

    table: str
    key: str
    side: Side
    columns: Sequence[str] = ()

    def __str__(self) -> str:
        """A line for people."""
        if self.side == "both":
            return f"{self.table} {self.key}: differs in {', '.join(self.columns)}"
        where = "the live views" if self.side == "live" else "the rebuild"
        return f"{self.table} {self.key}: only in {where}"


class _Table(msgspec.Struct, frozen=True):
    """How the rows of a table are read: in the order of their key, which comes first in each."""

    name: str
    columns: tuple[str, ...]
    key_columns: int
    has_key: bool = True

    @property
    def query(self) -> str:
        columns = ", ".join(f'"{column}"' for column in self.columns)
        order = ", ".join(f"{number + 1} COLLATE BINARY" for number in range(self.key_columns))
        return f'SELECT {columns} FROM "{self.name}" ORDER BY {order}'  # names from the schema

    def key(self, row: Sequence[SQLiteValue]) -> str:
        """The row's key, for people."""
        if not self.has_key:
            return "(without a key)"
        return " ".join(
            f"{column}={value!r}" for column, value in zip(self.columns, row[: self.key_columns], strict=False)
        )

    def difference(self, live: Sequence[SQLiteValue], rebuilt: Sequence[SQLiteValue]) -> Difference:
        """Of two rows with one key."""
        unlike = [name for name, one, other in zip(self.columns, live, rebuilt, strict=True) if one != other]
        return Difference(self.name, self.key(live), "both", unlike)


def differences(live: Connection, rebuilt: Connection) -> Iterator[Difference]:
    """Each difference between two views files: first of their schemas, then of the rows of tables that both have."""
    schema = _Table("sqlite_schema", ("type", "name", "tbl_name", "sql"), 2)
    yield from _merge(schema, live.execute(_SCHEMA), rebuilt.execute(_SCHEMA))
    common = {name for (name,) in live.execute(_TABLES)} & {name for (name,) in rebuilt.execute(_TABLES)}
    for name in sorted(common):
        table = _table(rebuilt, name)
        if table == _table(live, name):
            yield from _merge(table, live.execute(table.query), rebuilt.execute(table.query))


def _table(db: Connection, name: str) -> _Table:
    columns = [(column, pk) for column, pk in db.execute(_COLUMNS, (name,)) if (name, column) not in _PASSED_OVER]
    key = [column for column, pk in sorted(columns, key=lambda each: each[1]) if pk]
    others = [column for column, pk in columns if not pk]
    # Without a key all columns are one: two rows that are the same in all are not told apart.
    return _Table(name, (*key, *others), len(key) or len(columns), has_key=bool(key))


def _merge(
    table: _Table, live: Iterator[Sequence[SQLiteValue]], rebuilt: Iterator[Sequence[SQLiteValue]]
) -> Iterator[Difference]:
    """Walk along both, which are in the order of their keys."""
    one, other = next(live, None), next(rebuilt, None)
    while one is not None or other is not None:
        if one == other:
            one, other = next(live, None), next(rebuilt, None)
            continue
        mine = None if one is None else _order(one[: table.key_columns])
        theirs = None if other is None else _order(other[: table.key_columns])
        if one is not None and (theirs is None or (mine is not None and mine < theirs)):
            yield Difference(table.name, table.key(one), "live")
            one = next(live, None)
        elif other is not None and (mine is None or (theirs is not None and theirs < mine)):
            yield Difference(table.name, table.key(other), "rebuilt")
            other = next(rebuilt, None)
        elif one is not None and other is not None:
            yield table.difference(one, other)
            one, other = next(live, None), next(rebuilt, None)


def _order(key: Sequence[SQLiteValue]) -> tuple[Any, ...]:
    """SQLite's order of values: NULL, numbers, text by its UTF-8, bytes (https://www.sqlite.org/datatype3.html)."""
    return tuple((_RANKS[type(value)], 0 if value is None else value) for value in key)
