"""The order of the CRUD store's sessions: whose each message is, and when each session was last active.

It is found with temporary tables of ids and times; the messages themselves stay where they are.
"""

from collections.abc import Mapping
from contextlib import suppress

import msgspec

from chatledger.errors import RefusedToStart
from chatledger.storage import sql_errors
from chatledger.storage.connection import Connection, SQLiteValue
from chatledger.storage.sql_errors import SQLError

SESSION_COLUMNS = ("id", "tenant_id", "user_id", "traits", "created_at")
MESSAGE_COLUMNS = ("id", "role", "content", "created_at")
TEXT, TOO_LONG = 1, 2
"""The bits that `forms_of` has for a column."""
_TIME_BYTES_MAX = 64  # no text of a time is longer
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


def _size(column: str) -> str:
    return f"coalesce(octet_length({column}), 0)"


def bytes_of(column: str) -> str:
    """A value with its text as bytes, or NULL where it is too long to be looked at."""
    return (
        f"CASE WHEN {_size(column)} > :max THEN NULL WHEN typeof({column}) = 'text' THEN CAST({column} AS BLOB) "
        f"ELSE {column} END"
    )


def forms_of(columns: tuple[str, ...]) -> str:
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


# Columns without a type keep each value as it is. Every comparison of ids is `IS` between one of these and `+column`,
# which has neither an affinity nor a collation of its own: '7' is not 7, and 'a' not 'A'.
_TABLES = """
CREATE TEMP TABLE session_rows
  (n INTEGER PRIMARY KEY, forms INTEGER, created INTEGER, id, tenant_id, user_id, traits, created_at);
CREATE TEMP TABLE session_ids (key INTEGER PRIMARY KEY, id, rows INTEGER, created INTEGER, unsure INTEGER DEFAULT 0);
CREATE TEMP TABLE message_rows (n INTEGER PRIMARY KEY, key INTEGER, said INTEGER);
"""
_FIND = f"""INSERT INTO session_rows (forms, created, {", ".join(SESSION_COLUMNS)})
  SELECT {forms_of(SESSION_COLUMNS)}, {_time("created_at")}, {_kept(SESSION_COLUMNS)} FROM main.sessions NOT INDEXED"""
_FIND_ONE = f"{_FIND} WHERE {{rowid}} = :key"
_SESSION_ROWIDS = "SELECT {rowid} FROM main.sessions NOT INDEXED"
_OWN = """INSERT INTO session_ids (key, id, rows, created)
  SELECT min(n), id, count(*), min(created) FROM session_rows GROUP BY id COLLATE BINARY;
CREATE INDEX session_ids_by_id ON session_ids (id);
"""
# A table WITHOUT ROWID does not know the order in which its rows were written; then ids have to do.
_COPY = f"""CREATE TEMP TABLE message_copies (forms INTEGER, session_id, {", ".join(MESSAGE_COLUMNS)});
INSERT INTO message_copies SELECT {forms_of(MESSAGE_COLUMNS)}, session_id, {_kept(MESSAGE_COLUMNS)}
  FROM main.messages NOT INDEXED ORDER BY session_id COLLATE BINARY, id COLLATE BINARY"""
_PART = """INSERT INTO message_rows SELECT m.{rowid}, o.key, {said}
  FROM {table} AS m NOT INDEXED LEFT JOIN session_ids AS o ON o.id IS +m.session_id"""
_PART_AGAIN = "DELETE FROM message_rows"
_INDEX = "CREATE INDEX message_rows_by_key ON message_rows (key, n, said)"
_HAS_UNMATCHED = "SELECT EXISTS (SELECT 1 FROM message_rows WHERE key IS NULL)"
_UNMATCHED = """CREATE TEMP TABLE unmatched
  (n INTEGER PRIMARY KEY, exact, id {affinity} COLLATE {collation}, as_key {own_affinity}, key INTEGER);
INSERT INTO unmatched (exact, id, as_key) SELECT DISTINCT id, id, id FROM (
  SELECT +m.session_id COLLATE BINARY AS id FROM message_rows AS p CROSS JOIN {table} AS m ON m.{rowid} = p.n
  WHERE p.key IS NULL) ORDER BY id;
CREATE INDEX unmatched_by_id ON unmatched (exact);
"""
_DECLARED = """CREATE TEMP TABLE declared (key INTEGER PRIMARY KEY, id {own_affinity} COLLATE {own_collation});
INSERT INTO declared SELECT key, id FROM session_ids;
CREATE INDEX declared_by_id ON declared (id);
CREATE INDEX declared_as_named ON declared (id COLLATE {collation});
"""
# As the store itself compares the two: as its foreign key, by affinity and collation of sessions.id
# (https://www.sqlite.org/foreignkeys.html section 3), and as a query for messages, by that of messages.session_id.
_MATCHES = """CREATE TEMP TABLE matches AS
  SELECT s.n, k.key FROM unmatched AS s JOIN declared AS k ON k.id = s.as_key
  UNION SELECT s.n, k.key FROM unmatched AS s JOIN declared AS k ON s.id = k.id;
CREATE INDEX matches_by_n ON matches (n, key);
UPDATE session_ids SET unsure = 1 WHERE key IN
  (SELECT key FROM matches WHERE n IN (SELECT n FROM matches GROUP BY n HAVING count(*) > 1));
UPDATE unmatched SET key = (SELECT min(key) FROM matches WHERE n = unmatched.n);
"""
_ASSIGN = """UPDATE message_rows SET key = (
    SELECT s.key FROM {table} AS m CROSS JOIN unmatched AS s ON s.exact IS +m.session_id
    WHERE m.{rowid} = message_rows.n)
  WHERE key IS NULL"""


_MESSAGE_FORMS = forms_of(tuple(f"m.{column}" for column in MESSAGE_COLUMNS))


class Place(msgspec.Struct, frozen=True):
    """Where messages are read: the table, the column that numbers its rows, and the SQL of their forms."""

    table: str
    rowid: str
    forms: str

    def sql(self, text: str, **others: str) -> str:
        """The statement *text* with them in it."""
        return text.format(table=self.table, rowid=self.rowid, forms=self.forms, **others)


class Order:
    """Fills temporary tables from which sessions are read in order.

    They are `session_rows`, each row of `sessions`; `session_ids`, each id of them; `message_rows`, whose each message
    is, and its time; and `unmatched`, ids that messages name and no session has. `is_cut` tells that not all sessions
    could be read, `has_unmatched` that there is the last of these tables.
    """

    def __init__(self, db: Connection, name: str, rowids: Mapping[str, str | None], *, bytes_max: int) -> None:
        """Make one for a connection that has the SQL function `time_us(typeof, value)`.

        Args:
            db: To the file, with temporary tables.
            name: The file's, for errors.
            rowids: By which name the rows of each of the two tables are numbered, if they are.
            bytes_max: What is longer is not looked at.
        """
        self._db = db
        self._name = name
        self._rowids = rowids
        self._limit: dict[str, SQLiteValue] = {"max": bytes_max}
        self.is_cut = self.has_unmatched = False

    def prepare(self) -> Place:
        """Fill them.

        Raises:
            RefusedToStart: the messages cannot all be read.
            SQLError: nor can the sessions, up to anywhere.
        """
        self._db.execute(_TABLES)
        self._find()
        self._db.execute(_OWN)
        try:
            place = self._place()
            self._part(place)
        except SQLError as error:
            if not (sql_errors.is_damage(error) or sql_errors.is_duplicate_key(error)):
                raise
            raise RefusedToStart(
                f"{self._name} is damaged where its messages are, so that no session is known to be whole; nothing was "
                f"imported. Recover it first (sqlite3 {self._name} .recover)."
            ) from error
        self._assign_unmatched(place)
        self._db.execute(_INDEX)
        return place

    def _find(self) -> None:
        try:
            self._db.execute(_FIND, self._limit)
        except SQLError as error:
            rowid = self._rowids["sessions"]
            if rowid is None or not sql_errors.is_damage(error):
                raise
            self._find_one_by_one(rowid)

    def _find_one_by_one(self, rowid: str) -> None:
        """The sessions of a damaged table up to where it cannot be read on."""
        self.is_cut = True
        with suppress(*sql_errors.Damaged):
            for (number,) in self._db.execute(_SESSION_ROWIDS.format(rowid=rowid)):
                with suppress(*sql_errors.Damaged):
                    self._db.execute(_FIND_ONE.format(rowid=rowid), {**self._limit, "key": number})

    def _place(self) -> Place:
        rowid = self._rowids["messages"]
        if rowid is not None:
            return Place("main.messages", rowid, _MESSAGE_FORMS)
        self._db.execute(_COPY, self._limit)
        return Place("message_copies", "rowid", "m.forms")

    def _part(self, place: Place) -> None:
        try:
            self._db.execute(place.sql(_PART, said=_time("m.created_at")))
        except sql_errors.Damaged:
            # As of a long message, behind which its time stands: whose it is may still be read, and only that session
            # is lost. The order goes by the creation of sessions then.
            self._db.execute(_PART_AGAIN)
            self._db.execute(place.sql(_PART, said="NULL"))

    def _assign_unmatched(self, place: Place) -> None:
        """Give messages whose session's id is there in another form to the session that the store would find for them.

        That is the one of its foreign key, or of a query by the column: both may pass over case, blanks and types.
        """
        self.has_unmatched = bool(self._db.execute(_HAS_UNMATCHED).get)
        if not self.has_unmatched:
            return
        affinity, collation = self._declared("messages", "session_id")
        own_affinity, own_collation = self._declared("sessions", "id")
        declared = {"affinity": affinity, "collation": collation, "own_affinity": own_affinity}
        self._db.execute(place.sql(_UNMATCHED, **declared))
        self._db.execute(_DECLARED.format(own_collation=own_collation, **declared))
        self._db.execute(_MATCHES)
        self._db.execute(place.sql(_ASSIGN))

    def _declared(self, table: str, column: str) -> tuple[str, str]:
        """The affinity and the collation of a column (https://www.sqlite.org/datatype3.html section 3.1)."""
        kind, collation, *_ = self._db.column_metadata("main", table, column)
        name = (kind or "").upper()
        affinity = next((found for part, found in _AFFINITIES if part in name), "NUMERIC") if name else ""
        return affinity, collation.upper() if collation and collation.upper() in _COLLATIONS else "BINARY"
