"""Import: JSON lines, or the SQLite file of the CRUD store that chatledger replaces.

Each session is one run of events in one transaction, so that after an interruption a session is there whole or not at
all, and a second run passes over those that are. Both readers stream: one session is in memory at a time, and two
groups of them: the one that is committed, and the next.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import msgspec

from chatledger.errors import Overloaded, RefusedToStart, SessionExists
from chatledger.settings import Settings
from chatledger.storage import wal
from chatledger.storage.files import OwnFiles
from chatledger.storage.paths import Location, check_name
from chatledger.storage.sql_errors import SQLError
from chatledger.transfer.crud_import import open_crud_store
from chatledger.transfer.existing_sessions import missing
from chatledger.transfer.import_file import open_input
from chatledger.transfer.json_lines import Found, Item, Rejected, Source, open_lines
from chatledger.writing.checkpointer import Checkpointer
from chatledger.writing.command_group import Committed, Outcome, Submission
from chatledger.writing.committer import Committer

ACTOR = "import"
GROUP_EVENTS = 5_000
"""Events that one ledger transaction takes: beyond a few thousand a larger group is no faster."""
GROUP_BYTES = 8 * 1024 * 1024
"""Bytes of messages that one ledger transaction takes: they are in memory several times over."""


class Report(msgspec.Struct):
    """What an import did. `failure` is why it ended before the file did, if so."""

    sessions: int = 0
    messages: int = 0
    present: int = 0
    rejected: int = 0
    failure: RefusedToStart | None = None


class _Group(msgspec.Struct):
    """What one transaction takes, and what was rejected on the way; `done` is how far the file was read then."""

    found: list[Found] = []
    rejected: list[Rejected] = []
    done: int = 0
    is_last: bool = False
    failure: RefusedToStart | None = None


def open_source(path: Path, settings: Settings, *, tenant_id: str) -> Source:
    """Look at the first bytes of the file, or of standard input where *path* is `-`, and choose the reader.

    `run` closes it; so does whoever does not come to that.

    Raises:
        RefusedToStart: it cannot be read, is one of the ledger's files, or no file of sessions.
    """
    file = open_input(path, OwnFiles.of(Location.of(settings), settings))
    try:
        if file.path is None:
            return open_lines(file, settings, tenant_id)
    except BaseException:
        file.close()
        raise
    file.close()  # before SQLite opens it: closing another handle later would drop its locks
    check_name(str(file.path))
    return open_crud_store(file.path, settings, tenant_id)


def run(
    committer: Committer,
    source: Source,
    *,
    on_rejected: Callable[[Rejected], None],
    on_progress: Callable[[int], None],
    on_views: Callable[[int, int], None] | None = None,
) -> Report:
    """Import all of *source*, and close it. What is rejected takes nothing else with it.

    While a group is written, another thread reads the next one. If there is more than one, the views are left behind
    until all are there; *on_views* is then called with the position that they have reached, and that to reach.

    Returns:
        What it did. Where the file could not be read to its end, all that was read before is imported.
    """
    report = Report()

    def reject(rejected: Rejected) -> None:
        report.rejected += 1
        on_rejected(rejected)

    with (
        closing(source),
        ThreadPoolExecutor(1, thread_name_prefix="import") as thread,
        ExitStack() as stack,
    ):
        stack.callback(source.stop)  # else an interruption would wait for a pipe that has nothing to say
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
                report.failure = group.failure
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
            wal.enable_autocheckpoint(committer.ledger, committer.settings)


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
    failures: list[RefusedToStart] = []
    for item in _until_failure(source, failures):
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
    group.done, group.is_last, group.failure = source.done(), True, next(iter(failures), None)
    yield group


def _until_failure(source: Source, failures: list[RefusedToStart]) -> Iterator[Item]:
    """The items that can be read; why there are no more goes into *failures*, where that is not the file's end."""
    try:
        yield from source.items
    except RefusedToStart as failure:
        failures.append(failure)


def _outcomes(
    committer: Committer, submissions: Sequence[Submission], before_write: Callable[[], None]
) -> Sequence[Outcome]:
    """Commit a group; where a projection of one's own fails at it, each session by itself, to find the one to blame."""
    try:
        return committer.commit(submissions, before_write)
    except (Overloaded, SQLError) as error:
        if not committer.views.is_to_blame(error):
            raise
        if len(submissions) == 1:
            return [Overloaded(f"A projection refuses it ({error.__cause__ or error}).")]
    return [outcome for each in submissions for outcome in _outcomes(committer, [each], lambda: None)]


def _commit(
    committer: Committer,
    group: list[Found],
    report: Report,
    reject: Callable[[Rejected], None],
    before_write: Callable[[], None],
) -> None:
    outcomes = _outcomes(
        committer,
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
            continue
        reason = (
            missing(committer.ledger, found) if isinstance(outcome, SessionExists) else f"cannot be taken: {outcome}"
        )
        if reason is None:
            report.present += 1
        else:
            reject(Rejected(found.where, f"session {found.session_id} {reason}"))
