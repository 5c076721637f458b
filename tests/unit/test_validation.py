"""Refusals name what is wrong, and what would be right."""

from typing import Any

import msgspec
import pytest

from chatledger.domain.messages import MessageInput
from chatledger.domain.validation import SHOWN_CHARACTERS_MAX, refusal, shown
from chatledger.errors import FIELD_CHARACTERS_MAX, InvalidRequest
from chatledger.http.routes.api_keys import KeyInput
from chatledger.http.routes.messages import BatchInput
from chatledger.http.routes.sessions import SessionInput
from chatledger.settings import Settings
from chatledger.transfer.json_lines import Rejected, parse_line

ROLES = "assistant, developer, system, tool, user"
SESSION_MEMBERS = "id, user_id, title, traits, messages"


def refused(kind: Any, body: str, where: str = "$") -> InvalidRequest:
    """The refusal of *body* as *kind*."""
    with pytest.raises(msgspec.ValidationError) as error:
        msgspec.json.decode(body, type=kind)
    return refusal(error.value, kind, where=where)


@pytest.mark.parametrize(
    ("kind", "body", "says", "field"),
    [
        (MessageInput, '{"role":"function"}', f"role: expected one of {ROLES}; got 'function'.", "$.role"),
        (
            BatchInput,
            '{"messages":[{"role":"user"},{"role":"function"}]}',
            f"role: expected one of {ROLES}; got 'function'.",
            "$.messages[1].role",
        ),
        (SessionInput, '{"mood":1}', f"Unknown member: expected one of {SESSION_MEMBERS}; got 'mood'.", "$.mood"),
        (MessageInput, '{"content":""}', "The member 'role' is missing.", "$.role"),
        (MessageInput, '{"role":5}', "Expected a string; got a whole number.", "$.role"),
        (MessageInput, '{"role":"user","name":[]}', "Expected a string or null; got an array.", "$.name"),
        (MessageInput, "[]", "Expected an object; got an array.", "$"),
        (KeyInput, '{"scopes":["read",1]}', "Expected a string; got a whole number.", "$.scopes[1]"),
        (KeyInput, '{"operator":"yes"}', "Expected true or false; got a string.", "$.operator"),
    ],
)
def test_a_refusal_names_the_member_and_the_choice(kind: Any, body: str, says: str, field: str) -> None:
    """In JSON's words."""
    error = refused(kind, body)
    assert (str(error), error.field) == (says, field)


def test_a_part_of_a_body_has_its_place_before_its_path() -> None:
    """As where a message is decoded by itself."""
    assert refused(MessageInput, '{"role":5}', where="$.messages[3]").field == "$.messages[3].role"


@pytest.mark.parametrize(
    "name", ["a` - at `$.role", " - at `$.mood", "x` - at `$.nothing", "`", "", "' - at `$.role`", "\n"]
)
def test_a_name_that_was_given_is_not_taken_for_a_place(name: str) -> None:
    """Whatever it looks like, the answer is about an unknown member."""
    error = refused(SessionInput, msgspec.json.encode({name: 1}).decode())
    assert str(error).startswith("Unknown member: ")


def test_a_line_of_an_import_is_refused_in_the_same_words() -> None:
    """With its place behind them; what was given is shown in part there too."""
    line = '{"id":"s","messages":[{"role":"%s","content":""}]}'
    assert parse_line((line % "function").encode(), "line 1", Settings(), "default") == Rejected(
        "line 1", f"role: expected one of {ROLES}; got 'function'. at $.messages[0].role"
    )
    long = parse_line((line % ("x" * 100_000)).encode(), "line 2", Settings(), "default")
    assert isinstance(long, Rejected)
    assert len(long.reason) < 300


def test_what_was_given_is_shown_in_part() -> None:
    """A refusal is shorter than what it refuses."""
    long = "x" * 100_000
    assert shown(long) == f"{'x' * SHOWN_CHARACTERS_MAX!r}…"
    for body in (f'{{"role":"{long}"}}', f'{{"role":"user","{long}":1}}'):
        error = refused(MessageInput, body)
        assert len(str(error)) < 300
        assert len(error.field or "") <= FIELD_CHARACTERS_MAX + 1
