"""The JSON lines format of imports and exports, and what every import file comes to."""

import codecs
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

from chatledger.domain.commands import CreateSession
from chatledger.domain.ids import ID_RULE, is_id
from chatledger.domain.json_text import check_characters, check_depth, explain_malformed, may_be_deeper
from chatledger.domain.messages import MessageInput, accept_messages, accept_traits, check_session_size, may_nest_deeper
from chatledger.domain.timestamps import format_us, parse_us
from chatledger.domain.validation import refusal
from chatledger.errors import DomainError, InvalidRequest, RefusedToStart, TooLarge
from chatledger.settings import Settings
from chatledger.transfer.import_file import BOM, UNREADABLE, Input, reason


class SessionLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of the JSON lines format."""

    id: str
    user_id: str | None = None
    title: str | None = None
    traits: Raw | UnsetType = UNSET
    created_at: str | None = None
    messages: list[MessageInput] = []


class Found(msgspec.Struct, frozen=True):
    """A session in the file: `where` it stands there, for messages to people. `has_ids` tells given message ids.

    `size_bytes` is about what its messages take.
    """

    where: str
    tenant_id: str
    session_id: str
    command: CreateSession
    has_ids: list[bool]
    size_bytes: int


class Rejected(msgspec.Struct, frozen=True):
    """Something in the file that cannot be imported, and why. `is_foreign` tells what is no session at all."""

    where: str
    reason: str
    is_foreign: bool = False


Item: TypeAlias = Found | Rejected


class Source(msgspec.Struct, frozen=True):
    """An import file: its items, and the total by which progress is measured, None where nobody knows it.

    `stop` has a read that another thread waits for fail; `close` is for when nobody reads any more.
    """

    items: Iterable[Item]
    total: int | None
    unit: str
    done: Callable[[], int]
    stop: Callable[[], None]
    close: Callable[[], None]


FOREIGN_MAX = 20
"""So many lines that are no sessions, and nothing before them, are enough to see that it is another file."""
ADDED_BYTES_MAX = 128
"""How much longer a message can be as it is kept than it was in its line: by an id, and a time in full."""

_SPACE = 0x20
_ARRAY = re.compile(rb"\[\s*[\[{\"\]]")

_line = msgspec.json.Decoder(SessionLine)


def open_lines(file: Input, settings: Settings, tenant_id: str) -> Source:
    """The sessions of a file of JSON lines; one line is in memory at a time.

    Raises:
        RefusedToStart: it holds none, or cannot be read (also later, while its items are read).
    """
    items = _refusing_others(file, _items(file, settings, tenant_id))
    return Source(items=items, total=file.total, unit="bytes", done=lambda: file.done, stop=file.stop, close=file.close)


def _items(file: Input, settings: Settings, tenant_id: str) -> Iterator[Item]:
    limit = settings.import_line_bytes_max
    number = 0
    try:
        while text := file.text.readline(limit + len(BOM) + 1):
            number += 1
            # One stands where two files were put together, too.
            text = text.removeprefix(BOM)
            where = f"line {number}"
            if len(text) - text.endswith(b"\n") > limit:
                yield Rejected(where, f"longer than {limit} bytes")
                while text and not text.endswith(b"\n"):
                    text = file.text.readline(limit)
            elif text.strip():
                yield parse_line(text, where, settings, tenant_id)
    except UNREADABLE as error:
        raise RefusedToStart(
            f"{file.name} cannot be read behind line {number}: {reason(error)}; the sessions before are imported."
        ) from error


def _refusing_others(file: Input, items: Iterator[Item]) -> Iterator[Item]:
    """All of *items*, once it is known that they are of a file that an import is for.

    Raises:
        RefusedToStart: it begins with FOREIGN_MAX lines that are no sessions.
    """
    foreign: list[Item] = []
    for item in items:
        if not (isinstance(item, Rejected) and item.is_foreign):
            return chain(foreign, [item], items)
        foreign.append(item)
        if len(foreign) == FOREIGN_MAX:
            raise RefusedToStart(
                f"{file.name} has no sessions: none in its first {FOREIGN_MAX} lines. "
                f"It seems to be {_kind(file.head)}."
            )
    return iter(foreign)


def _kind(head: bytes) -> str:
    """What a file that begins with *head* seems to be, in words, and what to do with it."""
    begin = head.removeprefix(BOM).lstrip()
    first, line_end, _ = begin.partition(b"\n")
    kinds = (
        (any(byte < _SPACE and byte not in b"\t\n\r" for byte in head), "binary data"),
        (b'"source":"urn:uuid:' in begin, "an export of events: export without --events"),
        (_ARRAY.match(begin), "a JSON array: write each element on a line of its own (jq -c '.[]')"),
        (
            begin.startswith(b"{") and line_end and first.rstrip().endswith((b"{", b"[", b",")),
            "one JSON document over many lines: write each session on a line of its own (jq -c)",
        ),
        (begin.startswith(b"{"), "JSON lines of something else: a session has an id and messages"),
        (begin.startswith(b"<"), "HTML or XML"),
        (not _is_utf8(head), "in another encoding than UTF-8: convert it first (iconv -t UTF-8)"),
    )
    return next((kind for found, kind in kinds if found), "a text")


def _is_utf8(text: bytes) -> bool:
    """Whether it is, but for a character that its end may have cut."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(text)
    except UnicodeDecodeError:
        return False
    return True


def parse_line(text: bytes, where: str, settings: Settings, tenant_id: str) -> Item:
    """The session that a line says, checked as a request would be, or why it cannot be imported."""
    try:
        check_characters(text)
        line = _line.decode(text)
        _check_depth(line, text, depth_max=settings.json_depth_max)
        return _accept(line, where, settings, tenant_id, size_bytes=len(text))
    except DomainError as error:
        field = f" at {error.field}" if isinstance(error, InvalidRequest) and error.field else ""
        return Rejected(where, f"{error}{field}", is_foreign=not _is_utf8(text))
    except msgspec.ValidationError as error:
        # Of the line itself, not of a member: it is no object, or one with other members.
        refused = refusal(error, SessionLine)
        return Rejected(where, f"{refused} at {refused.field}", is_foreign=" - at " not in str(error))
    except msgspec.DecodeError as error:
        return Rejected(where, str(explain_malformed(text, error)), is_foreign=True)
    except RecursionError:
        return Rejected(where, "arrays and objects nest too deeply")


def _check_depth(line: SessionLine, text: bytes, *, depth_max: int) -> None:
    traits = line.traits is not UNSET and may_be_deeper(line.traits, depth_max - 1)
    if traits or may_nest_deeper(line.messages, depth_max):
        check_depth(text, depth_max=depth_max)


def _accept(line: SessionLine, where: str, settings: Settings, tenant_id: str, *, size_bytes: int) -> Found:
    if not is_id(line.id):
        raise InvalidRequest(f"An id is {ID_RULE}.", field="$.id")
    messages = accept_messages(line.messages, field="$.messages")
    if size_bytes + ADDED_BYTES_MAX > settings.message_bytes_max:  # else none of them can be too long
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
    return Found(where, tenant_id, line.id, command, has_ids, size_bytes)
