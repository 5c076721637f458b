"""The conversations that one caller can reach: reads and writes bound to its tenant, and its user (rule 8).

No handler holds a connection or a writer, only one of these or of `tenant_audit.py`'s; every query below it starts from
the tenant, and every session that it shows has passed `Reach.visible`.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from projections import history, messages, sessions
from projections.messages import Page
from service import erasure, idempotency, ledger
from service.clock import format_us
from service.commands import Command, EraseSession, ForkSession
from service.database import Connection
from service.documents import stored_message_document
from service.errors import Forbidden, InvalidRequest, NotFound, TooLarge
from service.events import SESSION_CREATED, Event, ForkedFrom, Message, MessageAppended, MessageRemoved, SessionCreated
from service.group import Committed
from service.idempotency import Answer, IdempotencyKey
from service.intake import message_bytes
from service.reach import Reach, take
from service.readers import NotShort, Readers
from service.settings import Settings
from service.state import NO_TRAITS, SessionState, evolve
from service.writer import Writer

T = TypeVar("T")


class Written(msgspec.Struct, frozen=True, gc=False):
    """The answer to a command: the session's version and state behind it, and the messages that it names."""

    version: int
    state: SessionState | None
    messages: list[bytes] | None
    replayed: bool = False


class Erased(msgspec.Struct, frozen=True, gc=False):
    """An erased session: the version of its last event, `session.erased`, and the sessions that hold copies."""

    version: int
    forks: list[str]
    replayed: bool


class SessionView(msgspec.Struct, frozen=True, gc=False):
    """A session and, if asked for, its newest messages, oldest first: their JSON, joined by commas."""

    state: SessionState
    messages: bytes
    has_earlier: bool


class Tenant:
    """One caller's conversations: made for each request."""

    def __init__(self, reach: Reach, *, settings: Settings, writer: Writer, readers: Readers) -> None:
        self.tenant_id = reach.tenant_id
        self.user_id = reach.caller.user_id
        self._reach = reach
        self._settings = settings
        self._writer = writer
        self._readers = readers

    def owner(self, given: str | None) -> str | None:
        """The user of a session to be made, where the request names *given*.

        Raises:
            Forbidden: the caller is a user, and names another one.
        """
        if self.user_id is None or given == self.user_id:
            return given
        if given is not None:
            raise Forbidden("A user's token can only create sessions of that user.")
        return self.user_id

    def check_owner(self, changed: str | UnsetType | None) -> None:
        """Refuse a change of a session's user to *changed* by a user.

        Raises:
            Forbidden: the caller is one.
        """
        if changed is not UNSET and self.user_id not in {None, changed}:
            raise Forbidden("A user's token cannot give a session to another user.")

    async def write(
        self,
        session_id: str,
        command: Command,
        *,
        size_bytes: int,
        copied_bytes: int = 0,
        expected_version: int | None = None,
        idempotency_key: IdempotencyKey | None = None,
    ) -> Written:
        """Hand *command* to the writer and wait until it is durable and readable.

        It comes from a body of *size_bytes*, and *copied_bytes* of it were read from the ledger.

        Raises:
            DomainError: it was refused, or the storage failed.
        """
        submission = self._reach.submission(session_id, command, expected_version, idempotency_key)
        outcome = await self._writer.submit(submission, size_bytes=size_bytes, copied_bytes=copied_bytes)
        if isinstance(outcome, Committed):
            return Written(outcome.version, outcome.state, outcome.messages)
        answer = outcome.answer
        return await self._readers.run(lambda _views, ledger_db: _answer_again(ledger_db, answer))

    async def erase(
        self,
        session_id: str,
        reason: str,
        *,
        size_bytes: int,
        expected_version: int | None = None,
        idempotency_key: IdempotencyKey | None = None,
    ) -> Erased:
        """Erase a session, and wait until its content is in no file any more.

        Raises:
            DomainError: it was refused, or the storage failed.
            ErasurePending: it is recorded, and will be finished later.
        """
        submission = self._reach.submission(session_id, EraseSession(reason), expected_version, idempotency_key)
        outcome = await self._writer.submit(submission, size_bytes=size_bytes)
        await self._writer.erased()

        def place(views: Connection, ledger_db: Connection) -> tuple[int, list[int]]:
            stream = ledger.find_stream(ledger_db, self.tenant_id, session_id)
            version = 0 if stream is None else ledger.version_of(ledger_db, stream)
            return version, erasure.positions_of(views, self.tenant_id, SESSION_CREATED)

        version, positions = await self._readers.run(place)
        forks: list[tuple[str, str]] = []
        for start in range(0, len(positions), erasure.POSITIONS_A_READ):
            part = positions[start : start + erasure.POSITIONS_A_READ]
            forks += await self._readers.run(_forks_among(part))
        return Erased(version, erasure.copies_of(session_id, forks), not isinstance(outcome, Committed))

    async def replayed(self, key: IdempotencyKey) -> Written | None:
        """The first answer under *key*, or None where it is new.

        Raises:
            IdempotencyMismatch: the key came with another request before.
        """

        def query(_views: Connection, ledger_db: Connection) -> Written | None:
            answer = idempotency.find(ledger_db, self.tenant_id, self._reach.own(key))
            return None if answer is None else _answer_again(ledger_db, answer)

        return await self._readers.run(query)

    async def version(self, session_id: str) -> int:
        """The session's version: what a reader who has one already is asked for.

        Raises:
            NotFound: readers see no such session.
        """
        named = self._reach.named(session_id)
        return await self._readers.run_short(lambda views: _found(sessions.version(views, named), "session"))

    async def session(self, session_id: str, *, newest: int) -> SessionView:
        """The session with its *newest* messages.

        Raises:
            NotFound: readers see no such session.
        """
        named = self._reach.named(session_id)

        def at_once(views: Connection) -> SessionView:
            state, documents = _found(messages.newest_at_once(views, named, newest), "session")
            return SessionView(state, self._short(documents), state.message_count > newest)

        def one_by_one(views: Connection, _ledger: Connection) -> SessionView:
            return self._view(views, self._reach.visible(views, session_id), newest)

        return await self._readers.run_short(at_once, one_by_one)

    async def session_as_of(
        self, session_id: str, *, newest: int, version: int | None = None, time_us: int | None = None
    ) -> SessionView:
        """The same answer as it was at *version*, or at the newest version recorded by *time_us*.

        Raises:
            NotFound: there was no such session then.
        """

        def query(views: Connection, ledger_db: Connection) -> SessionView:
            now = self._reach.visible(views, session_id)
            wanted = version or 0
            if time_us is not None:
                wanted = ledger.version_at(ledger_db, now.stream, time_us)
            if not 1 <= wanted <= now.version:
                raise NotFound("version of this session")
            past = history.replay(ledger_db, now.stream, to_version=wanted)
            try:
                return self._view(past, self._reach.visible(past, session_id), newest)
            finally:
                past.close()

        return await self._readers.run(query)

    def _view(self, views: Connection, state: SessionState, newest: int) -> SessionView:
        rows = messages.page(views, state, limit=newest + 1, newest_first=True)
        found, more = take(rows, newest, bytes_max=self._settings.page_bytes_max)
        return SessionView(state, b",".join(found[::-1]), more)

    def _short(self, documents: bytes) -> bytes:
        """*documents*, if they are a page whatever their number."""
        if len(documents) > self._settings.page_bytes_max:
            raise NotShort
        return documents

    async def sessions_page(
        self, *, user_id: str | None, archived: bool | None, before_position: int, limit: int
    ) -> list[SessionState]:
        """Up to *limit* sessions, last active first, from before a position on. To a user, nobody else has any."""
        if self.user_id is not None and user_id not in {None, self.user_id}:
            return []
        return await self._readers.run_short(
            lambda views: sessions.page(
                views,
                self.tenant_id,
                user_id=user_id if self.user_id is None else self.user_id,
                archived=archived,
                before_position=before_position,
                limit=limit,
            )
        )

    async def messages_page(
        self, session_id: str, *, after: int | None, before: int | None, limit: int, newest_first: bool
    ) -> Page:
        """Up to *limit* messages of a session between two numbers, exclusive."""
        named = self._reach.named(session_id)
        lowest = messages.FIRST if after is None else after
        highest = messages.LAST if before is None else before

        def at_once(views: Connection) -> Page:
            found = messages.page_at_once(
                views, named, after=lowest, before=highest, limit=limit, newest_first=newest_first
            )
            page = _found(found, "session")
            self._short(page.documents)
            return page

        def one_by_one(views: Connection, _ledger: Connection) -> Page:
            state = self._reach.visible(views, session_id)
            rows = messages.page(views, state, after=lowest, before=highest, limit=limit + 1, newest_first=newest_first)
            found, more = take(rows, limit, bytes_max=self._settings.page_bytes_max)
            return Page(state.version, b",".join(found), more)

        return await self._readers.run_short(at_once, one_by_one)

    async def message(self, session_id: str, message_id: str) -> tuple[int, bytes]:
        """The session's version and one message."""
        named = self._reach.named(session_id)

        def query(views: Connection) -> tuple[int, bytes]:
            version, document = _found(messages.find(views, named, message_id), "session")
            return version, _found(document, "message")

        return await self._readers.run_short(query)

    async def fork_of(self, source_id: str, *, version: int | None, title: str | None) -> ForkSession:
        """The command that copies a session as of *version*, or as it is now.

        Raises:
            NotFound: readers see no such session, or the caller's user did not have it at that version.
            InvalidRequest: it was never at that version, or has too many messages.
        """

        def query(views: Connection, ledger_db: Connection) -> ForkSession:
            state = self._reach.visible(views, source_id)
            wanted = state.version if version is None else version
            if not 1 <= wanted <= state.version:
                raise InvalidRequest(f"The session is at version {state.version}.", field="$.version")
            events = list(islice(_events(ledger_db, state.stream, wanted), self._settings.fork_events_max + 1))
            if len(events) > self._settings.fork_events_max:
                raise InvalidRequest(
                    f"The session has more than {self._settings.fork_events_max} events: too many to fork.",
                    field="$.version",
                )
            fork = _fork(ForkedFrom(source_id, wanted), events, title)
            if self.user_id not in {None, fork.created.user_id}:
                raise NotFound("session")
            if sum(map(message_bytes, fork.messages)) > self._settings.fork_bytes_max:
                raise TooLarge("session's messages", limit_bytes=self._settings.fork_bytes_max)
            return fork

        return await self._readers.run(query)


def _found(what: T | None, kind: str) -> T:
    """*what* was found.

    Raises:
        NotFound: it was not.
    """
    if what is None:
        raise NotFound(kind)
    return what


def _forks_among(positions: list[int]) -> Callable[[Connection, Connection], list[tuple[str, str]]]:
    return lambda _views, ledger_db: erasure.forks_among(ledger_db, positions)


def _events(ledger_db: Connection, stream: int, to_version: int) -> Iterator[Event]:
    return (record.event for record in ledger.read_stream(ledger_db, stream, to_version=to_version))


def _answer_again(ledger_db: Connection, answer: Answer) -> Written:
    """The first answer of a command, made from the ledger: what came later does not show in it."""
    if answer.positions is None:
        state = evolve(None, list(_events(ledger_db, answer.stream, answer.version)))
        if state is None:
            raise NotFound("session")
        return Written(answer.version, state, None, replayed=True)
    documents = {}
    for record in ledger.read_positions(ledger_db, answer.positions):
        if isinstance(record.event.data, MessageAppended):
            documents[record.event.position] = stored_message_document(record.event, record.event.data)
    if len(documents) < len(set(answer.positions)):
        raise NotFound("message")
    return Written(answer.version, None, [documents[position] for position in answer.positions], replayed=True)


def _fork(source: ForkedFrom, events: list[Event], title: str | None) -> ForkSession:
    state = evolve(None, events)
    if state is None:
        raise NotFound("version of this session")
    copies: dict[str, Message] = {}
    for event in events:
        data = event.data
        if isinstance(data, MessageAppended):
            # The copy says when the message was made, not when it was copied.
            made = data.message.created_at
            created_at = made if isinstance(made, str) else format_us(event.recorded_at)
            copies[data.message.id] = msgspec.structs.replace(data.message, created_at=created_at)
        elif isinstance(data, MessageRemoved):
            del copies[data.message_id]
    created = SessionCreated(
        user_id=state.user_id,
        title=state.title if title is None else title,
        traits=msgspec.UNSET if state.traits == NO_TRAITS else msgspec.Raw(state.traits),
        forked_from=source,
    )
    return ForkSession(source=source, created=created, messages=tuple(copies.values()))
