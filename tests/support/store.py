"""The service without HTTP: a ledger, its views and one writer on real files, driven by the test's thread."""

from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import msgspec

from chatledger.application.audit import TenantAudit
from chatledger.application.context import Reach
from chatledger.application.conversations import Tenant
from chatledger.application.forks import Forks
from chatledger.domain.access import OPEN, Caller
from chatledger.domain.commands import (
    AppendMessages,
    Command,
    CreateSession,
    DeleteSession,
    RemoveMessage,
    UpdateSession,
)
from chatledger.domain.events import Message, SessionChanges
from chatledger.domain.messages import MessageInput, accept_message
from chatledger.domain.session import SessionState
from chatledger.errors import DomainError
from chatledger.ledger import event_store
from chatledger.ledger.idempotency_store import IdempotencyKey
from chatledger.proofs.signed_heads import make_first_key
from chatledger.reading.readers import NotShort
from chatledger.settings import Settings
from chatledger.storage.connection import Connection
from chatledger.storage.paths import Location, exclusive
from chatledger.views.live_views import Views
from chatledger.writing import erasure
from chatledger.writing.command_group import Committed, Outcome, Replayed, Submission
from chatledger.writing.committer import Committer
from chatledger_projections.projection import Projection

if TYPE_CHECKING:
    from chatledger.reading.readers import Readers
    from chatledger.writing.writer import Writer

T = TypeVar("T")


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return cast("T", end.value)
    coroutine.close()
    raise AssertionError("the coroutine waits for something")


class _InlineReaders:
    """`Readers` with the writer's connections and no thread."""

    def __init__(self, store: "Store") -> None:
        self._store = store

    async def run(self, query: Callable[[Connection, Connection], T]) -> T:
        return query(self._store.views.db, self._store.committer.ledger)

    async def run_short(
        self, query: Callable[[Connection], T], otherwise: Callable[[Connection, Connection], T] | None = None
    ) -> T:
        """Both, where there are two: they have to find the same, or refuse in the same words."""
        if otherwise is None:
            return query(self._store.views.db)
        expected, at_once = await _settled(self.run(otherwise)), await _settled(_called(query, self._store.views.db))
        assert isinstance(at_once, NotShort) or repr(at_once) == repr(expected)
        if isinstance(expected, Exception):
            raise expected
        return expected


async def _called(query: Callable[[Connection], T], views: Connection) -> T:
    return query(views)


async def _settled(coroutine: Coroutine[Any, Any, T]) -> T | DomainError | NotShort:
    """What it returned or raised."""
    try:
        return await coroutine
    except (DomainError, NotShort) as error:
        return error


class _InlineWriter:
    """`Writer` with groups of one command and no thread."""

    def __init__(self, store: "Store") -> None:
        self._store = store

    async def submit(self, submission: Submission, *, size_bytes: int, copied_bytes: int = 0) -> Committed | Replayed:
        del size_bytes, copied_bytes
        (outcome,) = self._store.commit(submission)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


class _InlineForks(Forks):
    """`Forks` without tasks."""

    def __init__(self, store: "Store") -> None:
        readers, writer = cast("Readers", _InlineReaders(store)), cast("Writer", _InlineWriter(store))
        super().__init__(store.settings, writer, readers)

    async def finish(self, stream: int) -> None:
        await self._finish(stream)


class Store:
    """A ledger and its views, opened as a server opens them. A context manager; can be opened again."""

    def __init__(self, path: Path, *, projections: Sequence[Projection] = (), **settings: Any) -> None:
        self.settings = Settings(database_path=str(path), **settings)
        self.location = Location.of(self.settings)
        self.projections = projections
        self.rebuilt: str | None = None
        self._stack = ExitStack()

    def open(self) -> Self:
        """Open the ledger, then the views; `rebuilt` says why these were built anew."""
        with ExitStack() as stack:
            stack.enter_context(exclusive(self.location))
            self.views = Views(self.location, self.settings, self.projections)
            self.committer = Committer(self.location, self.settings, self.views)
            stack.callback(self.committer.close)
            self.committer.open()
            identity, events = event_store.identity(self.ledger), event_store.head(self.ledger).position
            make_first_key(self.location, self.settings, identity, events=events)
            self.rebuilt = self.views.open(self.committer.ledger)
            self._stack = stack.pop_all()
        return self

    def close(self) -> None:
        """Close both files."""
        self._stack.close()

    @property
    def ledger(self) -> Connection:
        """The ledger's writing connection."""
        return self.committer.ledger

    @property
    def views_path(self) -> Path:
        """The file of the views."""
        return Path(self.views.name)

    def commit(self, *submissions: Submission) -> list[Outcome]:
        """Commit a group."""
        return self.committer.commit(submissions)

    def commit_all(self, *submissions: Submission) -> list[Committed]:
        """Commit a group of which nothing may be refused."""
        outcomes = self.commit(*submissions)
        for outcome in outcomes:
            assert isinstance(outcome, Committed), outcome
        return cast("list[Committed]", outcomes)

    def tenant(self, tenant_id: str = "default", caller: Caller = OPEN) -> Tenant:
        """What a caller of that tenant can do; its coroutines wait for nothing (see `run`)."""
        return Tenant(
            Reach(caller, tenant_id, "test"),
            settings=self.settings,
            writer=cast("Writer", _InlineWriter(self)),
            readers=cast("Readers", _InlineReaders(self)),
            forks=cast("Forks", _InlineForks(self)),
        )

    def finish_erasures(self) -> None:
        """What the writer does behind the group."""
        erasure.finish_now(self.committer)

    def finish_forks(self) -> None:
        """What goes on beside the requests."""
        for stream in event_store.unfinished_streams(self.ledger):
            run(_InlineForks(self).finish(stream))

    def audit(self, tenant_id: str = "default") -> TenantAudit:
        """What an auditor of that tenant can see."""
        readers = cast("Readers", _InlineReaders(self))
        return TenantAudit(Reach(OPEN, tenant_id, "test"), settings=self.settings, readers=readers)

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, *_: object) -> None:
        self.close()


def message(message_id: str | None = None, content: object = "Hello", **fields: object) -> Message:
    """A user's message, as it comes out of the intake."""
    given = {"role": "user", "content": content, **fields}
    if message_id is not None:
        given["id"] = message_id
    return accept_message(msgspec.json.decode(msgspec.json.encode(given), type=MessageInput), field="$")


def submit(
    session_id: str,
    command: Command,
    *,
    tenant: str = "default",
    if_match: int | None = None,
    key: IdempotencyKey | None = None,
) -> Submission:
    """*command* in its envelope."""
    return Submission(
        tenant_id=tenant,
        session_id=session_id,
        actor="open",
        command=command,
        request_id="test",
        expected_version=if_match,
        idempotency_key=key,
    )


def create(session_id: str, *messages: Message, tenant: str = "default", **members: Any) -> Submission:
    """Make a session."""
    return submit(session_id, CreateSession(messages=messages, **members), tenant=tenant)


def append(session_id: str, *messages: Message, tenant: str = "default") -> Submission:
    """Add messages."""
    return submit(session_id, appending(messages), tenant=tenant)


def appending(messages: Sequence[Message]) -> AppendMessages:
    """The command for messages whose ids the client has chosen."""
    parents = [each.parent_id for each in messages if isinstance(each.parent_id, str)]
    return AppendMessages(messages, [*(each.id for each in messages), *parents])


def remove(session_id: str, message_id: str, *, tenant: str = "default") -> Submission:
    """Remove a message."""
    return submit(session_id, RemoveMessage(message_id), tenant=tenant)


def delete(session_id: str, *, tenant: str = "default") -> Submission:
    """Delete a session."""
    return submit(session_id, DeleteSession(), tenant=tenant)


def update(session_id: str, *, tenant: str = "default", **changes: object) -> Submission:
    """Change a session's members by a merge patch."""
    return submit(session_id, UpdateSession(changes_of(changes), accept_any), tenant=tenant)


def changes_of(patch: dict[str, object]) -> SessionChanges:
    """A merge patch, as it comes from a request."""
    return msgspec.json.decode(msgspec.json.encode(patch), type=SessionChanges)


def accept_any(state: SessionState) -> None:
    """No limit on a session's members."""
    del state
