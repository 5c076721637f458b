"""Reading the SQLite file of the CRUD store that chatledger replaces.

Its tables: sessions(id, tenant_id, user_id, traits, created_at), messages(id, session_id, role, content, created_at).
It had no index by session as a rule, so both tables are read in order of the session and merged.
"""

import datetime as dt
from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Raw

from service import database
from service.clock import format_us, to_us
from service.database import Connection
from service.errors import RefusedToStart
from service.ids import ID_RULE, is_id
from service.import_lines import Item, Rejected, Source, parse_line
from service.settings import Settings

_SESSIONS = "SELECT id, tenant_id, user_id, traits, created_at FROM sessions ORDER BY id"
# Behind the session, the order in which the messages were written; a table WITHOUT ROWID does not know it.
_MESSAGES = "SELECT session_id, id, role, content, created_at FROM messages ORDER BY session_id, rowid"
_MESSAGES_WITHOUT_ROWID = "SELECT session_id, id, role, content, created_at FROM messages ORDER BY session_id, id"
_HAS_NO_ROWID = "SELECT wr FROM pragma_table_list('messages')"
_COLUMNS = {
    "sessions": {"id", "tenant_id", "user_id", "traits", "created_at"},
    "messages": {"id", "session_id", "role", "content", "created_at"},
}

# Times of which size are in which unit: 10^11 s is the year 5138, 10^11 ms is 1973.
_MS_FROM = 10**11
_US_FROM = 10**14


def open_crud_store(path: Path, settings: Settings, tenant_id: str) -> Source:
    """The sessions of the CRUD store's file; one is in memory at a time.

    Raises:
        RefusedToStart: it has other tables, or is damaged (also later, while its items are read).
    """
    connection = database.open_foreign(path, settings)
    try:
        for table, wanted in _COLUMNS.items():
            columns = {row[0] for row in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))}
            if not wanted <= columns:
                missing = ", ".join(sorted(wanted - columns))
                raise RefusedToStart(
                    f"{path.name} is an SQLite file, but not the CRUD store's: its table {table} has no {missing}."
                )
        total = int(connection.execute("SELECT count(*) FROM sessions").get)
    except database.SQLError as error:
        raise RefusedToStart(f"{path.name} is damaged.") from error
    done = 0

    def items() -> Iterator[Item]:
        nonlocal done
        try:
            with database.snapshot(connection):
                for row, messages in _merge(connection):
                    if isinstance(row, Rejected):
                        yield row
                    else:
                        done += 1
                        yield _parse_row(row, messages, settings, tenant_id)
        except database.SQLError as error:
            raise RefusedToStart(f"{path.name} is damaged behind session {done}; those before are imported.") from error

    return Source(items=items(), total=total, unit="sessions", done=lambda: done)


def _merge(connection: Connection) -> Iterator[tuple[tuple[Any, ...] | Rejected, list[tuple[Any, ...]]]]:
    """Each session with its messages; messages whose session is not there are rejected."""
    query = _MESSAGES_WITHOUT_ROWID if connection.execute(_HAS_NO_ROWID).get else _MESSAGES
    groups = groupby(connection.execute(query), key=itemgetter(0))
    waiting = next(groups, None)
    for row in connection.execute(_SESSIONS):
        while waiting is not None and _order(waiting[0]) < _order(row[0]):
            yield _orphans(waiting[0]), []
            waiting = next(groups, None)
        messages: list[tuple[Any, ...]] = []
        if waiting is not None and _order(waiting[0]) == _order(row[0]):
            messages = list(waiting[1])
            waiting = next(groups, None)
        yield row, messages
    while waiting is not None:
        yield _orphans(waiting[0]), []
        waiting = next(groups, None)


def _order(value: object) -> tuple[int, Any]:
    """The place of *value* in SQLite's order: NULL, numbers, text, BLOBs (https://www.sqlite.org/datatype3.html)."""
    if value is None:
        return (0, 0)
    if isinstance(value, (int, float)):
        return (1, value)
    return (2, value.encode()) if isinstance(value, str) else (3, value)


def _orphans(session_id: object) -> Rejected:
    return Rejected(f"messages of session {session_id!r}", "there is no such session")


def _parse_row(row: tuple[Any, ...], messages: list[tuple[Any, ...]], settings: Settings, tenant_id: str) -> Item:
    """A session of the CRUD store as the line that it would be in the other format."""
    session_id, tenant, user_id, traits, created_at = row
    where = f"session {session_id!r}"
    try:
        times = [_time(message[4]) for message in messages]
        # Its readers saw messages by time; those of the same time in the order in which they were written.
        order = sorted(range(len(messages)), key=lambda number: times[number])
        line = {
            "id": _text(session_id, "id"),
            "user_id": _text(user_id, "user_id"),
            "traits": _traits(traits),
            "created_at": format_us(_time(created_at)),
            "messages": [
                {
                    "id": _text(messages[number][1], "a message's id"),
                    "role": _text(messages[number][2], "a message's role"),
                    "content": _text(messages[number][3], "a message's content"),
                    "created_at": format_us(times[number]),
                }
                for number in order
            ],
        }
        text = msgspec.json.encode(line)
    except (ValueError, TypeError, OverflowError) as error:
        return Rejected(where, f"{error}")
    if tenant is not None and tenant != "" and not (isinstance(tenant, str) and is_id(tenant)):
        return Rejected(where, f"its tenant_id {tenant!r} is not {ID_RULE}")
    return parse_line(text, where, settings, tenant or tenant_id)


def _text(value: object, what: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{what} is not text: {value!r:.80}")
    return value


def _traits(value: object) -> Raw | None:
    """The traits as JSON, which some ORMs keep as text and some as a BLOB: one value and nothing behind it."""
    if value is None or value in ("", b""):
        return None
    if not isinstance(value, (str, bytes)):
        raise TypeError(f"traits are not JSON: {value!r:.80}")
    try:
        return msgspec.json.decode(value, type=Raw)
    except msgspec.DecodeError as error:
        raise ValueError(f"traits are not JSON: {error}") from None


def _time(value: object) -> int:
    """Microseconds since the epoch of a time as ORMs leave it in SQLite.

    A number is seconds, milliseconds or microseconds by its size; text is ISO 8601 or SQLite's CURRENT_TIMESTAMP,
    UTC where it names no offset.

    Raises:
        ValueError, TypeError: it is none of these.
    """
    if isinstance(value, str):
        try:
            value = float(value) if "." in value else int(value)
        except ValueError:
            return _time_of_text(str(value))
    if not isinstance(value, (int, float)):
        raise TypeError(f"created_at {value!r:.80} is not a time")
    size = abs(value)
    scale = 1 if size >= _US_FROM else 1000 if size >= _MS_FROM else 1_000_000
    return round(value * scale)


def _time_of_text(text: str) -> int:
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"created_at {text!r:.80} is not a time") from None
    return to_us(moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC))
