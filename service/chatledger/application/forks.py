"""The forks whose making is under way: each goes on to its end, whoever has stopped waiting for it.

A client that goes away, a full disk or a stop of the service in the middle leave an unfinished fork. It is finished by
the next try here or the next start, or erased, where what it copies was erased meanwhile.
"""

import asyncio

import msgspec
import structlog

from chatledger.application.fork_copies import Copies, plan_of
from chatledger.domain.commands import Command, ContinueFork, EraseSession
from chatledger.domain.events import SessionCreated, SessionErased
from chatledger.domain.messages import message_bytes
from chatledger.errors import DomainError, NotFound, VersionConflict
from chatledger.ledger import event_store
from chatledger.reading.readers import Readers
from chatledger.settings import Settings
from chatledger.storage.connection import Connection
from chatledger.writing.command_group import Submission
from chatledger.writing.writer import Writer

log = structlog.get_logger("chatledger.forks")

PAUSE_S = 0.1
"""Before the second try in a row; twice as long before each further one."""
PAUSE_S_MAX = 10.0
UNFINISHED_IMPORT = "unfinished import"


class _Begun(msgspec.Struct, frozen=True):
    """An unfinished session: where it is, in whose name it is made, and its next copies from *version* on."""

    tenant_id: str
    session_id: str
    actor: str
    request_id: str | None
    version: int
    copies: Copies | None
    reason: str = ""
    """Why it is to be erased, where there is nothing to copy."""

    def envelope(self, command: Command) -> Submission:
        """*command* in the name of whoever began."""
        return Submission(
            tenant_id=self.tenant_id,
            session_id=self.session_id,
            actor=self.actor,
            command=command,
            request_id=self.request_id,
        )


class Forks:
    """Finishes them, each in a task of its own. For the event loop."""

    def __init__(self, settings: Settings, writer: Writer, readers: Readers) -> None:
        self._settings = settings
        self._writer = writer
        self._readers = readers
        self._tasks: dict[int, asyncio.Task[None]] = {}

    async def finish_all(self) -> None:
        """Begin with all that a stop has left unfinished; they go on beside."""
        for stream in await self._readers.run(lambda _views, ledger_db: event_store.unfinished_streams(ledger_db)):
            self._task(stream)

    async def finish(self, stream: int) -> None:
        """Wait until the session in *stream* is finished, or erased. Cancelling the wait does not stop it."""
        await asyncio.shield(self._task(stream))

    async def close(self) -> None:
        """Stop; the next start goes on."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _task(self, stream: int) -> "asyncio.Task[None]":
        task = self._tasks.get(stream)
        if task is None:
            task = self._tasks[stream] = asyncio.ensure_future(self._finish(stream))
            task.add_done_callback(lambda _: self._tasks.pop(stream, None))
        return task

    async def _finish(self, stream: int) -> None:
        pause_s = PAUSE_S
        while True:
            try:
                begun = await self._readers.run(lambda _views, ledger_db: _look(ledger_db, stream, self._settings))
                if begun is None:
                    return
                await self._go_on(begun)
            except (VersionConflict, NotFound):
                pause_s = PAUSE_S  # another worker goes on with it too, or it was erased: look again
            except DomainError as error:
                log.warning("fork not finished", reason=error.name, retry_s=pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, PAUSE_S_MAX)

    async def _go_on(self, begun: _Begun) -> None:
        """Add all that is left.

        Raises:
            DomainError: a piece could not be added.
        """
        copies, version = begun.copies, begun.version
        if copies is None:
            await self._writer.submit(begun.envelope(EraseSession(begun.reason)), size_bytes=0)
            return
        while messages := await self._readers.run(lambda _views, ledger_db: copies.piece(ledger_db)):
            command = ContinueFork(messages=messages, version=version)
            copied_bytes = sum(map(message_bytes, messages))
            await self._writer.submit(begun.envelope(command), size_bytes=0, copied_bytes=copied_bytes)
            version += len(messages)


def _look(ledger_db: Connection, stream: int, settings: Settings) -> _Begun | None:
    """What is to be done for the session in *stream*; None where it is finished or erased."""
    if event_store.find_unfinished(ledger_db, stream) is None or event_store.is_erased(ledger_db, stream):
        return None
    (first,) = event_store.read_stream(ledger_db, stream, limit=1)
    event, data = first.event, first.event.data
    if not isinstance(data, SessionCreated):
        raise TypeError("an unfinished session begins with its creation")
    version = event_store.version_of(ledger_db, stream)
    if version >= data.visible_at:
        return None
    copies, reason = None, UNFINISHED_IMPORT
    if data.forked_from is not None:
        source = event_store.find_stream(ledger_db, event.tenant_id, data.forked_from.session_id)
        if source is None:
            raise NotFound("session")
        reason = _reason_of_erasure(ledger_db, source)
        if not reason:
            copies = Copies(plan_of(ledger_db, source, data.forked_from, title=None, settings=settings))
            copies.skip(ledger_db, version - 1)
    return _Begun(event.tenant_id, event.session_id, event.actor, event.request_id, version, copies, reason)


def _reason_of_erasure(ledger_db: Connection, stream: int) -> str:
    """Why the session in *stream* was erased; empty where it was not."""
    if not event_store.is_erased(ledger_db, stream):
        return ""
    (last,) = event_store.read_stream(ledger_db, stream, after_version=event_store.version_of(ledger_db, stream) - 1)
    return last.event.data.reason if isinstance(last.event.data, SessionErased) else ""
