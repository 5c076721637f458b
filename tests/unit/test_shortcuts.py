"""What is done the quick way where much is written: the same as the plain way, whatever the values."""

import hashlib
import hmac
import json
from functools import reduce
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chatledger.domain.commands import AppendMessages
from chatledger.domain.events import (
    Event,
    EventData,
    Message,
    MessageAppended,
    MessageRemoved,
    SessionChanges,
    SessionCreated,
    SessionDeleted,
    SessionUpdated,
    type_of,
)
from chatledger.domain.ids import is_request_id, new_request_id
from chatledger.domain.session import evolve
from chatledger.errors import DomainError
from chatledger.http.routes import messages
from chatledger.ledger import merkle
from chatledger.ledger.merkle import Frontier
from chatledger.settings import Settings

salts = st.binary(max_size=100) | st.binary(min_size=merkle.SALT_BYTES, max_size=merkle.SALT_BYTES)


@given(salts, st.binary(max_size=300))
def test_a_commitment_is_an_hmac(salt: bytes, payload: bytes) -> None:
    """By the standard library's, for a salt of any length: an altered ledger may hold one."""
    assert merkle.commitment(salt, payload) == hmac.new(salt, payload, hashlib.sha256).digest()


def leaf(number: int) -> bytes:
    """Any hash."""
    return hashlib.sha256(b"%d" % number).digest()


@settings(deadline=None)
@given(st.integers(0, 2_000), st.integers(0, 1_500))
@example(0, 256)
@example(255, 257)
@example(1, 65_535)
def test_a_tree_grows_by_many_leaves_as_by_one_at_a_time(before: int, count: int) -> None:
    """The same frontier, and the same hashes for tiles, of each level in the same order."""
    new = [leaf(number) for number in range(before, before + count)]
    at_once, one_by_one = Frontier(), Frontier()
    for tree in (at_once, one_by_one):
        tree.append([leaf(number) for number in range(before)])
    completed = at_once.append(new)
    singly = [found for each in new for found in one_by_one.append([each])]
    assert (at_once.size, at_once.hashes) == (one_by_one.size, one_by_one.hashes)
    assert completed == sorted(singly, key=lambda found: (found.level, found.entry))


TIMES = ["2024-05-15T15:00:00.000000Z", "2031-01-01T00:00:00.000000Z"]
said = st.builds(
    Message,
    role=st.just("user"),
    content=st.just(msgspec.Raw(b'""')),
    id=st.sampled_from(["a", "b"]),
    created_at=st.just(msgspec.UNSET) | st.sampled_from(TIMES),
)
happenings: st.SearchStrategy[EventData] = st.one_of(
    st.builds(MessageAppended, st.integers(1, 9), said),
    st.builds(MessageAppended, st.integers(1, 9), said),
    st.just(MessageRemoved("a")),
    st.builds(SessionUpdated, st.builds(SessionChanges, title=st.sampled_from(["x", None]))),
    st.builds(SessionCreated, title=st.sampled_from(["y", None])),
    st.just(SessionDeleted()),
)


@given(st.lists(happenings, max_size=12))
def test_a_run_of_events_is_folded_as_each_of_them_in_turn(happened: list[EventData]) -> None:
    """A run of messages is folded once, with the state that each of them in turn leads to."""
    events = [
        Event(number, 1, "default", "s", number, type_of(data), 1_000 + number, "open", None, data)
        for number, data in enumerate([SessionCreated(), *happened], start=1)
    ]
    assert evolve(None, events) == reduce(lambda state, event: evolve(state, [event]), events, None)


nested = st.recursive(st.sampled_from([1, "[", '"\\', "{{"]), lambda inner: st.lists(inner, max_size=3), max_leaves=8)
ids = st.sampled_from(["a", "b", "c d", None])
members: dict[str, st.SearchStrategy[Any]] = {
    "parent_id": st.sampled_from(["a", "b", None]),
    "content": st.sampled_from(["Hello", 'messages" \\u0041', None, 1, [{"type": "text"}], [{}]]),
    "metadata": st.dictionaries(st.sampled_from(["x", "y"]), nested, max_size=2) | st.just(1),
    "tool_calls": st.lists(st.fixed_dictionaries({"f": nested}), max_size=2) | st.just("no"),
    "created_at": st.sampled_from(["2024-05-15T15:00:00Z", "yesterday", None]),
    "unknown": st.just(1),
}
one = st.fixed_dictionaries({"id": ids, "role": st.sampled_from(["user", "assistant", "robot"])}, optional=members)
good = st.fixed_dictionaries(
    {"id": st.sampled_from("abcdefgh"), "role": st.just("user"), "content": members["content"]},
    optional={"metadata": members["metadata"]},
)
bodies = st.one_of(
    one,
    st.fixed_dictionaries({"messages": st.lists(good, max_size=4)}),
    st.fixed_dictionaries({"messages": st.lists(one, max_size=4)}, optional={"more": st.just(1)}),
    st.just({"messages": None}),
)


def outcome_of(body: bytes, limits: Settings) -> AppendMessages | tuple[object, ...]:
    """What a body is taken for, or why it is refused."""
    try:
        command = messages._read(body, limits)
    except DomainError as error:
        return type(error), str(error), error.members()
    # A new id is another one each time.
    known = [msgspec.structs.replace(each, id="new" if len(each.id) > 1 else each.id) for each in command.messages]
    return msgspec.structs.replace(command, messages=known)


@given(
    bodies,
    st.sampled_from([8, 9, 100]),
    st.sampled_from([120, 10_000]),
    st.sampled_from([2, 1_000]),
    st.sampled_from([None, 2]),
)
def test_a_batch_decoded_at_once_is_what_it_is_piece_by_piece(
    body: Any, depth_max: int, message_bytes_max: int, messages_max: int, indent: int | None
) -> None:
    """The same command, or the same refusal with the same field, at whatever limits."""
    limits = Settings(json_depth_max=depth_max, message_bytes_max=message_bytes_max, batch_messages_max=messages_max)
    text = json.dumps(body, indent=indent).encode()
    with patch.object(messages, "_decode_whole", return_value=None):
        plain = outcome_of(text, limits)
    assert outcome_of(text, limits) == plain


@pytest.mark.parametrize("depth", [96, 97, 98, 150])
def test_a_batch_nests_as_deep_as_any_body_may(depth: int) -> None:
    """The list of messages and the message count: three."""
    metadata = '{"a":' * depth + "1" + "}" * depth
    body = f'{{"messages": [{{"id": "a", "role": "user", "content": "", "metadata": {metadata}}}]}}'.encode()
    assert isinstance(outcome_of(body, Settings(json_depth_max=100)), AppendMessages) == (depth <= 97)


def test_a_request_id_that_we_make_is_one_that_we_would_take() -> None:
    """22 characters, and each another one."""
    made = {new_request_id() for _ in range(1_000)}
    assert len(made) == 1_000
    assert all(len(each) == 22 and is_request_id(each) for each in made)
