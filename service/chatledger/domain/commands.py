"""Deciding: a command and what is known of its session become events, or a refusal. Pure: no I/O, no clock.

`group.py` looks up what a decision needs (`Context`), so everything here can be tested with values.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import msgspec
from msgspec import UNSET, Raw

from chatledger.domain.api_keys import KeyRing
from chatledger.domain.events import (
    Event,
    EventData,
    ForkedFrom,
    KeyCreated,
    KeyRevoked,
    Message,
    MessageAppended,
    MessageRemoved,
    SessionChanges,
    SessionCreated,
    SessionDeleted,
    SessionErased,
    SessionUpdated,
)
from chatledger.domain.json_text import same_json
from chatledger.domain.session import NO_TRAITS, SessionState, changed
from chatledger.errors import InvalidRequest, MessageExists, NotFound, SessionExists, VersionConflict

ANY_VERSION = -1
"""`If-Match: *`: the session has to exist, at whatever version."""


class CreateSession(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Make a session, with its first messages."""

    user_id: str | None = None
    title: str | None = None
    traits: Raw = Raw(NO_TRAITS)
    created_at: str | None = None
    messages: Sequence[Message] = ()


class ForkSession(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Make a session as a copy of *source* as of a version; `created` and `messages` were read from there.

    Of *total* messages these are the first. `ContinueFork` adds the others; readers see the session behind the last.
    """

    source: ForkedFrom
    created: SessionCreated
    messages: Sequence[Message]
    total: int


class ContinueFork(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Add the next copies to a fork that is not finished and is at *version* now."""

    messages: Sequence[Message]
    version: int


class AppendMessages(msgspec.Struct, frozen=True, gc=False):
    """Add messages to the end of a session, all or none.

    `named` are the ids that the client has chosen, and those of parents: ids that the service has just made
    are new and need no look.
    """

    messages: Sequence[Message]
    named: Sequence[str]
    single: bool = False
    """Whether the message was the body itself: then errors name `$.parent_id`."""


class UpdateSession(msgspec.Struct, frozen=True, gc=False):
    """Change a session's own members by a merge patch."""

    changes: SessionChanges
    check: Callable[[SessionState], None]
    """Called with the state that would come out; raises where a limit is passed."""


class RemoveMessage(msgspec.Struct, frozen=True, gc=False):
    """Take a message out of readers' sight."""

    message_id: str


class DeleteSession(msgspec.Struct, frozen=True, gc=False):
    """Take a session out of readers' sight."""


class EraseSession(msgspec.Struct, frozen=True, gc=False):
    """Remove a session's payloads for good, whether readers still see it or not."""

    reason: str


class CreateKey(msgspec.Struct, frozen=True, gc=False):
    """Make an API key; its tenant has *keys_max* keys that are not revoked at most."""

    created: KeyCreated
    keys_max: int


class RevokeKey(msgspec.Struct, frozen=True, gc=False):
    """Make a key good for nothing: one of *tenant_id*'s, or anybody's where that is None."""

    key_id: str
    tenant_id: str | None


KeyCommand: TypeAlias = CreateKey | RevokeKey
Command: TypeAlias = (
    CreateSession
    | ForkSession
    | ContinueFork
    | AppendMessages
    | UpdateSession
    | RemoveMessage
    | DeleteSession
    | EraseSession
    | KeyCommand
)


class StoredMessage(msgspec.Struct, frozen=True, gc=False):
    """A message that the session has under an id: the event that added it, and whether it was removed since."""

    event: Event
    removed: bool


class Ended(msgspec.Struct, frozen=True, gc=False):
    """A session that readers do not see: its stream's key and version, and whether it is erased."""

    stream: int
    version: int
    erased: bool


class Unfinished(msgspec.Struct, frozen=True, gc=False):
    """A session whose making is not at its end: its stream's key and version, and that from which readers see it."""

    stream: int
    version: int
    visible_at: int


class Context(msgspec.Struct, frozen=True, gc=False):
    """What a decision needs to know. `taken` is also true of a session that readers no longer see.

    `stored` has the session's messages of the ids that the command names; `source` is a fork's source session;
    `ended` is looked up where the command reaches sessions that readers do not see; `keys` where it is about keys;
    `unfinished` where it goes on with the making of a session.
    """

    session_id: str
    state: SessionState | None
    taken: bool
    stored: Mapping[str, StoredMessage]
    source: SessionState | None = None
    ended: Ended | None = None
    keys: KeyRing | None = None
    unfinished: Unfinished | None = None

    @property
    def place(self) -> tuple[int, int] | None:
        """The stream's key and version, or None where the session is new."""
        known = self.state or self.ended or self.unfinished
        return None if known is None else (known.stream, known.version)


class Decision(msgspec.Struct, frozen=True, gc=False):
    """The events to append, and what the answer shows: the session, or messages in order.

    A message to show is the index of its event in `events`, or one that was stored before.
    """

    events: Sequence[EventData]
    shown: Sequence[int | StoredMessage] | None = None


def named_ids(command: Command) -> Sequence[str]:
    """The message ids that *command* names and a decision has to know about."""
    if isinstance(command, AppendMessages):
        return command.named
    if isinstance(command, RemoveMessage):
        return (command.message_id,)
    return ()


def decide(context: Context, command: Command, *, expected_version: int | None) -> Decision:
    """The events that *command* becomes.

    Raises:
        NotFound: there is no such session or message to be seen.
        SessionExists: the new session's id is taken.
        MessageExists: a message id is taken by another message.
        VersionConflict: the session is not at *expected_version*.
        InvalidRequest: a parent is not an earlier message of the session.
    """
    if isinstance(command, CreateSession):
        return _create(context, command, expected_version)
    if isinstance(command, ForkSession):
        return _fork(context, command, expected_version)
    if isinstance(command, ContinueFork):
        return _continue(context, command)
    if isinstance(command, EraseSession):
        return _erase(context, command, expected_version)
    if isinstance(command, (CreateKey, RevokeKey)):
        return _change_keys(context.keys or KeyRing(), command)
    return _change(context, command, expected_version)


def _change(
    context: Context, command: AppendMessages | UpdateSession | RemoveMessage | DeleteSession, expected: int | None
) -> Decision:
    """The events of a command to a session that has to be there to be seen."""
    if context.state is None:
        raise NotFound("session")
    if isinstance(command, AppendMessages):
        return _append(context.state, context, command, expected)
    if isinstance(command, RemoveMessage):
        return _remove(context.state, context, command, expected)
    _expect(context.state, expected)
    if isinstance(command, UpdateSession):
        return _update(context.state, command)
    return Decision([SessionDeleted()])


def _expect(state: "SessionState | Ended | None", expected: int | None) -> None:
    actual = 0 if state is None else state.version
    wrong = state is None if expected == ANY_VERSION else expected != actual
    if expected is not None and wrong:
        raise VersionConflict(expected=max(expected, 0), actual=actual)


def _create(context: Context, command: CreateSession, expected_version: int | None) -> Decision:
    if context.taken:
        raise SessionExists(context.session_id)
    _expect(None, expected_version)
    created = SessionCreated(
        user_id=command.user_id,
        title=command.title,
        traits=UNSET if bytes(command.traits) == NO_TRAITS else command.traits,
        created_at=command.created_at,
    )
    _check_parents(command.messages, {}, single=False)
    return Decision([created, *_number(command.messages, after=0)])


def _fork(context: Context, command: ForkSession, expected_version: int | None) -> Decision:
    # The copy was read before; the source may have been deleted or erased since, and then must not come back.
    if context.source is None:
        raise NotFound("session")
    _expect(context.source, expected_version)
    if context.taken:
        raise SessionExists(context.session_id)
    created = msgspec.structs.replace(command.created, forked_from=command.source, visible_at=1 + command.total)
    return Decision([created, *_number(command.messages, after=0)])


def _continue(context: Context, command: ContinueFork) -> Decision:
    unfinished = context.unfinished
    if unfinished is None:  # it is finished, or was erased with its source
        raise NotFound("session")
    if unfinished.version != command.version:
        raise VersionConflict(expected=command.version, actual=unfinished.version)
    # Behind `session.created` there are only copies so far.
    return Decision(_number(command.messages, after=unfinished.version - 1))


def _erase(context: Context, command: EraseSession, expected_version: int | None) -> Decision:
    if context.place is None:
        raise NotFound("session")
    if context.ended is not None and context.ended.erased:
        return Decision([])  # a repeat, whatever If-Match says: the first one has moved the version itself
    _expect(context.state or context.ended, expected_version)
    return Decision([SessionErased(command.reason)])


def _change_keys(keys: KeyRing, command: KeyCommand) -> Decision:
    if isinstance(command, CreateKey):
        tenant_id = command.created.tenant_id
        active = keys.count_active(tenant_id)
        if active >= command.keys_max:
            raise InvalidRequest(f"There are {active} keys already: revoke some first.")
        return Decision([command.created])
    found = keys.keys.get(command.key_id)
    if found is None or command.tenant_id not in {None, found.tenant_id}:
        raise NotFound("key")
    return Decision([] if found.revoked_at_us is not None else [KeyRevoked(command.key_id)])


def _append(state: SessionState, context: Context, command: AppendMessages, expected_version: int | None) -> Decision:
    new, shown = _sort_out(command.messages, context.stored, version=state.version)
    if new:
        # A retry of what is stored already passes, whatever If-Match says: RFC 9110 section 13.1.1 lets a
        # request through that "has already been applied", and the first try has moved the version itself.
        _expect(state, expected_version)
    _check_parents(command.messages, context.stored, single=command.single)
    return Decision(_number(new, after=state.last_seq), shown)


def _sort_out(
    messages: Sequence[Message], stored: Mapping[str, StoredMessage], *, version: int
) -> tuple[Sequence[Message], Sequence[int | StoredMessage]]:
    """Those of *messages* that are new, and what to show of each: its index among these, or what is stored already."""
    if not stored:
        return messages, range(len(messages))
    new: list[Message] = []
    shown: list[int | StoredMessage] = []
    for message in messages:
        before = stored.get(message.id)
        if before is None:
            shown.append(len(new))
            new.append(message)
        else:
            shown.append(_same(message, before, version=version))
    return new, shown


def _same(message: Message, stored: StoredMessage, *, version: int) -> StoredMessage:
    data = stored.event.data
    if stored.removed or not isinstance(data, MessageAppended):
        raise MessageExists(message.id, reason="that message was removed", version=version)
    if not same_json(msgspec.json.encode(message), msgspec.json.encode(data.message)):
        raise MessageExists(message.id, reason="another message has it", version=version)
    return stored


def _check_parents(messages: Sequence[Message], stored: Mapping[str, StoredMessage], *, single: bool) -> None:
    """Refuse a new message whose parent is none that readers see: a removed one has no more children."""
    if not [message for message in messages if isinstance(message.parent_id, str)]:
        return
    earlier: set[str] = set()
    for number, message in enumerate(messages):
        parent = message.parent_id
        if isinstance(parent, str) and parent not in earlier and message.id not in stored:
            found = stored.get(parent)
            if found is None or found.removed:
                raise InvalidRequest(
                    "The parent is not an earlier message of this session.",
                    field="$.parent_id" if single else f"$.messages[{number}].parent_id",
                )
        earlier.add(message.id)


def _number(messages: Sequence[Message], *, after: int) -> list[EventData]:
    return [MessageAppended(seq, message) for seq, message in enumerate(messages, start=after + 1)]


def _update(state: SessionState, command: UpdateSession) -> Decision:
    values = changed(state, command.changes)
    after = msgspec.structs.replace(state, **values)
    if same_json(state.traits, after.traits) and after == msgspec.structs.replace(state, traits=after.traits):
        return Decision([])
    command.check(after)
    return Decision([SessionUpdated(command.changes)])


def _remove(state: SessionState, context: Context, command: RemoveMessage, expected_version: int | None) -> Decision:
    stored = context.stored.get(command.message_id)
    if stored is None or stored.removed:
        # Whatever If-Match says: a condition counts only where the request would succeed without it (RFC 9110 13.2.1).
        raise NotFound("message")
    _expect(state, expected_version)
    return Decision([MessageRemoved(command.message_id)])
