"""What a session is after its events: the state that commands are decided on and readers see, and its fold."""

from collections.abc import Sequence
from itertools import groupby

import msgspec
from msgspec import UNSET

from service.clock import parse_us
from service.events import (
    Event,
    MessageAppended,
    MessageRemoved,
    SessionChanges,
    SessionCreated,
    SessionDeleted,
    SessionErased,
    SessionUpdated,
)
from service.jsontext import merge_patch

NO_TRAITS = b"{}"


class SessionState(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A session that readers can see. Times are microseconds since the epoch; `traits` is JSON.

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


class Tally(msgspec.Struct, frozen=True, gc=False):
    """What a run of message events comes to: all that a session's row needs of them."""

    version: int
    appended: int
    removed: int
    last_seq: int | None
    last_message_at_us: int | None
    updated_at_us: int
    last_position: int


def tally(events: Sequence[Event]) -> Tally | None:
    """Count a run of one session's *events*; None if not all of them add or remove messages."""
    appended = removed = 0
    last_seq = last_message_at_us = None
    for event in events:
        data = event.data
        if type(data) is MessageAppended:
            appended += 1
            last_seq = data.seq
            given = data.message.created_at
            last_message_at_us = event.recorded_at if given is UNSET else parse_us(given)
        elif type(data) is MessageRemoved:
            removed += 1
        else:
            return None
    last = events[-1]
    return Tally(last.version, appended, removed, last_seq, last_message_at_us, last.recorded_at, last.position)


def evolve(state: SessionState | None, events: Sequence[Event]) -> SessionState | None:
    """Fold a run of one session's *events*, in order, into its *state*; None is a session that nobody sees.

    *events* are not empty. Pure, and the only place that knows what an event does to a session. An erased event
    leaves no trace: the erasure that follows it has taken the session away in any case.
    """
    for structural, run in groupby(events, key=_is_structural):
        if structural:
            for event in run:
                state = _change(state, event)
        elif state is not None:
            counted = tally(list(run))
            state = state if counted is None else _count(state, counted)
    return state


def _is_structural(event: Event) -> bool:
    return type(event.data) not in (MessageAppended, MessageRemoved)


def _count(state: SessionState, counted: Tally) -> SessionState:
    last_message_at_us = counted.last_message_at_us
    return msgspec.structs.replace(
        state,
        version=counted.version,
        message_count=state.message_count + counted.appended - counted.removed,
        last_seq=state.last_seq if counted.last_seq is None else counted.last_seq,
        last_message_at_us=state.last_message_at_us if last_message_at_us is None else last_message_at_us,
        updated_at_us=counted.updated_at_us,
        last_position=counted.last_position,
    )


def _change(state: SessionState | None, event: Event) -> SessionState | None:
    data = event.data
    if isinstance(data, SessionCreated):
        return _created(event, data)
    if state is None or isinstance(data, (SessionDeleted, SessionErased)):
        return None
    return msgspec.structs.replace(
        state,
        version=event.version,
        updated_at_us=event.recorded_at,
        last_position=event.position,
        **(changed(state, data.changes) if isinstance(data, SessionUpdated) else {}),
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
    )
