"""A group: the commands that one transaction takes, each decided in the light of those before it."""

from collections.abc import Sequence
from typing import TypeAlias

import msgspec
from msgspec import UNSET

from chatledger.domain.api_keys import KeyRing
from chatledger.domain.commands import (
    Command,
    Context,
    ContinueFork,
    CreateKey,
    CreateSession,
    Decision,
    Ended,
    EraseSession,
    ForkSession,
    RemoveMessage,
    RevokeKey,
    StoredMessage,
    Unfinished,
    decide,
    named_ids,
)
from chatledger.domain.documents import message_document, stored_message_document
from chatledger.domain.events import SESSION_ERASED, Event, MessageAppended, SessionCreated, type_of
from chatledger.domain.session import SessionState, evolve
from chatledger.domain.timestamps import now_us, parse_us
from chatledger.errors import DomainError, IdempotencyMismatch
from chatledger.ledger import event_store, idempotency_store
from chatledger.ledger.event_store import Record, Stream
from chatledger.ledger.idempotency_store import Answer, IdempotencyKey, Salts
from chatledger.storage.connection import Connection
from chatledger.views.live_views import Views
from chatledger_projections import messages as message_rows
from chatledger_projections import sessions as session_rows


class Submission(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A command with the envelope that it came in. Where `user_id` is set, it reaches that user's sessions only."""

    tenant_id: str
    session_id: str
    actor: str
    command: Command
    request_id: str | None = None
    expected_version: int | None = None
    idempotency_key: IdempotencyKey | None = None
    user_id: str | None = None

    def reaches(self, state: SessionState | None) -> bool:
        """Whether the session is there to be seen by whoever sent this."""
        return state is not None and self.user_id in {None, state.user_id}


class Committed(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A command that is durable and readable.

    `state` is the session after it (None once deleted), `messages` the JSON of those that the answer shows.
    """

    version: int
    state: SessionState | None
    messages: list[bytes] | None


class Replayed(msgspec.Struct, frozen=True, gc=False):
    """A command that was committed before, under the same Idempotency-Key."""

    answer: Answer


Outcome: TypeAlias = Committed | Replayed | DomainError
States: TypeAlias = dict[tuple[str, str], SessionState | None]
"""Sessions as they are now, by tenant and id; None where readers see none."""


class Accepted(msgspec.Struct, frozen=True, gc=False):
    """A command that has become events, the first of which is number *first* of its group's.

    Its answer is made once they are written, from the bytes that were.
    """

    version: int
    state: SessionState | None
    shown: Sequence[int | StoredMessage] | None
    first: int

    def positions(self, events: Sequence[Event]) -> list[int] | None:
        """Of the messages in the answer; *events* are the group's."""
        if self.shown is None:
            return None
        return [
            events[self.first + place].position if isinstance(place, int) else place.event.position
            for place in self.shown
        ]

    def outcome(self, records: Sequence[Record]) -> Committed:
        """What the caller gets; *records* are the group's."""
        documents = None
        if self.shown is not None:
            documents = [
                _document(records[self.first + place]) if isinstance(place, int) else _stored_document(place.event)
                for place in self.shown
            ]
        return Committed(version=self.version, state=self.state, messages=documents)


def _document(record: Record) -> bytes:
    event, data = record.event, record.event.data
    if not isinstance(data, MessageAppended) or record.payload is None:
        raise TypeError("only messages are shown")
    created_at_us = event.recorded_at if data.message.created_at is UNSET else None
    return message_document(record.payload, session_id=event.session_id, created_at_us=created_at_us)


def _stored_document(event: Event) -> bytes:
    if not isinstance(event.data, MessageAppended):
        raise TypeError("only messages are shown")
    return stored_message_document(event, event.data)


class Group:
    """What the commands decided so far have changed, for the ones behind them to see, and what is to be written.

    Nothing is written here, and nobody else writes meanwhile: what is read of the ledger and the views cannot change.
    `states` and `keyring` begin with what the committer knows of before.
    """

    def __init__(
        self,
        submissions: Sequence[Submission],
        ledger_db: Connection,
        views: Views,
        *,
        next_stream: int,
        states: States,
        keyring: KeyRing,
    ) -> None:
        self._submissions = submissions
        self._ledger = ledger_db
        self._views = views
        self.next_stream = next_stream
        self.position = views.position
        self._recorded_at = now_us()
        self.events: list[Event] = []
        self.streams: list[Stream] = []
        self.answers: dict[tuple[str, str], tuple[str, IdempotencyKey, Answer]] = {}  # by tenant and the key itself
        self.states = states
        self.keyring = keyring
        self.finished: list[int] = []
        """Streams of sessions whose making is at its end, or was given up."""
        self._taken: set[tuple[str, str]] | None = None  # of the sessions that the group wants to make
        self._new_streams: dict[tuple[str, str], int] = {}
        self._newest: dict[int, Event] = {}  # of each stream that the group has changed
        self._unfinished: dict[int, event_store.Unfinished] = {}  # of the streams that the group has made
        self._uncertain: set[tuple[str, str]] = set()
        """Sessions that readers see from this group on, and whose state is not known here."""
        self._added: dict[int, dict[str, StoredMessage]] = {}
        self._appended: dict[int, list[Event]] = {}

    def _note(self, events: Sequence[Event]) -> None:
        """*events* of one stream were added."""
        self.events.extend(events)
        self.position += len(events)
        if events:
            self._appended.setdefault(events[0].stream, []).extend(events)
            self._newest[events[0].stream] = events[-1]

    def _messages(self, stream: int) -> dict[str, StoredMessage]:
        """The messages that were added to *stream* so far, by their ids.

        Made when somebody asks: most groups, and all of an import, end without.
        """
        found = self._added.setdefault(stream, {})
        for event in self._appended.pop(stream, ()):
            if isinstance(event.data, MessageAppended):
                found[event.data.message.id] = StoredMessage(event, removed=False)
        return found

    def decide(self, submission: Submission) -> Accepted | Replayed | DomainError:
        """Decide the next of the submissions: a refused one leaves nothing."""
        key = submission.idempotency_key
        try:
            if key is not None:
                answer = self._answered(submission.tenant_id, key)
                if answer is not None:
                    return Replayed(answer)
            context = self._context(submission)
            decision = decide(context, submission.command, expected_version=submission.expected_version)
        except DomainError as refusal:
            return refusal
        stream = self._stream(context, submission)
        first = len(self.events)
        events = self._place(submission, context, decision, stream)
        state = self._advance(submission, context, events)
        unchanged = 0 if context.place is None else context.place[1]
        version = events[-1].version if events else unchanged
        accepted = Accepted(version, state, decision.shown, first)
        if key is not None:
            answer = Answer(stream, version, accepted.positions(self.events), len(events))
            self.answers[submission.tenant_id, key.key] = submission.tenant_id, key, answer
        if events and isinstance(submission.command, EraseSession):
            self._erase_unfinished_forks(submission, stream)
        return accepted

    def _erase_unfinished_forks(self, submission: Submission, source: int) -> None:
        """With a session the forks of it go that are not finished: they would get more copies of it."""
        forks = event_store.unfinished_streams(self._ledger, source=source)
        forks += [stream for stream, found in self._unfinished.items() if found.source == source]
        for stream in forks:
            if stream in self.finished:
                continue
            _, session_id = self._owner(stream)
            fork = msgspec.structs.replace(submission, session_id=session_id, expected_version=None, user_id=None)
            self.decide(msgspec.structs.replace(fork, idempotency_key=None))

    def _owner(self, stream: int) -> tuple[str, str]:
        for owner, made in self._new_streams.items():
            if made == stream:
                return owner
        return event_store.owner_of(self._ledger, stream)

    def salts(self, records: Sequence[Record]) -> Salts:
        """Those of *records*, the group's, for the fingerprints of the requests that became them."""
        return Salts(
            {record.event.position: record.salt for record in records},
            {(record.event.stream, record.event.version): record.salt for record in records},
        )

    def _answered(self, tenant_id: str, key: IdempotencyKey) -> Answer | None:
        """The first answer under *key*, in this group or before."""
        found = self.answers.get((tenant_id, key.key))
        if found is None:
            return idempotency_store.find(self._ledger, tenant_id, key)
        _, first_key, answer = found
        if first_key.fingerprint != key.fingerprint:
            raise IdempotencyMismatch
        return answer

    def _context(self, submission: Submission) -> Context:
        tenant_id, session_id, command = submission.tenant_id, submission.session_id, submission.command
        if isinstance(command, (CreateKey, RevokeKey)):
            stream = self._ended(tenant_id, session_id)
            return Context(session_id, None, stream is not None, {}, ended=stream, keys=self.keyring)
        if isinstance(command, ContinueFork):
            return Context(
                session_id, None, taken=True, stored={}, unfinished=self._find_unfinished(tenant_id, session_id)
            )
        making = isinstance(command, (CreateSession, ForkSession))
        taken = making and self._is_taken(tenant_id, session_id)
        # A session that is to be made is either taken, and what it is does not matter, or not there.
        state = None if making else self._reached(submission, session_id)
        stored = {} if state is None else self._stored(state.stream, named_ids(command))
        source = None
        if isinstance(command, ForkSession):
            source = self._reached(submission, command.source.session_id)
        ended = None
        if state is None and isinstance(command, EraseSession):
            ended = self._ended(tenant_id, session_id)
        return Context(session_id, state, taken, stored, source, ended)

    def _ended(self, tenant_id: str, session_id: str) -> Ended | None:
        """The session, if there ever was one, and whether it is erased."""
        stream = self._find_stream(tenant_id, session_id)
        if stream is None:
            return None
        newest = self._newest.get(stream)
        if newest is not None:
            return Ended(stream, newest.version, newest.type == SESSION_ERASED)
        return Ended(stream, event_store.version_of(self._ledger, stream), event_store.is_erased(self._ledger, stream))

    def _find_unfinished(self, tenant_id: str, session_id: str) -> Unfinished | None:
        """The session, if its making is not at its end."""
        stream = self._find_stream(tenant_id, session_id)
        if stream is None or stream in self.finished:
            return None
        found = self._unfinished.get(stream) or event_store.find_unfinished(self._ledger, stream)
        if found is None:
            return None
        newest = self._newest.get(stream)
        version = event_store.version_of(self._ledger, stream) if newest is None else newest.version
        return Unfinished(stream, version, found.visible_at)

    def _find_stream(self, tenant_id: str, session_id: str) -> int | None:
        new = self._new_streams.get((tenant_id, session_id))
        return event_store.find_stream(self._ledger, tenant_id, session_id) if new is None else new

    def _is_taken(self, tenant_id: str, session_id: str) -> bool:
        """Whether there ever was such a session."""
        if self._taken is None:
            wanted = {
                (each.tenant_id, each.session_id)
                for each in self._submissions
                if isinstance(each.command, (CreateSession, ForkSession))
            }
            self._taken = event_store.taken(self._ledger, wanted)
        return (tenant_id, session_id) in self._taken

    def _reached(self, submission: Submission, session_id: str) -> SessionState | None:
        """The session, if whoever sent *submission* sees it."""
        state = self._state(submission.tenant_id, session_id)
        return state if submission.reaches(state) else None

    def _state(self, tenant_id: str, session_id: str) -> SessionState | None:
        key = (tenant_id, session_id)
        if key in self._uncertain:
            return None
        if key not in self.states:
            self.states[key] = session_rows.find(self._views.db, tenant_id, session_id)
        return self.states[key]

    def _stored(self, stream: int, ids: Sequence[str]) -> dict[str, StoredMessage]:
        if not ids:
            return {}
        noted = self._messages(stream)
        found = {name: noted[name] for name in ids if name in noted}
        unseen = [name for name in ids if name not in found]
        rows = message_rows.known(self._views.db, stream, unseen) if unseen else {}
        if rows:
            records = event_store.read_positions(self._ledger, [row.position for row in rows.values()])
            events = {record.event.position: record.event for record in records}
            for name, row in rows.items():
                found[name] = StoredMessage(events[row.position], row.removed)
        return found

    def _stream(self, context: Context, submission: Submission) -> int:
        if context.place is not None:
            return context.place[0]
        stream = Stream(self.next_stream, submission.tenant_id, submission.session_id)
        self.next_stream += 1
        self.streams.append(stream)
        self._new_streams[submission.tenant_id, submission.session_id] = stream.key
        if self._taken is not None:
            self._taken.add((submission.tenant_id, submission.session_id))
        return stream.key

    def _place(self, submission: Submission, context: Context, decision: Decision, stream: int) -> list[Event]:
        """Give what was decided its positions and versions."""
        version = 0 if context.place is None else context.place[1]
        return [
            Event(
                self.position + number,
                stream,
                submission.tenant_id,
                submission.session_id,
                version + number,
                type_of(data),
                self._recorded_at,
                submission.actor,
                submission.request_id,
                data,
            )
            for number, data in enumerate(decision.events, start=1)
        ]

    def _advance(self, submission: Submission, context: Context, events: list[Event]) -> SessionState | None:
        """Let the group know of *events*, and return the state of the session behind them, if readers see one."""
        self._note(events)
        if context.keys is not None:
            self.keyring = self.keyring.after(events)
            return None
        where = (submission.tenant_id, submission.session_id)
        if context.unfinished is not None:
            return self._advance_unfinished(where, context.unfinished, events)
        state = evolve(context.state, events) if events else context.state
        if isinstance(submission.command, RemoveMessage):
            state = self._without(state, context.stored[submission.command.message_id])
        elif events and events[-1].type == SESSION_ERASED:
            self.finished.append(events[-1].stream)
        if state is not None and isinstance(submission.command, ForkSession):
            state = self._advance_fork(where, state, events)
        self.states[where] = state
        return state

    def _advance_unfinished(
        self, where: tuple[str, str], unfinished: Unfinished, events: Sequence[Event]
    ) -> SessionState | None:
        if events and events[-1].version >= unfinished.visible_at:
            self.finished.append(unfinished.stream)
            # Readers see it from now on: whoever asks next finds it in the views.
            self.states.pop(where, None)
            self._uncertain.add(where)
        return None

    def _advance_fork(
        self, where: tuple[str, str], state: SessionState, events: Sequence[Event]
    ) -> SessionState | None:
        """The state of a fork that was just begun, if that was all of it."""
        if state.is_finished:
            self.finished.append(state.stream)
            return state
        data = events[0].data
        if isinstance(data, SessionCreated) and data.forked_from is not None:
            source = self._find_stream(where[0], data.forked_from.session_id)
            self._unfinished[state.stream] = event_store.Unfinished(data.visible_at, source)
        return None

    def _without(self, state: SessionState | None, removed: StoredMessage) -> SessionState | None:
        """*state* behind the removal of a message: the newest that is left is the last one."""
        data = removed.event.data
        if state is None or not isinstance(data, MessageAppended):
            return state
        noted = self._messages(state.stream)
        noted[data.message.id] = msgspec.structs.replace(removed, removed=True)
        gone = {message_id for message_id, found in noted.items() if found.removed}
        newest: Event | None = None
        for found in noted.values():
            if not found.removed and (newest is None or found.event.version > newest.version):
                newest = found.event
        if newest is not None and isinstance(newest.data, MessageAppended):
            given = newest.data.message.created_at
            last_us = newest.recorded_at if given is UNSET else parse_us(given)
            return msgspec.structs.replace(state, last_message_at_us=last_us)
        last = message_rows.newest_visible_us(self._views.db, state.stream, passing_over=gone)
        return msgspec.structs.replace(state, last_message_at_us=last)
