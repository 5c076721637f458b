"""Import: JSON lines, or the SQLite file of the CRUD store that chatledger replaces.

Each session is one run of events in one transaction, so that after an interruption a session is there whole or not at
all, and a second run passes over those that are. Both readers stream: one session is in memory at a time, and two
groups of them: the one that is committed, and the next.
"""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
from msgspec import UNSET

from service import database, ledger
from service.checkpointer import Checkpointer
from service.clock import format_us
from service.commands import CreateSession
from service.committer import Committer
from service.database import Connection
from service.errors import RefusedToStart, SessionExists
from service.events import Event, Message, MessageAppended, SessionCreated
from service.group import Committed, Submission
from service.import_crud import open_crud_store
from service.import_lines import Found, Rejected, Source, open_lines
from service.jsontext import same_json
from service.location import Location
from service.settings import Settings
from service.state import NO_TRAITS

ACTOR = "import"
GROUP_EVENTS = 5_000
"""Events that one ledger transaction takes: beyond a few thousand a larger group is no faster."""
GROUP_BYTES = 8 * 1024 * 1024
"""Bytes of messages that one ledger transaction takes: they are in memory several times over."""

_SQLITE_MAGIC = b"SQLite format 3\x00"


class Report(msgspec.Struct):
    """What an import did."""

    sessions: int = 0
    messages: int = 0
    present: int = 0
    rejected: int = 0


class _Group(msgspec.Struct):
    """What one transaction takes, and what was rejected on the way; `done` is how far the file was read then."""

    found: list[Found] = []
    rejected: list[Rejected] = []
    done: int = 0
    is_last: bool = False


def open_source(path: Path, settings: Settings, *, tenant_id: str) -> Source:
    """Look at the file's first bytes and choose the reader.

    Raises:
        RefusedToStart: it cannot be read, or is an SQLite file without the CRUD store's tables.
    """
    if os.path.realpath(path) == Location.of(settings).ledger:
        raise RefusedToStart(f"{path.name} is the ledger itself.")
    try:
        with path.open("rb") as file:
            magic = file.read(len(_SQLITE_MAGIC))
    except OSError as error:
        raise RefusedToStart(f"{path} cannot be read: {error.strerror}.") from error
    return (open_crud_store if magic == _SQLITE_MAGIC else open_lines)(path, settings, tenant_id)


def run(
    committer: Committer,
    source: Source,
    *,
    on_rejected: Callable[[Rejected], None],
    on_progress: Callable[[int], None],
    on_views: Callable[[int, int], None] | None = None,
) -> Report:
    """Import all of *source*. What is rejected takes nothing else with it.

    While a group is written, another thread reads the next one. If there is more than one, the views are left behind
    until all are there; *on_views* is then called with the position that they have reached, and that to reach.
    """
    report = Report()

    def reject(rejected: Rejected) -> None:
        report.rejected += 1
        on_rejected(rejected)

    with ThreadPoolExecutor(1, thread_name_prefix="import") as thread, ExitStack() as stack:
        groups = _Ahead(_groups(source), thread)
        group = groups.take()
        # What a projection of one's own refuses is not to be in the ledger: it has to see each group.
        if not group.is_last and committer.views.are_built_in:
            stack.enter_context(committer.views.left_behind(committer.ledger, on_views))
        checkpointer = stack.enter_context(_copying(committer))
        while True:
            for rejected in group.rejected:
                reject(rejected)
            _commit(committer, group.found, report, reject, groups.begin)
            on_progress(group.done)
            checkpointer.after_group(committer.ledger)
            if group.is_last:
                break
            group = groups.take()
    return report


@contextmanager
def _copying(committer: Committer) -> Iterator[Checkpointer]:
    """Have the ledger's log copied back beside the block and not in its commits; behind it, in them again."""
    checkpointer = Checkpointer(committer.location, committer.settings, committer.views)
    checkpointer.start()
    try:
        yield checkpointer
    finally:
        checkpointer.close()
        if committer.is_open:
            database.checkpoint_by_itself(committer.ledger, committer.settings)


class _Ahead:
    """The groups of a file, the next of which another thread reads from when it is told to begin.

    That is when the present one is decided. Until then both would only take the interpreter from each other, and what
    follows, SQLite's part, does not need it.
    """

    def __init__(self, groups: Iterator[_Group], thread: ThreadPoolExecutor) -> None:
        self._groups = groups
        self._thread = thread
        self._coming: Future[_Group] | None = None

    def begin(self) -> None:
        """Have the next one read, if it is not yet."""
        self._coming = self._begun()

    def take(self) -> _Group:
        """The next one, once it is read."""
        coming, self._coming = self._begun(), None
        return coming.result()

    def _begun(self) -> Future[_Group]:
        return self._coming or self._thread.submit(next, self._groups, _Group(is_last=True))


def _groups(source: Source) -> Iterator[_Group]:
    """The file in pieces that one transaction each takes. The last one may have nothing in it."""
    group, events, size_bytes = _Group(), 0, 0
    for item in source.items:
        events += 1
        if isinstance(item, Rejected):
            group.rejected.append(item)
        else:
            group.found.append(item)
            events += len(item.command.messages)
            size_bytes += item.size_bytes
        if events >= GROUP_EVENTS or size_bytes >= GROUP_BYTES:
            group.done = source.done()
            yield group
            group, events, size_bytes = _Group(), 0, 0
    group.done, group.is_last = source.done(), True
    yield group


def _commit(
    committer: Committer,
    group: list[Found],
    report: Report,
    reject: Callable[[Rejected], None],
    before_write: Callable[[], None],
) -> None:
    outcomes = committer.commit(
        [
            Submission(tenant_id=found.tenant_id, session_id=found.session_id, actor=ACTOR, command=found.command)
            for found in group
        ],
        before_write,
    )
    for found, outcome in zip(group, outcomes, strict=True):
        if isinstance(outcome, Committed):
            report.sessions += 1
            report.messages += len(found.command.messages)
        elif isinstance(outcome, SessionExists) and _is_present(committer.ledger, found):
            report.present += 1
        else:
            reject(Rejected(found.where, f"session {found.session_id}: {outcome}"))


def _is_present(connection: Connection, found: Found) -> bool:
    """Whether the ledger's session begins with just what the file has, whatever came after.

    An erased one counts as present: an import must not bring it back.
    """
    stream = ledger.find_stream(connection, found.tenant_id, found.session_id)
    if stream is None:
        return False
    command = found.command
    records = ledger.read_stream(connection, stream, to_version=1 + len(command.messages))
    events = [record.event for record in records]
    if events and events[0].data is None:
        return True
    return (
        len(events) == 1 + len(command.messages)
        and _same_session(events[0], command)
        and all(
            _same_message(event, message, has_id=has_id)
            for event, message, has_id in zip(events[1:], command.messages, found.has_ids, strict=True)
        )
    )


def _same_session(event: Event, command: CreateSession) -> bool:
    created = event.data
    if not isinstance(created, SessionCreated):
        return False
    # An export names the time at which a session was made here; the event itself names only a foreign one.
    created_at = created.created_at
    if created_at is None and command.created_at is not None:
        created_at = format_us(event.recorded_at)
    traits = NO_TRAITS if created.traits is UNSET else created.traits
    same = (created.user_id, created.title, created_at) == (command.user_id, command.title, command.created_at)
    return same and same_json(traits, command.traits)


def _same_message(event: Event, message: Message, *, has_id: bool) -> bool:
    if not isinstance(event.data, MessageAppended):
        return False
    stored = event.data.message
    if stored.created_at is UNSET and message.created_at is not UNSET:
        stored = msgspec.structs.replace(stored, created_at=format_us(event.recorded_at))
    wanted = message if has_id else msgspec.structs.replace(message, id=stored.id)
    return same_json(msgspec.json.encode(stored), msgspec.json.encode(wanted))
