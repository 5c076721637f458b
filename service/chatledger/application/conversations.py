"""The conversations that one caller can reach: reads and writes bound to its tenant, and its user (rule 8).

No handler holds a connection or a writer, only one of these or of `tenant_audit.py`'s; every query below it starts from
the tenant, and every session that it shows has passed `Reach.visible`.
"""

from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from chatledger.application.context import Reach, take
from chatledger.application.fork_copies import Copies, ForkPlan, plan_of
from chatledger.application.forks import Forks
from chatledger.domain.commands import Command, EraseSession, ForkSession
from chatledger.domain.documents import stored_message_document
from chatledger.domain.events import ForkedFrom, MessageAppended, SessionCreated, SessionErased
from chatledger.domain.messages import message_bytes
from chatledger.domain.session import SessionState, made
from chatledger.errors import Forbidden, InvalidRequest, NotFound
from chatledger.ledger import event_store, idempotency_store
from chatledger.ledger.idempotency_store import Answer, IdempotencyKey
from chatledger.reading.readers import NotShort, Readers
from chatledger.settings import Settings
from chatledger.storage.connection import Connection
from chatledger.views import as_of
from chatledger.writing import erasure
from chatledger.writing.command_group import Committed
from chatledger.writing.writer import Writer
from chatledger_projections import messages, sessions
from chatledger_projections.messages import Page

T = TypeVar("T")


class Written(msgspec.Struct, frozen=True, gc=False):
    """The answer to a command: the session's version and state behind it, and the messages that it names."""

    version: int
    state: SessionState | None
    messages: list[bytes] | None
    replayed: bool = False


class Erasure(msgspec.Struct, frozen=True, gc=False):
    """How a session was erased: when, why, by whom, at which version, and how many events lost their payloads.

    It is *scrubbed* once no copy can be in any file; else that is so by *scrub_by_us* (µs since the epoch).
    """

    erased_at_us: int
    reason: str
    actor: str
    version: int
    events: int
    scrubbed: bool
    scrub_by_us: int


class Erased(msgspec.Struct, frozen=True, gc=False):
    """An erased session, and the sessions that hold copies of what it said."""

    erasure: Erasure
    forks: list[str]
    replayed: bool


class SessionView(msgspec.Struct, frozen=True, gc=False):
    """A session and, if asked for, its newest messages, oldest first: their JSON, joined by commas."""

    state: SessionState
    messages: bytes
    has_earlier: bool


class Tenant:
    """One caller's conversations: made for each request."""

    def __init__(self, reach: Reach, *, settings: Settings, writer: Writer, readers: Readers, forks: Forks) -> None:
        self.tenant_id = reach.tenant_id
        self._forks = forks
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
        return await self._again(outcome.answer)

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

        def look(views: Connection, ledger_db: Connection) -> Erased:
            found = _erasure(ledger_db, self.tenant_id, session_id, self._settings)
            forks = sessions.forks(views, self.tenant_id, session_id)
            return Erased(found, forks, not isinstance(outcome, Committed))

        return await self._readers.run(look)

    async def erasure(self, session_id: str) -> Erasure:
        """What is known of a session's erasure.

        Raises:
            NotFound: the session was not erased, or never was.
        """
        return await self._readers.run(
            lambda _views, ledger_db: _erasure(ledger_db, self.tenant_id, session_id, self._settings)
        )

    async def replayed(self, key: IdempotencyKey) -> Written | None:
        """The first answer under *key*, or None where it is new.

        Raises:
            IdempotencyMismatch: the key came with another request before.
        """
        own = self._reach.own(key)
        answer = await self._readers.run(
            lambda _views, ledger_db: idempotency_store.find(ledger_db, self.tenant_id, own)
        )
        return None if answer is None else await self._again(answer)

    async def _again(self, answer: Answer) -> Written:
        """What is answered to the repeat of a request, whose first try may have left a fork unfinished."""
        if answer.positions is None:
            await self._finished(answer.stream)
        return await self._readers.run(lambda _views, ledger_db: _answer_again(ledger_db, answer))

    async def _finished(self, stream: int) -> None:
        """Wait until the session in *stream* is finished, if it is not."""
        if await self._readers.run(
            lambda _views, ledger_db: event_store.find_unfinished(ledger_db, stream) is not None
        ):
            await self._forks.finish(stream)

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
                wanted = event_store.version_at(ledger_db, now.stream, time_us)
            if not now.visible_at <= wanted <= now.version:
                raise NotFound("version of this session")
            past = as_of.replay(ledger_db, now.stream, to_version=wanted)
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

    async def plan_fork(self, source_id: str, *, version: int | None, title: str | None) -> ForkPlan:
        """What a fork of a session as of *version*, or as it is now, copies.

        Raises:
            NotFound: readers see no such session, or the caller's user did not have it at that version.
            InvalidRequest, TooLarge: it was never at that version, or is too large.
        """

        def query(views: Connection, ledger_db: Connection) -> ForkPlan:
            state = self._reach.visible(views, source_id)
            wanted = state.version if version is None else version
            if not state.visible_at <= wanted <= state.version:
                raise InvalidRequest(f"The session is at version {state.version}.", field="$.version")
            source = ForkedFrom(source_id, wanted)
            plan = plan_of(ledger_db, state.stream, source, title=title, settings=self._settings)
            if self.user_id not in {None, plan.created.user_id}:
                raise NotFound("session")
            return plan

        return await self._readers.run(query)

    async def fork(
        self,
        session_id: str,
        plan: ForkPlan,
        *,
        size_bytes: int,
        expected_version: int | None = None,
        idempotency_key: IdempotencyKey | None = None,
    ) -> Written:
        """Make the fork *session_id* by *plan*, and wait until readers see it.

        A long one is made in pieces. Once the first is there it goes on to its end, whoever waits for it.

        Raises:
            DomainError: it was refused, or the storage failed before anything was written.
        """
        copies = Copies(plan)
        messages = await self._readers.run(lambda _views, ledger_db: copies.piece(ledger_db))
        command = ForkSession(source=plan.source, created=plan.created, messages=messages, total=plan.total)
        copied_bytes = sum(map(message_bytes, messages))
        submission = self._reach.submission(session_id, command, expected_version, idempotency_key)
        outcome = await self._writer.submit(submission, size_bytes=size_bytes, copied_bytes=copied_bytes)
        if not isinstance(outcome, Committed):
            return await self._again(outcome.answer)
        if outcome.state is not None:
            return Written(outcome.version, outcome.state, None)

        def find(_views: Connection, ledger_db: Connection) -> int | None:
            return event_store.find_stream(ledger_db, self.tenant_id, session_id)

        stream = _found(await self._readers.run(find), "session")
        await self._forks.finish(stream)
        return await self._readers.run(lambda _views, ledger_db: _made(ledger_db, stream, replayed=False))


def _found(what: T | None, kind: str) -> T:
    """*what* was found.

    Raises:
        NotFound: it was not.
    """
    if what is None:
        raise NotFound(kind)
    return what


def _erasure(ledger_db: Connection, tenant_id: str, session_id: str, settings: Settings) -> Erasure:
    stream = event_store.find_stream(ledger_db, tenant_id, session_id)
    if stream is None:
        raise NotFound("session")
    version = event_store.version_of(ledger_db, stream)
    (last,) = event_store.read_stream(ledger_db, stream, after_version=version - 1)
    event, data = last.event, last.event.data
    if not isinstance(data, SessionErased):
        raise NotFound("erasure")
    scrubbed = erasure.is_scrubbed(ledger_db, event.position)
    scrub_by_us = event.recorded_at + settings.scrub_s * 1_000_000
    return Erasure(event.recorded_at, data.reason, event.actor, version, version - 1, scrubbed, scrub_by_us)


def _answer_again(ledger_db: Connection, answer: Answer) -> Written:
    """The first answer of a command, made from the ledger: what came later does not show in it."""
    if answer.positions is None:
        return _made(ledger_db, answer.stream, replayed=True, version=answer.version)
    documents = {}
    pending = event_store.pending_erasures(ledger_db)
    for record in map(pending.hide, event_store.read_positions(ledger_db, answer.positions)):
        if isinstance(record.event.data, MessageAppended):
            documents[record.event.position] = stored_message_document(record.event, record.event.data)
    if len(documents) < len(set(answer.positions)):
        raise NotFound("message")
    return Written(answer.version, None, [documents[position] for position in answer.positions], replayed=True)


def _made(ledger_db: Connection, stream: int, *, version: int = 1, replayed: bool) -> Written:
    """A session as it was when it was made; at *version*, or, of a fork, behind its last copy."""
    pending = event_store.pending_erasures(ledger_db)
    first = pending.hide(next(event_store.read_stream(ledger_db, stream, limit=1)))
    if isinstance(first.event.data, SessionCreated):
        version = max(version, first.event.data.visible_at)
    last = list(event_store.read_stream(ledger_db, stream, after_version=version - 1, limit=1))
    state = made(first.event, last[0].event) if last else None
    if state is None:  # erased, or given up unfinished
        raise NotFound("session")
    return Written(version, state, None, replayed)
