"""What a client may say in a message, and what is kept of it."""

from typing import Any

import msgspec
import pytest
from msgspec import UNSET, Raw

from chatledger.domain.events import Message
from chatledger.domain.json_text import same_json
from chatledger.domain.messages import (
    MessageInput,
    accept_message,
    accept_messages,
    accept_object,
    accept_session_id,
    accept_traits,
    check_session_size,
    named_ids,
)
from chatledger.errors import InvalidRequest, TooLarge
from chatledger.settings import Settings


def take(**given: object) -> Message:
    """The message that is kept for *given*."""
    return accept_message(msgspec.json.decode(msgspec.json.encode(given), type=MessageInput), field="$")


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    "given",
    [
        {"role": "user", "content": "Hello"},
        {"role": "user", "content": ""},
        {"role": "user", "content": None},
        {"role": "system", "content": "Be kind", "name": "boss"},
        {"role": "developer", "content": "Be brief"},
        {"role": "tool", "content": "42", "tool_call_id": "c1"},
        {"role": "user", "content": []},
        {
            "role": "user",
            "content": [{"type": "text", "text": "a\nb"}, {"type": "image_url", "image_url": {}}],
        },
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "assistant", "tool_calls": [CALL, CALL]},
        {"role": "assistant", "tool_calls": None},
        {"role": "assistant", "refusal": "No."},
        {"role": "assistant", "content": "Hi", "refusal": None, "audio": None, "annotations": []},
        {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "assistant", "audio": {"id": "a-1"}},
        {
            "role": "user",
            "content": "x",
            "metadata": {"deep": [{"er": 1.5}]},
            "parent_id": "m-0",
            "name": None,
        },
    ],
)
def test_a_message_in_the_openai_form_keeps_its_json_values(given: dict[str, Any]) -> None:
    """Every member comes back as it was given, and no other one appears but the id."""
    kept = msgspec.json.encode(take(**given))
    made = msgspec.json.decode(kept)["id"]
    assert same_json(kept, msgspec.json.encode(given | {"id": made}))


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"role": "user"}, "$.content"),
        ({"role": "tool", "tool_call_id": "c1"}, "$.content"),
        ({"role": "assistant"}, "$.content"),
        ({"role": "user", "tool_calls": [CALL]}, "$.content"),
        ({"role": "user", "content": 1}, "$.content"),
        ({"role": "user", "content": True}, "$.content"),
        ({"role": "user", "content": {}}, "$.content"),
        ({"role": "user", "content": ["text"]}, "$.content[0]"),
        ({"role": "user", "content": [{"text": "no type"}]}, "$.content[0].type"),
        ({"role": "user", "content": [{"type": 1}]}, "$.content[0].type"),
        ({"role": "user", "content": "x", "tool_calls": {}}, "$.tool_calls"),
        ({"role": "user", "content": "x", "tool_calls": [1]}, "$.tool_calls[0]"),
        ({"role": "user", "content": "x", "annotations": "none"}, "$.annotations"),
        ({"role": "user", "content": "x", "metadata": []}, "$.metadata"),
        ({"role": "user", "content": "x", "metadata": "m"}, "$.metadata"),
        ({"role": "user", "content": "x", "audio": 1}, "$.audio"),
        ({"role": "user", "content": "x", "function_call": "f"}, "$.function_call"),
        ({"role": "user", "content": "x", "id": ""}, "$.id"),
        ({"role": "user", "content": "x", "id": "a b"}, "$.id"),
        ({"role": "user", "content": "x", "id": "a" * 129}, "$.id"),
        ({"role": "user", "content": "x", "created_at": "yesterday"}, "$.created_at"),
        ({"role": "user", "content": "x", "created_at": "2024-05-15T15:00:00"}, "$.created_at"),
        ({"role": "user", "content": "x", "created_at": ""}, "$.created_at"),
    ],
)
def test_another_form_is_refused_with_its_place(given: dict[str, Any], field: str) -> None:
    """The error says where, as a JSON path."""
    with pytest.raises(InvalidRequest) as refused:
        take(**given)
    assert refused.value.field == field


@pytest.mark.parametrize("given", [{"role": "robot", "content": "x"}, {"content": "x"}, {"role": "user", "x": 1}])
def test_an_unknown_role_or_member_is_no_message(given: dict[str, Any]) -> None:
    """Unknown fields in a request are refused (the contract)."""
    with pytest.raises(msgspec.ValidationError):
        take(**given)


def test_white_space_between_tokens_is_not_kept() -> None:
    """A message has to fit on a line of an export; its strings and digits stay as they are."""
    text = b'{"role": "user", "content": [ {"type" : "text",\n "n": 1.50, "s": "a  b"} ], "metadata": { } }'
    kept = accept_message(msgspec.json.decode(text, type=MessageInput), field="$")
    assert bytes(kept.content) == b'[{"type":"text","n":1.50,"s":"a  b"}]'  # type: ignore[arg-type]
    assert bytes(kept.metadata) == b"{}"  # type: ignore[arg-type]


def test_a_time_is_kept_in_utc() -> None:
    """The client's time, in the form of all answers; null or none is no time."""
    assert take(role="user", content="x", created_at="2024-05-15T17:00:00+02:00").created_at == (
        "2024-05-15T15:00:00.000000Z"
    )
    assert take(role="user", content="x", created_at=None).created_at is UNSET
    assert take(role="user", content="x").created_at is UNSET


def test_an_id_is_made_where_the_client_gave_none() -> None:
    """Null is none; each message gets its own."""
    one, other = take(role="user", content="x"), take(role="user", content="x", id=None)
    assert one.id != other.id
    assert take(role="user", content="x", id="m-1").id == "m-1"
    assert accept_session_id("s-1") == "s-1"
    assert accept_session_id(None) != accept_session_id(None)
    with pytest.raises(InvalidRequest):
        accept_session_id("s/1")


def test_a_batch_with_an_id_twice_is_refused_where_it_comes_again() -> None:
    """The second one's place is in the error."""
    given = [MessageInput(role="user", content=Raw(b'"x"'), id=name) for name in ("a", "b", "a")]
    with pytest.raises(InvalidRequest) as refused:
        accept_messages(given, field="$.messages")
    assert refused.value.field == "$.messages[2].id"


def test_a_fault_in_a_batch_has_its_number() -> None:
    """Counted from 0."""
    given = [MessageInput(role="user", content=Raw(b'"x"')), MessageInput(role="user")]
    with pytest.raises(InvalidRequest) as refused:
        accept_messages(given, field="$.messages")
    assert refused.value.field == "$.messages[1].content"


def test_the_named_ids_are_those_that_the_client_chose_or_refers_to() -> None:
    """Ids that are still to be made are not among them."""
    given = [
        MessageInput(role="user", content=Raw(b'"x"'), id="m-1"),
        MessageInput(role="user", content=Raw(b'"x"'), parent_id="m-0"),
        MessageInput(role="user", content=Raw(b'"x"'), id=None, parent_id=None),
    ]
    assert named_ids(given) == ("m-1", "m-0")


@pytest.mark.parametrize(("given", "kept"), [(UNSET, b"{}"), (Raw(b"null"), b"{}"), (Raw(b'{"a": 1}'), b'{"a":1}')])
def test_traits_are_an_object(given: Any, kept: bytes) -> None:
    """None and null are an empty one."""
    assert bytes(accept_traits(given)) == kept


@pytest.mark.parametrize("given", [b"[]", b'"x"', b"1", b"true", b"false"])
def test_what_is_no_object_is_refused(given: bytes) -> None:
    """Traits and metadata are objects."""
    with pytest.raises(InvalidRequest):
        accept_traits(Raw(given))
    with pytest.raises(InvalidRequest):
        accept_object(Raw(given), field="$")


def test_a_session_may_be_as_large_as_the_limit_in_bytes() -> None:
    """Bytes of UTF-8, not characters."""
    settings = Settings(session_bytes_max=10)
    check_session_size(settings, title="\u00e9\u00e9", user_id="1234", traits=b"{}")
    with pytest.raises(TooLarge):
        check_session_size(settings, title="\u00e9\u00e9", user_id="12345", traits=b"{}")
