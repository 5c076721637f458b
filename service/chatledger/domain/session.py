"""What a session is after its events: the state that commands are decided on and readers see, and its fold."""

from collections.abc import Sequence

import msgspec
from msgspec import UNSET

from chatledger.domain.events import (
    VISIBLE_AT_ONCE,
    Event,
    MessageAppended,
    MessageRemoved,
    SessionChanges,
    SessionCreated,
    SessionDeleted,
    SessionErased,
    SessionUpdated,
)
from chatledger.domain.json_text import merge_patch
from chatledger.domain.timestamps import parse_us

NO_TRAITS = b"{}"


class SessionState(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A session that is neither deleted nor erased. Times are microseconds since the epoch; `traits` is JSON.

    Readers see it from the version `visible_at` on.

    `last_seq` is the number of its newest message and never falls; `message_count` leaves removed ones out;
    `last_position` is the ledger position of its newest event, by which sessions are listed.
    """

    stream: int
    tenant_id: str
    session_id: str
    version: int
    user_id: str | None
    title: str | None
    traits: bytes
    archived: bool
    message_count: int
    last_seq: int
    created_at_us: int
    updated_at_us: int
    last_message_at_us: int | None
    forked_from_session_id: str | None
    forked_from_version: int | None
    last_position: int
    visible_at: int = VISIBLE_AT_ONCE

    @property
    def is_finished(self) -> bool:
        """Whether all events of its making are there."""
        return self.version >= self.visible_at


def changed(state: SessionState, changes: SessionChanges) -> dict[str, object]:
    """The members of *state* that *changes* sets, with the values that they get."""
    values: dict[str, object] = {}
    if changes.title is not UNSET:
        values["title"] = changes.title
    if changes.user_id is not UNSET:
        values["user_id"] = changes.user_id
    if changes.archived is not UNSET:
        values["archived"] = bool(changes.archived)
    if changes.traits is not UNSET:
        merged = bytes(merge_patch(state.traits, changes.traits))
        values["traits"] = NO_TRAITS if merged == b"null" else merged
    return values


def evolve(state: SessionState | None, events: Sequence[Event]) -> SessionState | None:
    """Fold a run of one session's *events*, in order, into its *state*; None is a session that nobody sees.

    Pure. What `chatledger_projections/sessions.py` does to rows, this does to a value, for deciding. An erased event
    leaves no trace: the erasure that follows it has taken the session away in any case.
    """
    appended = 0
    for number, event in enumerate(events, start=1):
        data = event.data
        if state is None or not isinstance(data, MessageAppended):
            state = _change(state, event)
            continue
        appended += 1
        # Of a run of messages only the last one says anything that the next does not say anew.
        if number == len(events) or not isinstance(events[number].data, MessageAppended):
            state, appended = _appended(state, event, data, appended), 0
    return state


def made(first: Event, last: Event) -> SessionState | None:
    """A session that was just made, by its first event and the last of the messages that it was made with.

    None where these were erased since.
    """
    if not isinstance(first.data, SessionCreated):
        return None
    state = _created(first, first.data)
    if last.version == first.version:
        return state
    if not isinstance(last.data, MessageAppended):
        return None
    return _appended(state, last, last.data, last.version - first.version)


def _appended(state: SessionState, event: Event, data: MessageAppended, count: int) -> SessionState:
    """*state* after *count* messages, of which *event* added the last."""
    given = data.message.created_at
    return msgspec.structs.replace(
        state,
        version=event.version,
        message_count=state.message_count + count,
        last_seq=data.seq,
        last_message_at_us=event.recorded_at if given is UNSET else parse_us(given),
        updated_at_us=event.recorded_at,
        last_position=event.position,
    )


def _change(state: SessionState | None, event: Event) -> SessionState | None:
    data = event.data
    if isinstance(data, SessionCreated):
        return _created(event, data)
    if state is None or isinstance(data, (SessionDeleted, SessionErased)):
        return None
    values: dict[str, object] = {}
    if isinstance(data, MessageRemoved):
        values["message_count"] = state.message_count - 1
    elif isinstance(data, SessionUpdated):
        values = changed(state, data.changes)
    return msgspec.structs.replace(
        state, version=event.version, updated_at_us=event.recorded_at, last_position=event.position, **values
    )


def _created(event: Event, data: SessionCreated) -> SessionState:
    fork = data.forked_from
    return SessionState(
        stream=event.stream,
        tenant_id=event.tenant_id,
        session_id=event.session_id,
        version=event.version,
        user_id=data.user_id,
        title=data.title,
        traits=NO_TRAITS if data.traits is UNSET else bytes(data.traits),
        archived=False,
        message_count=0,
        last_seq=0,
        created_at_us=event.recorded_at if data.created_at is None else parse_us(data.created_at),
        updated_at_us=event.recorded_at,
        last_message_at_us=None,
        forked_from_session_id=None if fork is None else fork.session_id,
        forked_from_version=None if fork is None else fork.version,
        last_position=event.position,
        visible_at=data.visible_at,
    )
