"""The SQLite file of the CRUD store, its sessions one after the other in the order of their last activity.

Nothing of it is taken for granted: ids are compared byte by byte and by type, texts are read as bytes, and what cannot
be read of one session leaves the others as they are. Only ids, times and the rows of `sessions` are copied, into
temporary tables; messages are read where they lie, one session at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import msgspec

from chatledger.errors import RefusedToStart
from chatledger.settings import Settings
from chatledger.storage import foreign_file, sql_errors, transactions
from chatledger.storage.connection import SQLiteValue
from chatledger.storage.sql_errors import SQLError
from chatledger.transfer.crud_order import (
    MESSAGE_COLUMNS,
    SESSION_COLUMNS,
    TEXT,
    TOO_LONG,
    Order,
    Place,
    bytes_of,
    forms_of,
)

_COLUMNS = {"sessions": {*SESSION_COLUMNS}, "messages": {*MESSAGE_COLUMNS, "session_id"}}
ROW_BYTES = 100
"""About what a message takes in a line of JSON beside its text."""
_ROOM_BYTES = 1024 * 1024
_CODECS = {"UTF-8": "utf-8", "UTF-16le": "utf-16-le", "UTF-16be": "utf-16-be"}
_TABLE = "SELECT type, wr FROM pragma_table_list WHERE schema = 'main' AND name = ? COLLATE NOCASE"
# hidden: 1 of a virtual table, 2 computed as it is read, 3 computed when it was written
_COLUMNS_OF = "SELECT lower(name) FROM pragma_table_xinfo(?, 'main') WHERE hidden IN (0, 3)"
_ROWIDS = ("rowid", "_rowid_", "oid")


# An index may be damaged where its table is not, or of a collation that only the store's own program knows.
_COUNT = "SELECT count(*) FROM main.sessions NOT INDEXED"
_ORPHANS = f"SELECT {forms_of(('exact',))}, {bytes_of('exact')} FROM unmatched WHERE key IS NULL ORDER BY n"
_SESSIONS = f"""SELECT o.key, o.rows, o.unsure, f.forms,
    {", ".join(bytes_of(f"f.{column}") for column in SESSION_COLUMNS)}
  FROM session_ids AS o JOIN session_rows AS f ON f.n = o.key
  ORDER BY coalesce((SELECT max(said) FROM message_rows WHERE message_rows.key = o.key), o.created), o.key"""
_MESSAGES = f"""SELECT {{forms}}, {", ".join(bytes_of(f"m.{column}") for column in MESSAGE_COLUMNS)}
  FROM message_rows AS p CROSS JOIN {{table}} AS m ON m.{{rowid}} = p.n WHERE p.key = :key ORDER BY p.n"""


@lru_cache
def _texts_of(forms: int, columns: int) -> tuple[bool, ...] | None:
    """Which of so many columns are text; None where one is too long."""
    bits = [forms >> 2 * number for number in range(columns)]
    return None if any(each & TOO_LONG for each in bits) else tuple(bool(each & TEXT) for each in bits)


class Stored(msgspec.Struct, frozen=True):
    """A session as it is stored: `session`, in the order of SESSION_COLUMNS, and `messages`, of MESSAGE_COLUMNS.

    `fault` says why it cannot be taken, where it cannot: then `session_id` is all that is known. `is_orphan` tells
    messages without a session.
    """

    session_id: SQLiteValue
    session: Sequence[SQLiteValue] = ()
    messages: Sequence[Sequence[SQLiteValue]] = ()
    fault: str = ""
    is_orphan: bool = False


class _Fault(Exception):
    """What one session cannot be taken for, in words for whoever imports."""


class CrudStore:
    """The file at a path; `total` is how many sessions it has, None where that cannot be read.

    It is read by one thread, which may be another than the one that opened it.
    """

    def __init__(self, path: Path, settings: Settings, moment: Callable[[SQLiteValue], int]) -> None:
        """Open it and look at its tables.

        Args:
            path: The file, as SQLite is to open it.
            settings: They say how long a session may be.
            moment: Reads a time as the store has it, in microseconds since the epoch.

        Raises:
            RefusedToStart: it is no store of this kind, or cannot be read.
        """
        self._name = path.name
        self._bytes_max = settings.import_line_bytes_max
        self._moment = moment
        self._db = foreign_file.open_foreign(path, settings, row_bytes_max=2 * self._bytes_max + _ROOM_BYTES)
        try:
            with self._naming():
                self._rowids = {table: self._check(table) for table in _COLUMNS}
                self._codec = _CODECS[str(self._db.pragma("encoding"))]
                self.total = self._count()
                self._db.create_scalar_function("time_us", self._time_us, 2, deterministic=True)
        except BaseException:
            self._db.close()
            raise

    def _check(self, table: str) -> str | None:
        """The name by which the rows of *table* are numbered, if they are; it has the columns that are needed."""
        kind, has_no_rowid = self._db.execute(_TABLE, (table,)).fetchone() or ("table", 0)
        if kind != "table":
            raise RefusedToStart(f"{self._name} cannot be imported: its {table} is a {kind} and no table.")
        columns = {row[0] for row in self._db.execute(_COLUMNS_OF, (table,))}
        if not _COLUMNS[table] <= columns:
            missing = ", ".join(sorted(_COLUMNS[table] - columns))
            raise RefusedToStart(
                f"{self._name} is an SQLite file, but not the CRUD store's: its table {table} has no {missing}."
            )
        return None if has_no_rowid else next((name for name in _ROWIDS if name not in columns), None)

    def _count(self) -> int | None:
        """How many sessions there are, if the table can be read to its end."""
        try:
            return int(self._db.execute(_COUNT).get)
        except sql_errors.Damaged:
            return None

    def stop(self) -> None:
        """End what another thread is reading, with an error there."""
        self._db.interrupt()

    def close(self) -> None:
        """Close it; nobody reads it any more."""
        self._db.close()

    def sessions(self) -> Iterator[Stored]:
        """All sessions, least recently active first, and behind them the messages that belong to none.

        Raises:
            RefusedToStart: the file cannot be read to its end.
        """
        with self._naming(), transactions.reading_on(self._db):
            order = Order(self._db, self._name, self._rowids, bytes_max=self._bytes_max)
            place = order.prepare()
            done = 0
            for key, rows, unsure, forms, *values in self._db.execute(_SESSIONS, self._limit):
                done += 1
                yield self._stored(place, key, rows, forms, values, is_unsure=bool(unsure))
            if order.is_cut:
                raise RefusedToStart(f"{self._name} is damaged behind {done} sessions; those are imported.")
            if order.has_unmatched:
                for forms, value in self._db.execute(_ORPHANS, self._limit):
                    yield Stored(self._named(value, forms), fault="there is no such session", is_orphan=True)

    @property
    def _limit(self) -> dict[str, SQLiteValue]:
        return {"max": self._bytes_max}

    @contextmanager
    def _naming(self) -> Iterator[None]:
        """Say in words why the file cannot be read.

        Raises:
            RefusedToStart: instead of SQLite's error.
        """
        try:
            yield
        except SQLError as error:
            if sql_errors.is_interrupt(error):
                raise RefusedToStart(
                    f"{self._name} takes more work to read than a file of its size can need."
                ) from error
            if sql_errors.is_full(error):
                raise RefusedToStart(
                    f"There is no room for the temporary files that reading {self._name} takes (SQLITE_TMPDIR)."
                ) from error
            if sql_errors.is_damage(error):
                raise RefusedToStart(f"{self._name} is damaged.") from error
            raise RefusedToStart(f"{self._name} cannot be read: {error}.") from error

    # The order

    def _stored(
        self, place: Place, key: int, rows: int, forms: int, values: Sequence[SQLiteValue], *, is_unsure: bool
    ) -> Stored:
        session_id, fault = self._named(values[0], forms), ""
        if rows > 1:
            fault = f"the file has {rows} sessions of this id"
        elif is_unsure:
            fault = "messages may be its own or another session's: ids differ only in case, spaces or type"
        if fault:
            return Stored(session_id, fault=fault)
        try:
            session = self._decoded(values, forms, SESSION_COLUMNS)
            return Stored(session_id, session, self._messages(place, key))
        except _Fault as fault:
            return Stored(session_id, fault=str(fault))

    def _messages(self, place: Place, key: int) -> list[list[SQLiteValue]]:
        found: list[list[SQLiteValue]] = []
        size = 0
        try:
            for forms, *values in self._db.execute(place.sql(_MESSAGES), {**self._limit, "key": key}):
                size += ROW_BYTES + sum(len(value) for value in values if isinstance(value, bytes))
                if size > self._bytes_max:
                    raise _Fault(f"longer than {self._bytes_max} bytes")
                found.append(self._decoded(values, forms, MESSAGE_COLUMNS))
        except sql_errors.Damaged:
            raise _Fault("the file is damaged where its messages are") from None
        return found

    def _decoded(self, values: Sequence[SQLiteValue], forms: int, columns: Sequence[str]) -> list[SQLiteValue]:
        texts = _texts_of(forms, len(columns))
        if texts is None:
            number = next(number for number in range(len(columns)) if forms >> 2 * number & TOO_LONG)
            raise _Fault(f"{columns[number]} is longer than {self._bytes_max} bytes")
        try:
            # str(value, codec) is only for bytes, which every value of a text is.
            return [str(value, self._codec) if is_text else value for value, is_text in zip(values, texts, strict=True)]  # type: ignore[arg-type]
        except UnicodeDecodeError:
            raise _Fault(f"a text of it is not {self._codec[:6].rstrip('-').upper()}") from None

    def _named(self, value: SQLiteValue, forms: int) -> SQLiteValue:
        """An id for people: bytes stay bytes where they are no text."""
        try:
            return self._text(value) if forms & TEXT else value
        except UnicodeDecodeError:
            return value

    def _text(self, value: SQLiteValue) -> SQLiteValue:
        return value.decode(self._codec) if isinstance(value, bytes) else value

    def _time_us(self, *given: SQLiteValue) -> SQLiteValue:
        """The SQL function: a time's microseconds, or NULL of what is none; its session says so when it is read."""
        kind, value = given
        try:
            found = self._moment(self._text(value) if kind == "text" else value)
        except (ValueError, TypeError, OverflowError):
            return None
        return found if abs(found) < 2**63 else None
