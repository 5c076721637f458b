"""The SQLite file of the CRUD store, its sessions one after the other in the order of their last activity.

Nothing of it is taken for granted: ids are compared byte by byte and by type, texts are read as bytes, and what cannot
be read of one session leaves the others as they are. Only ids, times and the rows of `sessions` are copied, into
temporary tables; messages are read where they lie, one session at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import msgspec

from service import database
from service.database import SQLError, SQLiteValue
from service.errors import RefusedToStart
from service.settings import Settings

SESSION_COLUMNS = ("id", "tenant_id", "user_id", "traits", "created_at")
MESSAGE_COLUMNS = ("id", "role", "content", "created_at")
_COLUMNS = {"sessions": {*SESSION_COLUMNS}, "messages": {*MESSAGE_COLUMNS, "session_id"}}
ROW_BYTES = 100
"""About what a message takes in a line of JSON beside its text."""
_ROOM_BYTES = 1024 * 1024
_TIME_BYTES_MAX = 64  # no text of a time is longer
_CODECS = {"UTF-8": "utf-8", "UTF-16le": "utf-16-le", "UTF-16be": "utf-16-be"}
_AFFINITIES = (
    ("INT", "INTEGER"),
    ("CHAR", "TEXT"),
    ("CLOB", "TEXT"),
    ("TEXT", "TEXT"),
    ("BLOB", ""),
    ("REAL", "REAL"),
    ("FLOA", "REAL"),
    ("DOUB", "REAL"),
)
_COLLATIONS = ("BINARY", "NOCASE", "RTRIM")  # a program's own ones are not known here

_TABLE = "SELECT type, wr FROM pragma_table_list WHERE schema = 'main' AND name = ? COLLATE NOCASE"
# hidden: 1 of a virtual table, 2 computed as it is read, 3 computed when it was written
_COLUMNS_OF = "SELECT lower(name) FROM pragma_table_xinfo(?, 'main') WHERE hidden IN (0, 3)"
_TEXT, _TOO_LONG = 1, 2
_ROWIDS = ("rowid", "_rowid_", "oid")


def _size(column: str) -> str:
    return f"coalesce(octet_length({column}), 0)"


def _bytes(column: str) -> str:
    """A value with its text as bytes, or NULL where it is too long to be looked at."""
    return (
        f"CASE WHEN {_size(column)} > :max THEN NULL WHEN typeof({column}) = 'text' THEN CAST({column} AS BLOB) "
        f"ELSE {column} END"
    )


def _forms(columns: tuple[str, ...]) -> str:
    """Two bits for each of *columns*: whether it is a text, and whether it is too long."""
    parts = [
        f"((typeof({column}) = 'text') | (({_size(column)} > :max) << 1)) << {2 * number}"
        for number, column in enumerate(columns)
    ]
    return " | ".join(f"({part})" for part in parts)


def _time(column: str) -> str:
    return (
        f"time_us(typeof({column}), CASE WHEN {_size(column)} > {_TIME_BYTES_MAX} THEN NULL "
        f"WHEN typeof({column}) = 'text' THEN CAST({column} AS BLOB) ELSE {column} END)"
    )


def _kept(columns: tuple[str, ...]) -> str:
    """The values themselves, without those that are too long."""
    return ", ".join(f"CASE WHEN {_size(column)} <= :max THEN {column} END" for column in columns)


# An index may be damaged where its table is not, or of a collation that only the store's own program knows.
_COUNT = "SELECT count(*) FROM main.sessions NOT INDEXED"
# Columns without a type keep each value as it is. Every comparison of ids is `IS` between one of these and `+column`,
# which has neither an affinity nor a collation of its own: '7' is not 7, and 'a' not 'A'.
_TABLES = """
CREATE TEMP TABLE found
  (n INTEGER PRIMARY KEY, forms INTEGER, created INTEGER, id, tenant_id, user_id, traits, created_at);
CREATE TEMP TABLE owners (key INTEGER PRIMARY KEY, id, rows INTEGER, created INTEGER, unsure INTEGER DEFAULT 0);
CREATE TEMP TABLE parts (n INTEGER PRIMARY KEY, key INTEGER, said INTEGER);
"""
_FIND = f"""INSERT INTO found (forms, created, {", ".join(SESSION_COLUMNS)})
  SELECT {_forms(SESSION_COLUMNS)}, {_time("created_at")}, {_kept(SESSION_COLUMNS)} FROM main.sessions NOT INDEXED"""
_FIND_ONE = f"{_FIND} WHERE {{rowid}} = :key"
_SESSION_ROWIDS = "SELECT {rowid} FROM main.sessions NOT INDEXED"
_OWN = """INSERT INTO owners (key, id, rows, created)
  SELECT min(n), id, count(*), min(created) FROM found GROUP BY id COLLATE BINARY;
CREATE INDEX owners_by_id ON owners (id);
"""
# A table WITHOUT ROWID does not know the order in which its rows were written; then ids have to do.
_COPY = f"""CREATE TEMP TABLE copied (forms INTEGER, session_id, {", ".join(MESSAGE_COLUMNS)});
INSERT INTO copied SELECT {_forms(MESSAGE_COLUMNS)}, session_id, {_kept(MESSAGE_COLUMNS)}
  FROM main.messages NOT INDEXED ORDER BY session_id COLLATE BINARY, id COLLATE BINARY"""
_PART = """INSERT INTO parts SELECT m.{rowid}, o.key, {said}
  FROM {table} AS m NOT INDEXED LEFT JOIN owners AS o ON o.id IS +m.session_id"""
_PART_AGAIN = "DELETE FROM parts"
_INDEX = "CREATE INDEX parts_by_key ON parts (key, n, said)"
_HAS_STRAYS = "SELECT EXISTS (SELECT 1 FROM parts WHERE key IS NULL)"
_STRAYS = """CREATE TEMP TABLE strays
  (n INTEGER PRIMARY KEY, exact, id {affinity} COLLATE {collation}, as_key {own_affinity}, key INTEGER);
INSERT INTO strays (exact, id, as_key) SELECT DISTINCT id, id, id FROM (
  SELECT +m.session_id COLLATE BINARY AS id FROM parts AS p CROSS JOIN {table} AS m ON m.{rowid} = p.n
  WHERE p.key IS NULL) ORDER BY id;
CREATE INDEX strays_by_id ON strays (exact);
"""
_KNOWN = """CREATE TEMP TABLE known (key INTEGER PRIMARY KEY, id {own_affinity} COLLATE {own_collation});
INSERT INTO known SELECT key, id FROM owners;
CREATE INDEX known_by_id ON known (id);
CREATE INDEX known_as_named ON known (id COLLATE {collation});
"""
# As the store itself compares the two: as its foreign key, by affinity and collation of sessions.id
# (https://www.sqlite.org/foreignkeys.html section 3), and as a query for messages, by that of messages.session_id.
_MATCHES = """CREATE TEMP TABLE matches AS
  SELECT s.n, k.key FROM strays AS s JOIN known AS k ON k.id = s.as_key
  UNION SELECT s.n, k.key FROM strays AS s JOIN known AS k ON s.id = k.id;
CREATE INDEX matches_by_n ON matches (n, key);
UPDATE owners SET unsure = 1 WHERE key IN
  (SELECT key FROM matches WHERE n IN (SELECT n FROM matches GROUP BY n HAVING count(*) > 1));
UPDATE strays SET key = (SELECT min(key) FROM matches WHERE n = strays.n);
"""
_ADOPT = """UPDATE parts SET key = (SELECT s.key FROM {table} AS m CROSS JOIN strays AS s ON s.exact IS +m.session_id
    WHERE m.{rowid} = parts.n)
  WHERE key IS NULL"""
_ORPHANS = f"SELECT {_forms(('exact',))}, {_bytes('exact')} FROM strays WHERE key IS NULL ORDER BY n"
_SESSIONS = f"""SELECT o.key, o.rows, o.unsure, f.forms,
    {", ".join(_bytes(f"f.{column}") for column in SESSION_COLUMNS)}
  FROM owners AS o JOIN found AS f ON f.n = o.key
  ORDER BY coalesce((SELECT max(said) FROM parts WHERE parts.key = o.key), o.created), o.key"""
_MESSAGES = f"""SELECT {{forms}}, {", ".join(_bytes(f"m.{column}") for column in MESSAGE_COLUMNS)}
  FROM parts AS p CROSS JOIN {{table}} AS m ON m.{{rowid}} = p.n WHERE p.key = :key ORDER BY p.n"""
_MESSAGE_FORMS = _forms(tuple(f"m.{column}" for column in MESSAGE_COLUMNS))


@lru_cache
def _texts_of(forms: int, columns: int) -> tuple[bool, ...] | None:
    """Which of so many columns are text; None where one is too long."""
    bits = [forms >> 2 * number for number in range(columns)]
    return None if any(each & _TOO_LONG for each in bits) else tuple(bool(each & _TEXT) for each in bits)


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


class _Place(msgspec.Struct, frozen=True):
    """Where messages are read: the table, the column that numbers its rows, and the SQL of their forms."""

    table: str
    rowid: str
    forms: str

    def sql(self, text: str, **others: str) -> str:
        """The statement *text* with them in it."""
        return text.format(table=self.table, rowid=self.rowid, forms=self.forms, **others)


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
        self._is_cut = self._has_strays = False
        self._db = database.open_foreign(path, settings, row_bytes_max=2 * self._bytes_max + _ROOM_BYTES)
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
        except database.Damaged:
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
        with self._naming():
            self._db.execute(_TABLES)
            with database.reading_on(self._db):
                place = self._prepare()
                done = 0
                for key, rows, unsure, forms, *values in self._db.execute(_SESSIONS, self._limit):
                    done += 1
                    yield self._stored(place, key, rows, forms, values, is_unsure=bool(unsure))
                if self._is_cut:
                    raise RefusedToStart(f"{self._name} is damaged behind {done} sessions; those are imported.")
                if self._has_strays:
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
            if database.is_interrupt(error):
                raise RefusedToStart(
                    f"{self._name} takes more work to read than a file of its size can need."
                ) from error
            if database.is_full(error):
                raise RefusedToStart(
                    f"There is no room for the temporary files that reading {self._name} takes (SQLITE_TMPDIR)."
                ) from error
            if database.is_damage(error):
                raise RefusedToStart(f"{self._name} is damaged.") from error
            raise RefusedToStart(f"{self._name} cannot be read: {error}.") from error

    # The order

    def _prepare(self) -> _Place:
        """Fill the temporary tables: whose each message is, and when each session was last active."""
        self._find()
        self._db.execute(_OWN)
        try:
            place = self._place()
            self._part(place)
        except SQLError as error:
            if not (database.is_damage(error) or database.is_twin(error)):
                raise
            raise RefusedToStart(
                f"{self._name} is damaged where its messages are, so that no session is known to be whole; nothing was "
                f"imported. Recover it first (sqlite3 {self._name} .recover)."
            ) from error
        self._adopt(place)
        self._db.execute(_INDEX)
        return place

    def _find(self) -> None:
        try:
            self._db.execute(_FIND, self._limit)
        except SQLError as error:
            rowid = self._rowids["sessions"]
            if rowid is None or not database.is_damage(error):
                raise
            self._find_one_by_one(rowid)

    def _find_one_by_one(self, rowid: str) -> None:
        """The sessions of a damaged table up to where it cannot be read on."""
        self._is_cut = True
        with suppress(*database.Damaged):
            for (number,) in self._db.execute(_SESSION_ROWIDS.format(rowid=rowid)):
                with suppress(*database.Damaged):
                    self._db.execute(_FIND_ONE.format(rowid=rowid), {**self._limit, "key": number})

    def _place(self) -> _Place:
        rowid = self._rowids["messages"]
        if rowid is not None:
            return _Place("main.messages", rowid, _MESSAGE_FORMS)
        self._db.execute(_COPY, self._limit)
        return _Place("copied", "rowid", "m.forms")

    def _part(self, place: _Place) -> None:
        try:
            self._db.execute(place.sql(_PART, said=_time("m.created_at")))
        except database.Damaged:
            # As of a long message, behind which its time stands: whose it is may still be read, and only that session
            # is lost. The order goes by the creation of sessions then.
            self._db.execute(_PART_AGAIN)
            self._db.execute(place.sql(_PART, said="NULL"))

    def _adopt(self, place: _Place) -> None:
        """Give messages whose session's id is there in another form to the session that the store would find for them.

        That is the one of its foreign key, or of a query by the column: both may pass over case, blanks and types.
        """
        self._has_strays = bool(self._db.execute(_HAS_STRAYS).get)
        if not self._has_strays:
            return
        affinity, collation = self._declared("messages", "session_id")
        own_affinity, own_collation = self._declared("sessions", "id")
        declared = {"affinity": affinity, "collation": collation, "own_affinity": own_affinity}
        self._db.execute(place.sql(_STRAYS, **declared))
        self._db.execute(_KNOWN.format(own_collation=own_collation, **declared))
        self._db.execute(_MATCHES)
        self._db.execute(place.sql(_ADOPT))

    def _declared(self, table: str, column: str) -> tuple[str, str]:
        """The affinity and the collation of a column (https://www.sqlite.org/datatype3.html section 3.1)."""
        kind, collation, *_ = self._db.column_metadata("main", table, column)
        name = (kind or "").upper()
        affinity = next((found for part, found in _AFFINITIES if part in name), "NUMERIC") if name else ""
        return affinity, collation.upper() if collation and collation.upper() in _COLLATIONS else "BINARY"

    # One session

    def _stored(
        self, place: _Place, key: int, rows: int, forms: int, values: Sequence[SQLiteValue], *, is_unsure: bool
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

    def _messages(self, place: _Place, key: int) -> list[list[SQLiteValue]]:
        found: list[list[SQLiteValue]] = []
        size = 0
        try:
            for forms, *values in self._db.execute(place.sql(_MESSAGES), {**self._limit, "key": key}):
                size += ROW_BYTES + sum(len(value) for value in values if isinstance(value, bytes))
                if size > self._bytes_max:
                    raise _Fault(f"longer than {self._bytes_max} bytes")
                found.append(self._decoded(values, forms, MESSAGE_COLUMNS))
        except database.Damaged:
            raise _Fault("the file is damaged where its messages are") from None
        return found

    def _decoded(self, values: Sequence[SQLiteValue], forms: int, columns: Sequence[str]) -> list[SQLiteValue]:
        texts = _texts_of(forms, len(columns))
        if texts is None:
            number = next(number for number in range(len(columns)) if forms >> 2 * number & _TOO_LONG)
            raise _Fault(f"{columns[number]} is longer than {self._bytes_max} bytes")
        try:
            # str(value, codec) is only for bytes, which every value of a text is.
            return [str(value, self._codec) if is_text else value for value, is_text in zip(values, texts, strict=True)]  # type: ignore[arg-type]
        except UnicodeDecodeError:
            raise _Fault(f"a text of it is not {self._codec[:6].rstrip('-').upper()}") from None

    def _named(self, value: SQLiteValue, forms: int) -> SQLiteValue:
        """An id for people: bytes stay bytes where they are no text."""
        try:
            return self._text(value) if forms & _TEXT else value
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
