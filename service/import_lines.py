"""The JSON lines format of imports and exports, and what every import file comes to."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import msgspec
from msgspec import UNSET, Raw, UnsetType

from service.clock import format_us, parse_us
from service.commands import CreateSession
from service.errors import DomainError, InvalidRequest, TooLarge
from service.ids import ID_RULE, is_id
from service.intake import MessageInput, accept_messages, accept_traits, check_session_size, may_nest_deeper
from service.jsontext import check_characters, check_depth, explain_malformed, may_be_deeper
from service.settings import Settings
from service.validation import refusal


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
    """Something in the file that cannot be imported, and why."""

    where: str
    reason: str


Item: TypeAlias = Found | Rejected


class Source(msgspec.Struct, frozen=True):
    """An import file: its items, and the total by which progress is measured."""

    items: Iterable[Item]
    total: int
    unit: str
    done: Callable[[], int]


ADDED_BYTES_MAX = 128
"""How much longer a message can be as it is kept than it was in its line: by an id, and a time in full."""

_line = msgspec.json.Decoder(SessionLine)


def open_lines(path: Path, settings: Settings, tenant_id: str) -> Source:
    """The sessions of a file of JSON lines; one line is in memory at a time."""
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
                    yield parse_line(text, where, settings, tenant_id)

    return Source(items=items(), total=path.stat().st_size, unit="bytes", done=lambda: offset)


def parse_line(text: bytes, where: str, settings: Settings, tenant_id: str) -> Item:
    """The session that a line says, checked as a request would be, or why it cannot be imported."""
    try:
        check_characters(text)
        line = _line.decode(text)
        _check_depth(line, text, depth_max=settings.json_depth_max)
        return _accept(line, where, settings, tenant_id, size_bytes=len(text))
    except DomainError as error:
        field = f" at {error.field}" if isinstance(error, InvalidRequest) and error.field else ""
        return Rejected(where, f"{error}{field}")
    except msgspec.ValidationError as error:
        refused = refusal(error, SessionLine)
        return Rejected(where, f"{refused} at {refused.field}")
    except msgspec.DecodeError as error:
        return Rejected(where, str(explain_malformed(text, error)))
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
