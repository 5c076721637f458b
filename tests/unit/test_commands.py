"""Deciding, with values: no database, no clock."""

import msgspec
import pytest
from msgspec import UNSET, Raw

from chatledger.domain.commands import (
    ANY_VERSION,
    Command,
    Context,
    ContinueFork,
    CreateSession,
    Decision,
    DeleteSession,
    ForkSession,
    RemoveMessage,
    StoredMessage,
    Unfinished,
    UpdateSession,
    decide,
    named_ids,
)
from chatledger.domain.events import (
    Event,
    ForkedFrom,
    Message,
    MessageAppended,
    MessageRemoved,
    SessionCreated,
    SessionDeleted,
    SessionUpdated,
)
from chatledger.domain.session import SessionState
from chatledger.errors import (
    DomainError,
    InvalidRequest,
    MessageExists,
    NotFound,
    SessionExists,
    VersionConflict,
)
from support.store import accept_any, appending, changes_of, message

STATE = SessionState(
    stream=1,
    tenant_id="default",
    session_id="s",
    version=3,
    user_id="u",
    title="Old",
    traits=b'{"a":1}',
    archived=False,
    message_count=1,
    last_seq=2,
    created_at_us=0,
    updated_at_us=0,
    last_message_at_us=0,
    forked_from_session_id=None,
    forked_from_version=None,
    last_position=3,
)
KEPT, REMOVED = message("m1", "one"), message("m2", "two")


def stored(given: Message, seq: int, *, removed: bool = False) -> StoredMessage:
    """*given* as the ledger has it."""
    event = Event(seq + 1, 1, "default", "s", seq + 1, "message.appended", 0, "open", None, MessageAppended(seq, given))
    return StoredMessage(event, removed)


STORED = {"m1": stored(KEPT, 1), "m2": stored(REMOVED, 2, removed=True)}
SEEN = Context("s", STATE, taken=True, stored=STORED)
UNSEEN = Context("s", None, taken=False, stored={})
GONE = Context("s", None, taken=True, stored={})


def refusal(context: Context, command: Command, *, expected_version: int | None = None) -> DomainError:
    """The error that *command* is refused with."""
    with pytest.raises(DomainError) as refused:
        decide(context, command, expected_version=expected_version)
    return refused.value


def update(**patch: object) -> UpdateSession:
    """A merge patch without a limit."""
    return UpdateSession(changes_of(patch), accept_any)


def test_a_new_session_begins_with_its_creation_and_numbers_its_messages() -> None:
    """The first event is session.created; messages count from 1; the answer is the session."""
    decision = decide(UNSEEN, CreateSession(title="T", messages=[KEPT, REMOVED]), expected_version=None)
    assert decision == Decision([SessionCreated(title="T"), MessageAppended(1, KEPT), MessageAppended(2, REMOVED)])


def test_traits_are_in_the_event_only_if_there_are_any() -> None:
    """An empty object is the default."""
    (bare,) = decide(UNSEEN, CreateSession(traits=Raw(b"{}")), expected_version=None).events
    (full,) = decide(UNSEEN, CreateSession(traits=Raw(b'{"a":1}')), expected_version=None).events
    assert isinstance(bare, SessionCreated)
    assert bare.traits is UNSET
    assert isinstance(full, SessionCreated)
    assert isinstance(full.traits, Raw)


@pytest.mark.parametrize("context", [SEEN, GONE])
def test_an_id_in_use_is_refused_to_a_new_session(context: Context) -> None:
    """That of a deleted session too."""
    assert isinstance(refusal(context, CreateSession()), SessionExists)


@pytest.mark.parametrize("context", [UNSEEN, GONE])
@pytest.mark.parametrize("command", [appending([KEPT]), update(title="x"), RemoveMessage("m1"), DeleteSession()])
@pytest.mark.parametrize("expected_version", [None, 3, ANY_VERSION])
def test_nothing_can_be_done_to_a_session_that_nobody_sees(
    context: Context, command: Command, expected_version: int | None
) -> None:
    """Absent and deleted are one answer, whatever If-Match says."""
    assert isinstance(refusal(context, command, expected_version=expected_version), NotFound)


@pytest.mark.parametrize(
    "command", [appending([message("m3")]), update(title="x"), RemoveMessage("m1"), DeleteSession()]
)
def test_a_stale_version_is_refused_with_both_versions(command: Command) -> None:
    """No lost update (rule 5); the right version and `*` are let through."""
    for stale in (0, 2, 4):
        refused = refusal(SEEN, command, expected_version=stale)
        assert isinstance(refused, VersionConflict)
        assert refused.members() == {"expected_version": stale, "actual_version": 3}
    for good in (None, 3, ANY_VERSION):
        assert len(decide(SEEN, command, expected_version=good).events) == 1


def test_messages_continue_the_numbers_of_the_session() -> None:
    """Behind the last one, removed or not."""
    new = [message("m3"), message("m4")]
    decision = decide(SEEN, appending(new), expected_version=None)
    assert decision == Decision([MessageAppended(3, new[0]), MessageAppended(4, new[1])], [0, 1])


def test_a_message_that_is_stored_already_is_shown_and_not_stored_again() -> None:
    """A retry writes nothing, however it is laid out, and a stale version is no hindrance (rule 4)."""
    decision = decide(SEEN, appending([KEPT]), expected_version=1)
    assert decision == Decision([], [STORED["m1"]])


def test_a_retry_within_a_batch_stands_at_its_place_in_the_answer() -> None:
    """The new ones are numbered without it."""
    new = [message("m3"), message("m4")]
    decision = decide(SEEN, appending([new[0], KEPT, new[1]]), expected_version=None)
    assert decision == Decision([MessageAppended(3, new[0]), MessageAppended(4, new[1])], [0, STORED["m1"], 1])


@pytest.mark.parametrize(
    "other",
    [
        message("m1", "another"),
        message("m1", "one", name="bob"),
        message("m1", "one", created_at="2024-05-15T15:00:00Z"),
        message("m1", "one", name=None),
        message("m2", "two"),
    ],
)
def test_another_message_under_a_taken_id_is_refused(other: Message) -> None:
    """Any member that differs, null against not given; and whatever has a removed one's id."""
    assert isinstance(refusal(SEEN, appending([message("m3"), other])), MessageExists)


def test_the_same_content_in_another_notation_is_the_same_message() -> None:
    """Compared are JSON values, not bytes."""
    again = msgspec.structs.replace(KEPT, content=Raw(rb'"\u006fne"'))
    assert decide(SEEN, appending([again]), expected_version=None).events == []


def test_a_parent_is_an_earlier_message_of_the_session() -> None:
    """Stored, or before it in the batch."""
    batch = [message("m3", parent_id="m1"), message("m4", parent_id="m3")]
    assert len(decide(SEEN, appending(batch), expected_version=None).events) == 2
    first = CreateSession(messages=[message("a"), message("b", parent_id="a")])
    assert len(decide(UNSEEN, first, expected_version=None).events) == 3


@pytest.mark.parametrize(
    "batch",
    [
        [message("m3", parent_id="unknown")],
        [message("m3", parent_id="m3")],
        [message("m3", parent_id="m4"), message("m4")],
        [message("m5", parent_id="m2")],
    ],
)
def test_any_other_parent_is_refused(batch: list[Message]) -> None:
    """Unknown, itself, a later one, or one that was removed; for a new session too."""
    assert isinstance(refusal(SEEN, appending(batch)), InvalidRequest)
    assert isinstance(refusal(UNSEEN, CreateSession(messages=batch)), InvalidRequest)


def test_a_repeat_of_a_stored_message_passes_whatever_became_of_its_parent() -> None:
    """It was an earlier message when it was appended."""
    child = message("m3", parent_id="m2")
    context = msgspec.structs.replace(SEEN, stored={**STORED, "m3": stored(child, 3)})
    assert decide(context, appending([child]), expected_version=None).events == []


def test_a_patch_becomes_an_event_with_just_that_patch() -> None:
    """The event says what was changed, not what came out."""
    command = update(title=None, traits={"b": 2})
    assert decide(SEEN, command, expected_version=None) == Decision([SessionUpdated(command.changes)])


@pytest.mark.parametrize(
    "patch",
    [
        {},
        {"title": "Old"},
        {"archived": False},
        {"archived": None},
        {"traits": {}},
        {"traits": {"x": None}},
        {"title": "Old", "user_id": "u", "traits": {"a": 1}, "archived": False},
    ],
)
def test_a_patch_that_changes_nothing_writes_no_event(patch: dict[str, object]) -> None:
    """By value; the answer is the session as it is."""
    assert decide(SEEN, update(**patch), expected_version=None) == Decision([])


@pytest.mark.parametrize(
    "patch",
    [
        {"title": None},
        {"title": ""},
        {"user_id": None},
        {"archived": True},
        {"traits": None},
        {"traits": {"a": True}},
        {"traits": {"a": 1.0}},
    ],
)
def test_a_patch_that_changes_something_writes_one_event(patch: dict[str, object]) -> None:
    """Null is a change where there was a value."""
    assert len(decide(SEEN, update(**patch), expected_version=None).events) == 1


def test_a_patch_is_checked_by_what_would_come_out() -> None:
    """The limit is that of the state behind the patch, and a refusal is the command's."""
    seen: list[SessionState] = []

    def check(after: SessionState) -> None:
        seen.append(after)
        raise InvalidRequest("too much")

    refused = refusal(SEEN, UpdateSession(changes_of({"title": "New", "traits": {"b": 2}}), check))
    assert isinstance(refused, InvalidRequest)
    assert (seen[0].title, seen[0].traits, seen[0].user_id) == ("New", b'{"a":1,"b":2}', "u")


def test_a_message_can_be_removed_once() -> None:
    """Removed and unknown ones are one answer."""
    assert decide(SEEN, RemoveMessage("m1"), expected_version=None) == Decision([MessageRemoved("m1")])
    assert isinstance(refusal(SEEN, RemoveMessage("m2")), NotFound)
    assert isinstance(refusal(SEEN, RemoveMessage("m9")), NotFound)


@pytest.mark.parametrize("expected", [ANY_VERSION, 1, 99])
def test_a_message_that_is_not_there_is_not_found_whatever_the_condition(expected: int) -> None:
    """A condition counts only where the request would succeed without it (RFC 9110, section 13.2.1)."""
    for gone in ("m2", "m9"):
        with pytest.raises(NotFound):
            decide(SEEN, RemoveMessage(gone), expected_version=expected)


def test_a_deletion_is_one_event() -> None:
    """It says nothing but itself."""
    assert decide(SEEN, DeleteSession(), expected_version=None) == Decision([SessionDeleted()])


FORK = ForkSession(source=ForkedFrom("s", 2), created=SessionCreated(title="T"), messages=[KEPT], total=1)


def test_a_fork_is_a_new_session_that_names_its_source() -> None:
    """Its creation says where from; its messages are numbered anew."""
    context = Context("f", None, taken=False, stored={}, source=STATE)
    created = SessionCreated(title="T", forked_from=ForkedFrom("s", 2), visible_at=2)
    assert decide(context, FORK, expected_version=None) == Decision([created, MessageAppended(1, KEPT)])


def test_a_fork_in_pieces_says_when_it_is_whole() -> None:
    """Of three copies the first comes with its creation, the others behind it, each piece where the last one ended."""
    context = Context("f", None, taken=False, stored={}, source=STATE)
    created, first = decide(context, msgspec.structs.replace(FORK, total=3), expected_version=None).events
    assert (created, first) == (
        SessionCreated(title="T", forked_from=ForkedFrom("s", 2), visible_at=4),
        MessageAppended(1, KEPT),
    )
    begun = Context("f", None, taken=False, stored={}, unfinished=Unfinished(7, 2, 4))
    rest = decide(begun, ContinueFork(messages=[message("m8"), message("m9")], version=2), expected_version=None).events
    assert [(each.seq, each.message.id) for each in rest if isinstance(each, MessageAppended)] == [(2, "m8"), (3, "m9")]


def test_a_piece_that_somebody_else_has_added_is_refused() -> None:
    """Also behind the last one, and of a fork that was erased meanwhile."""
    begun = Context("f", None, taken=False, stored={}, unfinished=Unfinished(7, 3, 4))
    assert isinstance(refusal(begun, ContinueFork(messages=[KEPT], version=2)), VersionConflict)
    assert isinstance(refusal(GONE, ContinueFork(messages=[KEPT], version=2)), NotFound)


def test_a_fork_of_what_nobody_sees_is_refused() -> None:
    """The copy was read before; a source deleted since must not come back by it."""
    assert isinstance(refusal(Context("f", None, taken=False, stored={}, source=None), FORK), NotFound)


def test_a_fork_under_a_taken_id_is_refused() -> None:
    """As any new session's."""
    assert isinstance(refusal(Context("f", None, taken=True, stored={}, source=STATE), FORK), SessionExists)


def test_a_decision_asks_for_the_messages_that_its_command_names() -> None:
    """The committer looks up these and no others."""
    assert list(named_ids(appending([message("a", parent_id="b")]))) == ["a", "b"]
    assert list(named_ids(RemoveMessage("a"))) == ["a"]
    assert list(named_ids(DeleteSession())) == []
