"""Query strings: within a limit before anybody parses them, and with no parameter that the operation does not have."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin
from urllib.parse import unquote_to_bytes

from chatledger.domain.validation import expected_one_of, shown
from chatledger.errors import InvalidRequest

if TYPE_CHECKING:
    from litestar.handlers.base import BaseRouteHandler

Choices = Mapping[str, Sequence[str]]

QUERY_BYTES_MAX = 8 * 1024

# Litestar's conversion takes `null` for "not given" and 1e1 for ten.
_NUMBERS = ("messages", "as_of_version", "limit", "after", "before")
_is_number = re.compile(r"[0-9]{1,16}").fullmatch
_one_number = re.compile(rb"([a-z_]{1,20})=[0-9]{1,16}").fullmatch


def check_query(query: bytes) -> None:
    """Refuse a query string that nobody should parse.

    Raises:
        InvalidRequest: it is too long, not UTF-8, or holds the character NUL.
    """
    if len(query) > QUERY_BYTES_MAX:
        raise InvalidRequest(f"The query is longer than {QUERY_BYTES_MAX} bytes.")
    if b"%" not in query and query.isascii() and b"\0" not in query:
        return
    try:
        text = unquote_to_bytes(query).decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise InvalidRequest("The query is not UTF-8, or holds the character NUL.")


def is_one_number(query: bytes, known: tuple[str, ...]) -> bool:
    """Whether *query* is one of the *known* numbers and nothing else: nearly all are, and need no closer look."""
    one = _one_number(query)
    return one is not None and (name := one[1].decode()) in known and name in _NUMBERS


@cache
def choices_of(handler: "BaseRouteHandler") -> Choices:
    """The values that *handler*'s parameters can have, of those that have not just any."""
    parameters = handler.parsed_fn_signature.parameters.items()
    return {name: found for name, each in parameters if (found := _literals(each.annotation))}


def _literals(annotation: Any) -> tuple[str, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(value for part in get_args(annotation) for value in _literals(part))


def check_parameters(given: Iterable[tuple[str, str]], known: tuple[str, ...], choices: Choices) -> None:
    """Refuse parameters that the operation does not have: a misspelt filter must not go unnoticed.

    Raises:
        InvalidRequest: there is one, or one came twice, or has a value that a conversion would bend.
    """
    seen = set()
    for name, value in given:
        if name not in known:
            expected = expected_one_of(known, name) if known else f"expected none; got {shown(name)}."
            raise InvalidRequest(f"Unknown query parameter: {expected}", field=name)
        if name in seen:
            raise InvalidRequest("The query parameter was given twice.", field=name)
        seen.add(name)
        if name in _NUMBERS and not _is_number(value):
            raise InvalidRequest(f"{name}: expected a whole number; got {shown(value)}.", field=name)
        if name in choices and value not in choices[name]:
            raise InvalidRequest(f"{name}: {expected_one_of(choices[name], value)}", field=name)
