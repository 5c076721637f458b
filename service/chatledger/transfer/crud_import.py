"""The sessions of the SQLite file of the CRUD store that chatledger replaces, as an import takes them.

Its tables: sessions(id, tenant_id, user_id, traits, created_at), messages(id, session_id, role, content, created_at).
"""

import datetime as dt
from collections.abc import Generator, Sequence
from pathlib import Path

import msgspec
from msgspec import Raw

from chatledger.domain.ids import ID_RULE, is_id
from chatledger.domain.timestamps import format_us, to_us
from chatledger.settings import Settings
from chatledger.storage.connection import SQLiteValue
from chatledger.transfer.crud_store import CrudStore, Stored
from chatledger.transfer.json_lines import Item, Rejected, Source, parse_line

# Times of which size are in which unit: 10^11 s is the year 5138, 10^11 ms is 1973.
_MS_FROM = 10**11
_US_FROM = 10**14


def open_crud_store(path: Path, settings: Settings, tenant_id: str) -> Source:
    """The sessions of the CRUD store's file, least recently active first; one is in memory at a time.

    Raises:
        RefusedToStart: it has other tables, or is damaged (also later, while its items are read).
    """
    store = CrudStore(path, settings, _time)
    done = 0

    def items() -> Generator[Item]:
        nonlocal done
        for stored in store.sessions():
            done += not stored.is_orphan
            yield _item(stored, settings, tenant_id)

    reading = items()

    def close() -> None:
        reading.close()  # while there is a transaction to end
        store.close()

    return Source(items=reading, total=store.total, unit="sessions", done=lambda: done, stop=store.stop, close=close)


def _item(stored: Stored, settings: Settings, tenant_id: str) -> Item:
    if stored.is_orphan:
        return Rejected(f"messages of session {stored.session_id!r}", stored.fault)
    if stored.fault:
        return Rejected(f"session {stored.session_id!r}", stored.fault)
    return _parse_row(stored.session, stored.messages, settings, tenant_id)


def _parse_row(
    row: Sequence[SQLiteValue], messages: Sequence[Sequence[SQLiteValue]], settings: Settings, tenant_id: str
) -> Item:
    """A session of the CRUD store as the line that it would be in the other format."""
    session_id, tenant, user_id, traits, created_at = row
    where = f"session {session_id!r}"
    try:
        times = [_time(message[3]) for message in messages]
        # Its readers saw messages by time; those of the same time in the order in which they were written.
        order = sorted(range(len(messages)), key=lambda number: times[number])
        line = {
            "id": _text(session_id, "id"),
            "user_id": _text(user_id, "user_id"),
            "traits": _traits(traits),
            "created_at": format_us(_time(created_at)),
            "messages": [
                {
                    "id": _text(messages[number][0], "a message's id"),
                    "role": _text(messages[number][1], "a message's role"),
                    "content": _text(messages[number][2], "a message's content"),
                    "created_at": format_us(times[number]),
                }
                for number in order
            ],
        }
        text = msgspec.json.encode(line)
    except (ValueError, TypeError, OverflowError) as error:
        return Rejected(where, f"{error}")
    except RecursionError:
        return Rejected(where, "traits nest too deeply")
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
