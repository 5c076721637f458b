"""Import: JSON lines, or the SQLite file of the CRUD store that chatledger replaces.

Each session is one run of events in one transaction, so that after an interruption a session is there whole or not at
all, and a second run passes over those that are. Both readers stream: one session is in memory at a time.
"""

import datetime as dt
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

from service import database, ledger
from service.clock import format_us, parse_us, to_us
from service.commands import CreateSession
from service.committer import Committed, Committer, Submission
from service.database import Connection
from service.errors import DomainError, InvalidRequest, RefusedToStart, SessionExists, TooLarge
from service.events import Message, MessageAppended, SessionCreated
from service.ids import ID_RULE, is_id
from service.intake import MessageInput, accept_messages, accept_traits, check_session_size
from service.jsontext import check_text, explain_malformed, same_json
from service.settings import Settings
from service.state import NO_TRAITS

ACTOR = "import"
GROUP_EVENTS = 5_000
"""Events that one ledger transaction takes: beyond a few thousand a larger group is no faster."""

_SQLITE_MAGIC = b"SQLite format 3\x00"


class SessionLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of the JSON lines format."""

    id: str
    user_id: str | None = None
    title: str | None = None
    traits: Raw | UnsetType = UNSET
    created_at: str | None = None
    messages: list[MessageInput] = []


class Found(msgspec.Struct, frozen=True):
    """A session in the file: `where` it stands there, for messages to people. `has_ids` tells given message ids."""

    where: str
    tenant_id: str
    session_id: str
    command: CreateSession
    has_ids: list[bool]


class Rejected(msgspec.Struct, frozen=True):
    """Something in the file that cannot be imported, and why."""

    where: str
    reason: str


Item: TypeAlias = Found | Rejected


class Report(msgspec.Struct):
    """What an import did."""

    sessions: int = 0
    messages: int = 0
    present: int = 0
    rejected: int = 0


class Source(msgspec.Struct, frozen=True):
    """An import file: its items, and the total by which progress is measured."""

    items: Iterable[Item]
    total: int
    unit: str
    done: Callable[[], int]


def open_source(path: Path, settings: Settings, *, tenant_id: str) -> Source:
    """Look at the file's first bytes and choose the reader.

    Raises:
        RefusedToStart: it cannot be read, or is an SQLite file without the CRUD store's tables.
    """
    if path.resolve() == Path(settings.database_path).resolve():
        raise RefusedToStart(f"{path.name} is the ledger itself.")
    try:
        with path.open("rb") as file:
            magic = file.read(len(_SQLITE_MAGIC))
    except OSError as error:
        raise RefusedToStart(f"{path} cannot be read: {error.strerror}.") from error
    return _crud_store(path, settings, tenant_id) if magic == _SQLITE_MAGIC else _lines(path, settings, tenant_id)


def run(
    committer: Committer,
    source: Source,
    *,
    on_rejected: Callable[[Rejected], None],
    on_progress: Callable[[int], None],
) -> Report:
    """Import all of *source*. What is rejected takes nothing else with it."""
    report = Report()
    group: list[Found] = []
    events = 0
    for item in source.items:
        if isinstance(item, Rejected):
            report.rejected += 1
            on_rejected(item)
            continue
        group.append(item)
        events += 1 + len(item.command.messages)
        if events >= GROUP_EVENTS:
            _commit(committer, group, report, on_rejected)
            on_progress(source.done())
            group, events = [], 0
    _commit(committer, group, report, on_rejected)
    on_progress(source.done())
    return report


def _commit(committer: Committer, group: list[Found], report: Report, on_rejected: Callable[[Rejected], None]) -> None:
    outcomes = committer.commit(
        [
            Submission(tenant_id=found.tenant_id, session_id=found.session_id, actor=ACTOR, command=found.command)
            for found in group
        ]
    )
    for found, outcome in zip(group, outcomes, strict=True):
        if isinstance(outcome, Committed):
            report.sessions += 1
            report.messages += len(found.command.messages)
        elif isinstance(outcome, SessionExists) and _is_present(committer.ledger, found):
            report.present += 1
        else:
            report.rejected += 1
            on_rejected(Rejected(found.where, f"session {found.session_id}: {outcome}"))


def _is_present(connection: Connection, found: Found) -> bool:
    """Whether the ledger's session begins with just what the file has, whatever came after.

    An erased one counts as present: an import must not bring it back.
    """
    stream = ledger.find_stream(connection, found.tenant_id, found.session_id)
    if stream is None:
        return False
    command = found.command
    records = ledger.read_stream(connection, stream, to_version=1 + len(command.messages))
    data = [record.event.data for record in records]
    if data and data[0] is None:
        return True
    if len(data) != 1 + len(command.messages) or not isinstance(data[0], SessionCreated):
        return False
    created = data[0]
    traits = NO_TRAITS if created.traits is UNSET else created.traits
    if (created.user_id, created.title, created.created_at) != (
        command.user_id,
        command.title,
        command.created_at,
    ):
        return False
    return same_json(traits, command.traits) and all(
        isinstance(stored, MessageAppended) and _same_message(stored.message, message, has_id=has_id)
        for stored, message, has_id in zip(data[1:], command.messages, found.has_ids, strict=True)
    )


def _same_message(stored: Message, message: Message, *, has_id: bool) -> bool:
    wanted = message if has_id else msgspec.structs.replace(message, id=stored.id)
    return same_json(msgspec.json.encode(stored), msgspec.json.encode(wanted))


# JSON lines


_line = msgspec.json.Decoder(SessionLine)


def _lines(path: Path, settings: Settings, tenant_id: str) -> Source:
    offset = 0

    def items() -> Iterator[Item]:
        nonlocal offset
        with path.open("rb") as file:
            number = 0
            while text := file.readline(settings.import_line_bytes_max + 1):
                number += 1
                offset += len(text)
                where = f"line {number}"
                if len(text) > settings.import_line_bytes_max and not text.endswith(b"\n"):
                    yield Rejected(where, f"longer than {settings.import_line_bytes_max} bytes")
                    while rest := file.readline(settings.import_line_bytes_max):
                        offset += len(rest)
                        if rest.endswith(b"\n"):
                            break
                elif text.strip():
                    yield _parse_line(text, where, settings, tenant_id)

    return Source(items=items(), total=path.stat().st_size, unit="bytes", done=lambda: offset)


def _parse_line(text: bytes, where: str, settings: Settings, tenant_id: str) -> Item:
    try:
        check_text(text, depth_max=settings.json_depth_max)
        line = _line.decode(text)
        return _accept(line, where, settings, tenant_id)
    except DomainError as error:
        field = f" at {error.field}" if isinstance(error, InvalidRequest) and error.field else ""
        return Rejected(where, f"{error}{field}")
    except msgspec.ValidationError as error:
        return Rejected(where, f"{error}.")
    except msgspec.DecodeError as error:
        return Rejected(where, str(explain_malformed(text, error)))
    except RecursionError:
        return Rejected(where, "arrays and objects nest too deeply")


def _accept(line: SessionLine, where: str, settings: Settings, tenant_id: str) -> Found:
    if not is_id(line.id):
        raise InvalidRequest(f"An id is {ID_RULE}.", field="$.id")
    messages = accept_messages(line.messages, field="$.messages")
    for message in messages:
        if len(msgspec.json.encode(message)) > settings.message_bytes_max:
            raise TooLarge("message", limit_bytes=settings.message_bytes_max)
    traits = accept_traits(line.traits)
    check_session_size(settings, title=line.title, user_id=line.user_id, traits=traits)
    try:
        created_at = None if line.created_at is None else format_us(parse_us(line.created_at))
    except ValueError as error:
        raise InvalidRequest(f"Not a time: {error}.", field="$.created_at") from None
    command = CreateSession(
        user_id=line.user_id, title=line.title, traits=traits, created_at=created_at, messages=messages
    )
    has_ids = [isinstance(message.id, str) for message in line.messages]
    return Found(where, tenant_id, line.id, command, has_ids)


# The CRUD store: sessions(id, tenant_id, user_id, traits, created_at), messages(id, session_id, role, content,
# created_at). It had no index by session as a rule, so both tables are read in order of the session and merged.

_SESSIONS = "SELECT id, tenant_id, user_id, traits, created_at FROM sessions ORDER BY id"
_MESSAGES = "SELECT session_id, id, role, content, created_at FROM messages ORDER BY session_id, rowid"
_CRUD_COLUMNS = {
    "sessions": {"id", "tenant_id", "user_id", "traits", "created_at"},
    "messages": {"id", "session_id", "role", "content", "created_at"},
}


def _crud_store(path: Path, settings: Settings, tenant_id: str) -> Source:
    connection = database.open_foreign(path, settings)
    for table, wanted in _CRUD_COLUMNS.items():
        columns = {row[0] for row in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))}
        if not wanted <= columns:
            missing = ", ".join(sorted(wanted - columns))
            raise RefusedToStart(
                f"{path.name} is an SQLite file, but not the CRUD store's: its table {table} has no {missing}."
            )
    total = int(connection.execute("SELECT count(*) FROM sessions").get)
    done = 0

    def items() -> Iterator[Item]:
        nonlocal done
        groups = groupby(connection.execute(_MESSAGES), key=itemgetter(0))
        waiting = next(groups, None)
        for row in connection.execute(_SESSIONS):
            done += 1
            while waiting is not None and str(waiting[0]) < str(row[0]):
                yield Rejected(f"messages of session {waiting[0]!r}", "there is no such session")
                waiting = next(groups, None)
            messages: list[tuple[Any, ...]] = []
            if waiting is not None and waiting[0] == row[0]:
                messages = list(waiting[1])
                waiting = next(groups, None)
            yield _parse_row(row, messages, settings, tenant_id)
        while waiting is not None:
            yield Rejected(f"messages of session {waiting[0]!r}", "there is no such session")
            waiting = next(groups, None)

    return Source(items=items(), total=total, unit="sessions", done=lambda: done)


def _parse_row(row: tuple[Any, ...], messages: list[tuple[Any, ...]], settings: Settings, tenant_id: str) -> Item:
    """A session of the CRUD store as the line that it would be in the other format."""
    session_id, tenant, user_id, traits, created_at = row
    where = f"session {session_id!r}"
    try:
        times = [_crud_time(message[4]) for message in messages]
        # Its readers saw messages by time; those of the same time in the order in which they were written.
        order = sorted(range(len(messages)), key=lambda number: times[number])
        line = {
            "id": session_id,
            "user_id": user_id,
            "traits": None if traits in (None, "") else Raw(traits.encode()),
            "created_at": format_us(_crud_time(created_at)),
            "messages": [
                {
                    "id": messages[number][1],
                    "role": messages[number][2],
                    "content": messages[number][3],
                    "created_at": format_us(times[number]),
                }
                for number in order
            ],
        }
        text = msgspec.json.encode(line)
    except (ValueError, TypeError, OverflowError) as error:
        return Rejected(where, f"{error}")
    return _parse_line(text, where, settings, tenant or tenant_id)


_MS_FROM = 10**11
_US_FROM = 10**14


def _crud_time(value: object) -> int:
    """Microseconds since the epoch of a time as ORMs leave it in SQLite.

    A number is seconds, milliseconds or microseconds by its size (10^11 s is the year 5138, 10^11 ms is 1973);
    text is ISO 8601 or SQLite's CURRENT_TIMESTAMP, UTC where it names no offset.

    Raises:
        ValueError: it is none of these.
    """
    if isinstance(value, str):
        try:
            value = float(value) if "." in value else int(value)
        except ValueError:
            try:
                moment = dt.datetime.fromisoformat(str(value))
            except ValueError:
                raise ValueError(f"created_at {value!r} is not a time") from None
            return to_us(moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC))
    if not isinstance(value, (int, float)):
        raise TypeError(f"created_at {value!r} is not a time")
    size = abs(value)
    scale = 1 if size >= _US_FROM else 1000 if size >= _MS_FROM else 1_000_000
    return round(value * scale)
